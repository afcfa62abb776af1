// SPDX-License-Identifier: MIT
/// Parts reference queries into those that are fitted on and those that judge the fit.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Queries of one part, with their masks; views into the caller's memory.
struct query_part {
  std::vector<query_block> blocks;
  std::vector<row_view> masks;
  std::vector<block_origin> origins;  ///< one per block

  [[nodiscard]] query_set set() const noexcept { return std::span<const query_block>(blocks); }
  /// `cache` with the masks of this part.
  [[nodiscard]] kv_block beside(kv_block cache) const noexcept {
    cache.masks = masks;
    return cache;
  }
};

struct query_split {
  query_part fit;
  query_part judge;  ///< empty where nothing is held out
};

/// Holds out every s-th query of every block, s = round(1 / fraction) ≥ 2, so that both parts span
/// the whole range of each query head. No query is copied: a part is a set of views. Blocks
/// with fewer than s rows are fitted on whole. fraction in [0, 0.5]; 0 holds out nothing.
///
/// share in (0, 1]: about this share of the queries that are not held out is fitted on, evenly
/// spread; never fewer than that.
inline query_split split_queries(const query_set& queries, std::span<const row_view> masks,
                                 double fraction, double share = 1) {
  query_split parts;
  const index thin = std::max<index>(1, static_cast<index>(1 / share));
  constexpr double most = 1e15;  // more than any block has rows, and llround can still hold it
  const index stride =
      fraction > 0 ? std::max<index>(2, std::llround(std::min(1 / fraction, most))) : index{0};
  const auto blocks = queries.blocks();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto take = [&](query_part& part, index first, index step) {
      query_block block = blocks[b];
      block.rows = block.rows.every_row(first, step);
      block.first_position += first * block.position_step;
      block.position_step *= step;
      part.blocks.push_back(block);
      part.origins.push_back({b, first, step});
      if (!masks.empty()) part.masks.push_back(masks[b].every_row(first, step));
    };
    const auto take_run = [&](index first, index count) {
      query_block block = blocks[b];
      block.rows = block.rows.middle_rows(first, count).every_row(0, thin);
      block.first_position += first * block.position_step;
      block.position_step *= thin;
      parts.fit.blocks.push_back(block);
      parts.fit.origins.push_back({b, first, thin});
      if (!masks.empty()) {
        parts.fit.masks.push_back(masks[b].middle_rows(first, count).every_row(0, thin));
      }
    };
    if (stride == 0 || blocks[b].rows.rows() < stride) {
      take(parts.fit, 0, thin);
      continue;
    }
    take(parts.judge, stride - 1, stride);
    // The others in as few blocks as can be, since each block is a sweep over the keys of its own:
    // s − 1 interleaved ones, or the runs between held-out rows.
    const index rows = blocks[b].rows.rows();
    if (rows / stride >= stride - 1) {
      const auto lanes = static_cast<double>(stride - 1);
      const auto kept = static_cast<index>(std::ceil(std::max(1.0, share * lanes - 1e-9)));
      const auto rest = std::max<index>(1, static_cast<index>(1 / (share * lanes)));
      for (index k = 0; k < kept; ++k) take(parts.fit, k * (stride - 1) / kept, stride * rest);
    } else {
      for (index first = 0; first < rows; first += stride) {
        take_run(first, std::min(stride - 1, rows - first));
      }
    }
  }
  return parts;
}

}  // namespace kvfit::inline KVFIT_ISA
