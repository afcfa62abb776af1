// SPDX-License-Identifier: MIT
/// Which rows of a block are hidden, and whether the others lie in the order of their positions.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// The order of a block's rows in four numbers. Zeros and `true` for rows that are all visible and
/// lie as they stand in the text.
struct row_order {
  index_t hidden_first = 0;    ///< rows before the first visible one; all, where none is visible
  index_t hidden_last = 0;     ///< rows after the last visible one
  index_t hidden_between = 0;  ///< hidden rows between visible ones
  bool is_ascending = true;    ///< no visible row stands before one that lies before it

  [[nodiscard]] index_t hidden() const noexcept {
    return hidden_first + hidden_last + hidden_between;
  }
  /// Whether the visible rows are one stretch, in the order of their positions.
  [[nodiscard]] bool is_plain() const noexcept { return hidden_between == 0 && is_ascending; }
};

/// The order of the rows of `cache`. A bias or positions of another length than the keys, which
/// `check_cache` refuses, are passed over. Cost T; allocates nothing.
inline row_order order_of(const kv_block& cache) noexcept {
  row_order order;
  const index_t rows = cache.keys.rows();
  kv_block sound = cache;
  if (static_cast<index_t>(cache.bias.size()) != rows) sound.bias = {};
  if (static_cast<index_t>(cache.positions.size()) != rows) sound.positions = {};
  if (sound.bias.empty() && sound.positions.empty()) return order;
  std::optional<index_t> last;  // visible row
  for (index_t row = 0; row < rows; ++row) {
    if (sound.is_hidden(row)) continue;
    if (last) {
      order.hidden_between += row - *last - 1;
      order.is_ascending = order.is_ascending && sound.position(row) >= sound.position(*last);
    } else {
      order.hidden_first = row;
    }
    last = row;
  }
  if (last) {
    order.hidden_last = rows - *last - 1;
  } else {
    order.hidden_first = rows;
  }
  return order;
}

}  // namespace kvfit
