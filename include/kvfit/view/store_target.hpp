// SPDX-License-Identifier: MIT
/// Where rows are to be written, and whether they can be. Include kvfit/view/store.hpp.
#pragma once

#include <cstddef>
#include <string>

#include "kvfit/core/config.hpp"
#include "kvfit/core/quantised.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/shared_elements.hpp"
#include "kvfit/view/writable_view.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The memory behind a view that is written to, with its own rows and columns: those of a
/// transposed view are the columns and rows of what is written.
class store_target {
 public:
  /// rows, cols: of what is written.
  store_target(const writable_view& target, index_t rows, index_t cols)
      : memory_(target.view().memory()) {
    const row_view& view = target.view();
    const row_view::window& where = view.where();
    is_transposed_ = where.is_transposed;
    rows_ = {where.first_row, where.row_step, is_transposed_ ? cols : rows};
    cols_ = {where.first_col, where.col_step, is_transposed_ ? rows : cols};
    if (view.is_plain()) {  // whose strides are its own
      memory_.rows = rows_.count;
      memory_.cols = cols_.count;
    }
  }

  /// Whether blocks and groups lie in the target as a whole.
  [[nodiscard]] result<void> check_borders() const {
    if (is_block(memory_.type)) {
      if (memory_.col_stride == 1) return check_whole(cols_, block_length, false, "columns");
      if (const auto ok = check_consecutive_rows(block_length); !ok) return ok;
      return check_whole(rows_, block_length, false, "rows");
    }
    if (!makes_scales()) return {};
    const group_scales& scales = memory_.scales;
    const bool ends = cols_.first + cols_.count == memory_.cols;  // no one else's columns follow
    if (const auto ok = check_whole(cols_, scales.group, ends, "columns"); !ok) return ok;
    if (scales.row_group == 1) return {};
    if (const auto ok = check_consecutive_rows(scales.row_group); !ok) return ok;
    return check_whole(rows_, scales.row_group, false, "rows");
  }

  /// Whether every number, and every scale that is made, has a place of its own.
  [[nodiscard]] result<void> check_places() const {
    if (cols_.count > 1 && memory_.col_stride == 0) {
      return error{errc::shape_mismatch, "target", 0, 1, "columns share memory: their stride"};
    }
    const element_rows numbers{.map = memory_.map,
                               .rows = rows_,
                               .stride = memory_.row_stride,
                               .page_stride = memory_.map.page_stride(),
                               .count = cols_.count,
                               .step = memory_.col_stride * cols_.step};
    if (const auto pair = shared_elements(numbers)) return refuse_shared(numbers, *pair);
    if (!makes_scales()) return {};
    const group_scales& of = memory_.scales;
    const index_t band = of.row_group;
    const index_t groups = (cols_.count - 1) / of.group + 1;
    const element_rows scales{.map = memory_.map,
                              .rows = {rows_.first, rows_.step * band, rows_.count / band},
                              .stride = of.row_stride,
                              .page_stride = of.page_stride,
                              .group = band,
                              .count = groups,
                              .step = groups > 1 ? of.group_stride * cols_.step : 1};
    const auto pair = shared_elements(scales);
    if (!pair) return {};
    return error{errc::shape_mismatch, "target", of.row_stride, reach(scales.count, scales.step),
                 places({pair->first * band, pair->second * band}) +
                     " share scales that are to be written: their row stride"};
  }

 protected:
  /// Whether scales are the target's alone: no stride of 0 says that others have them, too.
  [[nodiscard]] bool makes_scales() const noexcept {
    const group_scales& scales = memory_.scales;
    return memory_.is_scaled() && scales.row_stride != 0 &&
           (scales.page_stride != 0 || !memory_.map.is_paged()) &&
           (scales.group_stride != 0 || memory_.cols <= scales.group);
  }

  row_memory memory_;
  stepped rows_;  // of the memory
  stepped cols_;
  bool is_transposed_ = false;

 private:
  /// How far `count` elements reach.
  static index_t reach(index_t count, index_t step) noexcept {
    return (count - 1) * static_cast<index_t>(magnitude(step)) + 1;
  }
  [[nodiscard]] std::string places(row_pair pair) const {
    return std::string(is_transposed_ ? "columns " : "rows ") + std::to_string(pair.first) +
           " and " + std::to_string(pair.second);
  }
  [[nodiscard]] error refuse_shared(const element_rows& of, row_pair pair) const {
    const index_t slot = of.map.slot(of.rows.at(pair.first));
    const index_t other = of.map.slot(of.rows.at(pair.second));
    const index_t size = of.map.page_size();
    if (slot == other && !of.map.is_strided()) {
      const index_t number = of.map.is_paged() ? slot / size : slot;
      return error{errc::invalid_position, "target", number, pair.second,
                   places(pair) + " lie in the same " + (of.map.is_paged() ? "page" : "cell") +
                       ", named twice"};
    }
    if (of.map.is_paged() && slot / size != other / size) {
      return error{errc::shape_mismatch, "target", of.page_stride, error::none,
                   places(pair) + " share memory: the page stride"};
    }
    if (of.count > 1 && magnitude(of.step) > magnitude(of.stride) && of.stride != 0) {
      return error{errc::shape_mismatch, "target", of.step,
                   of.map.is_strided() ? reach(of.rows.count, of.stride) : error::none,
                   places(pair) + " share memory: the column stride"};
    }
    return error{errc::shape_mismatch, "target", of.stride, reach(of.count, of.step),
                 places(pair) + " share memory: the row stride"};
  }

  static result<void> check_whole(const stepped& range, index_t group, bool may_end_short,
                                  const char* what) {
    if (range.count > 1 && range.step != 1 && group > 1) {
      return error{errc::shape_mismatch, "target", range.step, 1,
                   std::string("every s-th of the ") + what + " that share a scale"};
    }
    if (range.first % group != 0) {
      return error{errc::shape_mismatch, "target", range.first, group,
                   std::string("first of the ") + what + " must start a block or group"};
    }
    if (range.count % group != 0 && !may_end_short) {
      return error{errc::shape_mismatch, "target", range.count, group,
                   std::string("number of ") + what + " must be whole blocks or groups"};
    }
    return {};
  }

  /// Rows that share a scale must be neighbours in memory, too.
  [[nodiscard]] result<void> check_consecutive_rows(index_t group) const {
    if (memory_.map.is_listed()) {
      return error{errc::invalid_option, "target", error::none, error::none,
                   "rows by number can't share scales with each other"};
    }
    if (memory_.map.is_paged() && memory_.map.page_size() % group != 0) {
      return error{errc::shape_mismatch, "target", memory_.map.page_size(), group,
                   "page size must be whole blocks or groups"};
    }
    return {};
  }
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
