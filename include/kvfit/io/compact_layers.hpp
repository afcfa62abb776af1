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
#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// The compact cache of one KV head, without owning it. It may have no rows.
struct compact_head {
  row_view keys;                       ///< t × d
  row_view values;                     ///< t × d_v
  std::span<const float> bias;         ///< t, natural-log units, added to the logits
  std::span<const index_t> positions;  ///< t original row numbers, ascending; −1: no original row
};

/// The heads of one layer; d and d_v are the same for all, t need not be.
struct compact_layer {
  index_t number = 0;  ///< l in `layers.{l}.k`
  std::vector<compact_head> heads;
};

/// What holds for all layers.
struct compact_file_info {
  std::string method;           ///< free text: how the cache was fitted
  index_t logical_length = 0;   ///< rows of the full cache: the position at which decoding goes on
  float scale = 0;              ///< logit = scale · q·k + bias
  dtype storage = dtype::fp32;  ///< type of the stored keys and values
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

inline constexpr index_t max_i32 = std::numeric_limits<std::int32_t>::max();

/// Exponent all ones. By bits, so that it survives a consumer's -ffast-math.
constexpr bool is_infinite_or_nan(float x) noexcept {
  return (std::bit_cast<std::uint32_t>(x) & 0x7F800000U) == 0x7F800000U;
}

/// The first bad row of one head's positions, or their number. Original rows must ascend.
inline std::size_t first_bad_position(std::span<const index_t> positions, index_t logical_length) {
  index_t last = -1;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] == -1) continue;
    if (positions[i] <= last || positions[i] >= logical_length) return i;
    last = positions[i];
  }
  return positions.size();
}

}  // namespace io_detail

}  // namespace kvfit::inline KVFIT_ISA
