// SPDX-License-Identifier: MIT
/// `writable_view`: the mutable counterpart of `row_view`.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// Rows that may be written, in any type and layout but `decoded`.
///
/// A `row_view` forgets whether its memory was const. Whoever makes a writable one of it vouches
/// that neither the numbers nor their scales are, that scales with strides other than 0 are those
/// of these columns alone, and that they are no numbers' memory. Rows that share memory are found
/// by whoever writes them.
///
///     auto v = llama_cpp_head(cache, head, tokens);   // any row_view
///     if (v) store_rows(fitted->values, writable_view(*v));
class writable_view {
 public:
  explicit writable_view(const row_view& view) noexcept : view_(view) {}

  /// rows × cols numbers of raw memory; consecutive rows are `row_stride` elements apart.
  template <storable T>
  requires(!std::is_const_v<T>)
      writable_view(T* data, index_t rows, index_t cols, index_t row_stride, index_t col_stride = 1)
  noexcept : view_(data, rows, cols, row_stride, col_stride) {}

  [[nodiscard]] index_t rows() const noexcept { return view_.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return view_.cols(); }
  [[nodiscard]] dtype type() const noexcept { return view_.type(); }
  /// The same rows, to be read.
  [[nodiscard]] const row_view& view() const noexcept { return view_; }

 private:
  row_view view_;
};

}  // namespace kvfit
