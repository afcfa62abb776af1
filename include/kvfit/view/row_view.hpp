// SPDX-License-Identifier: MIT
/// `row_view`: rows of a cache where they lie, without owning them.
#pragma once

#include <Eigen/Core>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <limits>
#include <ranges>
#include <type_traits>
#include <utility>

#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/row_memory.hpp"

namespace kvfit {

namespace detail {

template <class Derived>
std::true_type is_eigen(const Eigen::DenseBase<Derived>&);
template <class Derived>
std::true_type is_plain(const Eigen::PlainObjectBase<Derived>&);

// clang-format off
/// An Eigen object that lies in memory as it is (matrix, map, block, transpose), not a formula.
template <class M>
concept eigen_in_memory = requires(const std::remove_cvref_t<M>& m) {
  is_eigen(m);
  m.data();
  { m.rowStride() } -> std::convertible_to<Eigen::Index>;
  requires storable<typename std::remove_cvref_t<M>::Scalar>;
};

template <class Plain, int Options, class Stride>
std::true_type is_const_ref(const Eigen::Ref<const Plain, Options, Stride>&);

/// A matrix, or a reference to const, which may hold a copy.
template <class M>
concept owns_memory = requires(const std::remove_cvref_t<M>& m) { is_plain(m); } ||
                      requires(const std::remove_cvref_t<M>& m) { is_const_ref(m); };

/// A matrix that would be gone by the end of the statement.
template <class M>
concept dying_matrix = std::is_rvalue_reference_v<M&&> && owns_memory<M>;
// clang-format on

}  // namespace detail

/// A non-owning view of rows × cols numbers, whatever their type and layout.
///
/// Of a plain view, element (i, j) lies at `data + i · row_stride + j · col_stride`, strides
/// counted in elements and free to be zero or negative. Others are windows onto a `row_memory`:
/// rows by number or in pages, quantised blocks, int8 and fp8 with scales, rows that the caller
/// decodes.
/// Memory, tables and scales must outlive the view; nothing is ever copied: a temporary matrix, or
/// an expression such as `A + B`, does not convert and so does not compile.
///
///     row_view keys = eigen_matrix;                               // lvalues, maps, blocks
///     row_view values(half_pointer, tokens, head_dim, row_stride);  // raw memory
///     row_view v_t = row_view(v_pointer, head_dim, tokens).transposed();
///     auto paged = make_paged_view(memory, table, page);          // view/make_view.hpp
class row_view {
 public:
  row_view() = default;

  /// rows × cols elements from raw memory; consecutive rows are `row_stride` elements apart.
  template <storable T>
  row_view(const T* data, index_t rows, index_t cols, index_t row_stride,
           index_t col_stride = 1) noexcept
      : row_view(static_cast<const void*>(data), dtype_of<T>, rows, cols, row_stride, col_stride) {}

  /// rows × cols elements, row-major without gaps.
  template <storable T>
  row_view(const T* data, index_t rows, index_t cols) noexcept : row_view(data, rows, cols, cols) {}

  /// The same for a type known only at run time: a number or a block type. Of blocks, one stride is
  /// 1 and the other a multiple of 32.
  row_view(const void* data, dtype type, index_t rows, index_t cols, index_t row_stride,
           index_t col_stride = 1) noexcept
      : row_view(row_memory{.data = data,
                            .type = type,
                            .rows = rows,
                            .cols = cols,
                            .row_stride = row_stride,
                            .col_stride = col_stride}) {
    assert(is_number(type) || is_block(type));
  }

  /// All of `memory`, unchecked; `make_view` checks.
  explicit row_view(const row_memory& memory) noexcept
      : memory_(memory), rows_(memory.rows), cols_(memory.cols), is_plain_(memory.is_plain()) {}

  // clang-format off
  /// An Eigen matrix, map, block or transpose, of either storage order.
  template <class M>
  requires(detail::eigen_in_memory<M> && !detail::dying_matrix<M>)
  row_view(M&& m) noexcept  // NOLINT(*-explicit-*, *-forwarding-*)
      : row_view(m.data(), m.rows(), m.cols(), m.rowStride(), m.colStride()) {}
  // clang-format on

  [[nodiscard]] index_t rows() const noexcept { return rows_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] dtype type() const noexcept { return memory_.type; }
  [[nodiscard]] const void* data() const noexcept { return memory_.data; }
  [[nodiscard]] bool empty() const noexcept { return rows_ <= 0 || cols_ <= 0; }

  /// Whether two strides say all: a number type without scales, rows neither listed nor paged.
  [[nodiscard]] bool is_plain() const noexcept { return is_plain_; }
  /// Whether memory, table, scales or decoder are there.
  [[nodiscard]] bool is_backed() const noexcept { return memory_.is_backed(); }

  /// Of a plain view.
  [[nodiscard]] index_t row_stride() const noexcept {
    assert(is_plain_);
    return memory_.row_stride;
  }
  [[nodiscard]] index_t col_stride() const noexcept {
    assert(is_plain_);
    return memory_.col_stride;
  }

  /// Element (i, j) as fp32: exact, but for the product with a scale (int8, fp8), rounded once.
  [[nodiscard]] float operator()(index_t i, index_t j) const noexcept {
    if (!is_plain_) return element_elsewhere(i, j);
    const std::byte* at = address(i, j);
    switch (type()) {
      case dtype::fp16:
        return to_float(*reinterpret_cast<const fp16*>(at));
      case dtype::bf16:
        return to_float(*reinterpret_cast<const bf16*>(at));
      case dtype::fp8_e4m3:
        return to_float(*reinterpret_cast<const fp8_e4m3*>(at));
      case dtype::fp8_e5m2:
        return to_float(*reinterpret_cast<const fp8_e5m2*>(at));
      default:
        break;
    }
    return *reinterpret_cast<const float*>(at);
  }

  /// Where element (i, j) of a plain view lies.
  [[nodiscard]] const std::byte* address(index_t i, index_t j) const noexcept {
    assert(is_plain_);
    assert(i >= 0 && i < rows_ && j >= 0 && j < cols_);
    return static_cast<const std::byte*>(memory_.data) +
           (i * memory_.row_stride + j * memory_.col_stride) *
               static_cast<index_t>(size_of(memory_.type));
  }

  /// Rows and columns exchanged.
  [[nodiscard]] row_view transposed() const noexcept {
    row_view view = *this;
    std::swap(view.rows_, view.cols_);
    if (is_plain_) {
      std::swap(view.memory_.row_stride, view.memory_.col_stride);
    } else {
      view.window_.is_transposed = !window_.is_transposed;
    }
    return view;
  }

  /// Rows first … first + count − 1.
  [[nodiscard]] row_view middle_rows(index_t first, index_t count) const noexcept {
    assert(first >= 0 && count >= 0 && first + count <= rows_);
    return stepped_rows(first, 1, count);
  }

  /// Columns first … first + count − 1.
  [[nodiscard]] row_view middle_cols(index_t first, index_t count) const noexcept {
    return transposed().middle_rows(first, count).transposed();
  }

  /// Rows first, first + step, first + 2 · step, … as far as there are any; step ≥ 1.
  [[nodiscard]] row_view every_row(index_t first, index_t step) const noexcept {
    assert(first >= 0 && step >= 1);
    return stepped_rows(first, step, first < rows_ ? (rows_ - first - 1) / step + 1 : 0);
  }

  /// What lies between a view that is not plain and its memory.
  struct window {
    index_t first_row = 0;  ///< of the memory
    index_t row_step = 1;
    index_t first_col = 0;
    index_t col_step = 1;
    bool is_transposed = false;  ///< the view's rows are columns of the memory
  };
  /// For those who decode: element (i, j) of a view that is not plain is element
  /// (first_row + i · row_step, first_col + j · col_step) of the memory, or with i and j exchanged.
  [[nodiscard]] const row_memory& memory() const noexcept { return memory_; }
  [[nodiscard]] const window& where() const noexcept { return window_; }

 private:
  [[nodiscard]] float element_elsewhere(index_t i, index_t j) const noexcept {
    assert(i >= 0 && i < rows_ && j >= 0 && j < cols_);
    if (window_.is_transposed) std::swap(i, j);
    return element(memory_, window_.first_row + i * window_.row_step,
                   window_.first_col + j * window_.col_step);
  }

  [[nodiscard]] row_view stepped_rows(index_t first, index_t step, index_t count) const noexcept {
    row_view view = *this;
    view.rows_ = count;
    // What means nothing, the stride of a single row say, may be too large to be multiplied.
    if (count <= 1) step = 1;
    if (count == 0) first = 0;
    if (is_plain_) {
      if (count > 0 && cols_ > 0) view.memory_.data = address(first, 0);
      view.memory_.row_stride *= step;
    } else if (window_.is_transposed) {
      view.window_.first_col += first * window_.col_step;
      view.window_.col_step *= step;
    } else {
      view.window_.first_row += first * window_.row_step;
      view.window_.row_step *= step;
    }
    return view;
  }

  row_memory memory_;  // of a plain view: strides and start are the view's own, and the window none
  window window_;
  index_t rows_ = 0;
  index_t cols_ = 0;
  bool is_plain_ = true;
};

static_assert(std::is_trivially_copyable_v<row_view>);

// clang-format off
/// A row-major view of a contiguous range (`std::span`, `std::vector`, `std::array`), whose length
/// must be rows × cols; otherwise `shape_mismatch`. A temporary container does not compile.
template <std::ranges::contiguous_range Range>
  requires(storable<std::ranges::range_value_t<Range>> && std::ranges::sized_range<Range> &&
           (std::is_lvalue_reference_v<Range> ||
            std::ranges::enable_borrowed_range<std::remove_cvref_t<Range>>))
result<row_view> make_view(Range&& elements, index_t rows, index_t cols) {
  // clang-format on
  const auto length = static_cast<index_t>(std::ranges::size(elements));
  constexpr index_t most = (std::numeric_limits<index_t>::max)();
  const bool is_product = rows >= 0 && cols >= 0 && (cols == 0 || rows <= most / cols);
  if (!is_product || rows * cols != length) {
    return error{errc::shape_mismatch, "elements", length, is_product ? rows * cols : error::none,
                 "length must be rows x cols"};
  }
  return row_view(std::ranges::data(elements), rows, cols);
}

}  // namespace kvfit
