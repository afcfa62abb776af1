// SPDX-License-Identifier: MIT
/// `row_map`: which place of memory holds row i of a sequence.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// Rows one after the other, by a list of numbers, or in pages by a block table.
///
/// Row i lies in slot i, in slot rows[i], or in slot i mod page_size of page
/// table[i / page_size]; slots are one row stride apart, pages `page_stride` elements. Lists and
/// tables stay the caller's and must outlive whatever holds the map; entries are not checked here
/// (view/make_view.hpp does).
class row_map {
 public:
  row_map() = default;

  /// Row i is memory row rows[i]: in any order, repeated or not.
  static row_map listed(const index_t* rows) noexcept { return {kind::listed, rows, 1, 0}; }

  /// Pages of `page_size` ≥ 1 rows, `page_stride` elements apart; entries of 32 or 64 bits.
  static row_map paged(const std::int32_t* table, index_t page_size, index_t page_stride) noexcept {
    return {kind::paged_32, table, page_size, page_stride};
  }
  static row_map paged(const index_t* table, index_t page_size, index_t page_stride) noexcept {
    return {kind::paged_64, table, page_size, page_stride};
  }

  /// Row i is memory row i.
  [[nodiscard]] bool is_strided() const noexcept { return kind_ == kind::strided; }
  [[nodiscard]] bool is_listed() const noexcept { return kind_ == kind::listed; }
  [[nodiscard]] bool is_paged() const noexcept { return kind_ >= kind::paged_32; }
  [[nodiscard]] index_t page_size() const noexcept { return page_size_; }
  [[nodiscard]] index_t page_stride() const noexcept { return page_stride_; }
  /// False where rows are looked up in a table that is not there.
  [[nodiscard]] bool has_table() const noexcept { return is_strided() || table_ != nullptr; }

  /// The slot of row i, counted through all pages: page · page_size + its place there.
  [[nodiscard]] index_t slot(index_t i) const noexcept {
    if (is_paged()) return page(i / page_size_) * page_size_ + i % page_size_;
    return is_listed() ? static_cast<const index_t*>(table_)[i] : i;
  }

  /// How far row i lies from the start of memory, in elements, where slots are `stride` and pages
  /// `page_stride` apart and `group` consecutive slots share an element.
  [[nodiscard]] index_t offset(index_t i, index_t stride, index_t page_stride,
                               index_t group = 1) const noexcept {
    const auto shared = [group](index_t slot) { return group == 1 ? slot : slot / group; };
    if (is_paged()) return page(i / page_size_) * page_stride + shared(i % page_size_) * stride;
    return shared(slot(i)) * stride;
  }

  /// Of rows i … i + most − 1, how many from the first on lie in consecutive slots; most ≥ 1.
  [[nodiscard]] index_t run(index_t i, index_t most) const noexcept {
    if (is_strided()) return most;
    if (is_paged()) return (std::min)(most, page_size_ - i % page_size_);
    index_t count = 1;
    while (count < most && slot(i + count) == slot(i) + count) ++count;
    return count;
  }

 private:
  enum class kind : std::uint8_t { strided, listed, paged_32, paged_64 };

  row_map(kind how, const void* table, index_t page_size, index_t page_stride) noexcept
      : table_(table), page_size_(page_size), page_stride_(page_stride), kind_(how) {}

  [[nodiscard]] index_t page(index_t p) const noexcept {
    if (kind_ == kind::paged_32) return static_cast<const std::int32_t*>(table_)[p];
    return static_cast<const index_t*>(table_)[p];
  }

  const void* table_ = nullptr;
  index_t page_size_ = 1;
  index_t page_stride_ = 0;
  kind kind_ = kind::strided;
};

}  // namespace kvfit
