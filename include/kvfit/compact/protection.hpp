// SPDX-License-Identifier: MIT
/// Rows that a compaction leaves as they are.
#pragma once

#include <vector>

#include "kvfit/core/index.hpp"

namespace kvfit {

/// Rows of a head that keep their key, value and bias: by their place in the text, and by number.
/// A row that is asked for twice counts once.
///
///     options.protect = {.first = 4, .last = 16};  // sinks and recent tokens, wherever they lie
struct protection {
  /// ≥ 0: the visible rows at the smallest positions (`kv_block::position`, row numbers where none
  /// are given); of rows at one position the earlier ones in memory. All, where they are fewer.
  index_t first = 0;
  /// ≥ 0: the visible rows at the largest positions; of rows at one position the later ones.
  index_t last = 0;
  /// Numbers of rows, each visible, in 0 … T − 1 and named once, in any order.
  std::vector<index_t> rows = {};

  [[nodiscard]] bool is_empty() const noexcept { return first == 0 && last == 0 && rows.empty(); }
};

}  // namespace kvfit
