// SPDX-License-Identifier: MIT
/// What `compact()` returns.
#pragma once

#include <cstddef>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/compact/report.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// A small cache: t keys with a bias each, and values.
///
/// An engine attends over it as over any cache, with `bias` added to the logits (natural log, after
/// scale and soft-cap), keys at `key_positions` where the rule uses positions, and new tokens
/// going on from the original length:
///
///     auto y = attend(queries, {fitted.block(), {.keys = live_keys, .values = live_values}});
struct compacted {
  std::vector<index_t> positions;  ///< t original row numbers, ascending
  std::vector<index_t>
      key_positions;  ///< t: where those rows' keys stand, see `kv_block::position`
  matrix keys;        ///< t × d_k: those rows' keys, moved where they were refined
  vector bias;        ///< t: the rows' own bias + ln w, moved with the keys; finite
  matrix values;      ///< t × d_v
  compact_report report;

  /// The cache to attend over, by reference: keys with their bias, where they stood.
  [[nodiscard]] kv_block block() const& noexcept {
    return {.keys = keys,
            .values = values,
            .bias = {bias.data(), static_cast<std::size_t>(bias.size())},
            .positions = key_positions};
  }
  kv_block block() const&& = delete;  // it would refer to what is gone
};

}  // namespace kvfit
