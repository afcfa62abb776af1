// SPDX-License-Identifier: MIT
/// What a `rolling_cache` is in numbers and rows, and whether a saved one fits together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/position_runs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// What a rolling cache is in numbers and rows: to be saved, and to go on from.
///
/// Rows of the text are numbered from 0: `length` and `live_first` count rows, and so do
/// `compacted_layer::positions` of the block. Where a row stands is another number: positions are
/// `next_position`, `live_positions` and `compacted_layer::key_positions`. Both numbers are equal
/// in a text of words alone, one position each.
struct rolling_state {
  /// None before the first round. One without any row (of an empty text) is none, too.
  std::shared_ptr<const compacted_cache> block = {};
  index_t length = 0;         ///< rows of the text, compacted or live
  index_t live_first = 0;     ///< number of the first live row; all before it are in the block
  index_t next_position = 0;  ///< where the next token stands; no row stands behind it
  std::vector<position_run> live_positions = {};  ///< of the length − live_first live rows
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether the block of a saved text has rows before the live ones, at positions of the text.
inline result<void> check_saved_block(const compacted_cache& block, const rolling_state& saved) {
  if (const auto ok = check_layer_order(block); !ok) return ok;
  for (const compacted_layer& layer : block.layers) {
    if (const auto ok = check_layer(layer); !ok) return ok;
    const std::string where = "of layer " + std::to_string(layer.number);
    for (const index_t row : layer.positions) {
      if (row < saved.live_first) continue;
      return error{errc::invalid_position, "block", row, saved.live_first,
                   where + ", beside live rows"};
    }
    for (const index_t position : layer.key_positions) {
      if (position >= 0 && position <= saved.next_position) continue;
      return error{errc::invalid_position, "block", position, saved.next_position,
                   where + ": a key stands behind the next position"};
    }
  }
  return {};
}

/// Whether counts, runs and block of a saved text fit together; errors: those of
/// `rolling_cache::make`.
inline result<void> check_saved(const rolling_state& saved) {
  constexpr index_t largest = largest_position;
  if (saved.length < 0 || saved.length > largest) {
    return error{errc::invalid_option, "length", saved.length, largest,
                 "must not be negative, and within 2^53 rows"};
  }
  if (saved.live_first < 0 || saved.live_first > saved.length) {
    return error{errc::invalid_option, "live_first", saved.live_first, saved.length,
                 "must not be negative, and within the text"};
  }
  if (saved.next_position < 0 || saved.next_position > largest) {
    return error{errc::invalid_option, "next_position", saved.next_position, largest,
                 "must not be negative, and within 2^53"};
  }
  if (saved.block == nullptr && saved.live_first > 0) {
    return error{errc::invalid_option, "live_first", saved.live_first, 0,
                 "must be 0: no block stands for rows before"};
  }
  if (saved.block != nullptr) {
    if (const auto ok = check_saved_block(*saved.block, saved); !ok) return ok;
  }
  return check_runs(saved.live_positions, saved.length - saved.live_first, saved.next_position);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
