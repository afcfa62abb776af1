// SPDX-License-Identifier: MIT
/// What a result file holds, as views and numbers; the rules both its reader and its writer keep.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// The compact cache of one KV head, without owning it. It may have no rows.
struct compact_head {
  row_view keys;                       ///< t × d
  row_view values;                     ///< t × d_v
  std::span<const float> bias;         ///< t, natural-log units, added to the logits
  std::span<const index_t> positions;  ///< t original row numbers, ascending; −1: no original row
  /// t: where the keys stand, in any order, several of which may be the same; empty: not said,
  /// where the rule of the layer does not use positions.
  std::span<const index_t> key_positions = {};
};

/// The heads of one layer; d and d_v are the same for all, t need not be.
struct compact_layer {
  index_t number = 0;  ///< l in `layers.{l}.k`
  std::vector<compact_head> heads;
  /// How attention over them is computed. Written with `compact_file_info::scale` where
  /// `logits.scale` is not given; read, it always is.
  attention_rule rule = {};
};

/// What holds for all layers.
struct compact_file_info {
  std::string method;            ///< free text: how the cache was fitted
  index_t next_position = 0;     ///< the position at which decoding goes on
  float scale = 0;               ///< logit = scale · q·k + bias, where a layer says no other
  dtype storage = dtype::fp32;   ///< type of the stored keys and values
  std::string fingerprint = {};  ///< of the model, printable ASCII, ≤ `max_fingerprint` bytes
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

inline constexpr index_t max_i32 = (std::numeric_limits<std::int32_t>::max)();

/// Exponent all ones. By bits, so that it survives a consumer's -ffast-math.
constexpr bool is_infinite_or_nan(float x) noexcept {
  return (std::bit_cast<std::uint32_t>(x) & 0x7F800000U) == 0x7F800000U;
}

/// The first bad row of one head's positions, or their number. Original rows must ascend and be
/// less than `end`.
inline std::size_t first_bad_position(std::span<const index_t> positions, index_t end) {
  index_t last = -1;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] == -1) continue;
    if (positions[i] <= last || positions[i] >= end) return i;
    last = positions[i];
  }
  return positions.size();
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
