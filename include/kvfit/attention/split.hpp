// SPDX-License-Identifier: MIT
/// Parts reference queries into those that are fitted on and those that judge the fit.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

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

/// The queries fitted on and those held out, as views.
struct query_split {
  query_part fit;
  query_part judge;  ///< empty where nothing is held out
};

/// Rows first, first + step, … of a query block: `count` of them.
struct row_run {
  index_t first = 0;
  index_t count = 0;
  index_t step = 1;
};

/// How one query block is split.
struct block_cut {
  std::vector<row_run> fit;
  std::optional<row_run> judge;
};

/// `split_queries` for one block of `rows` rows, as row numbers.
inline block_cut cut_block(index_t rows, double fraction, double share = 1) {
  block_cut cut;
  const auto run = [](index_t first, index_t end, index_t step) {
    return row_run{first, (end - first + step - 1) / step, step};
  };
  const index_t thin = std::max<index_t>(1, static_cast<index_t>(1 / share));
  constexpr double most = 1e15;  // more than any block has rows, and llround can still hold it
  const index_t stride = fraction > 0
                             ? std::max<index_t>(2, std::llround((std::min)(1 / fraction, most)))
                             : index_t{0};
  if (stride == 0 || rows < stride) {
    cut.fit.push_back(run(0, rows, thin));
    return cut;
  }
  cut.judge = run(stride - 1, rows, stride);
  // The others in as few runs as can be, since each is a sweep over the keys of its own: s − 1
  // interleaved ones, or those between held-out rows.
  if (rows / stride >= stride - 1) {
    const auto lanes = static_cast<double>(stride - 1);
    const auto kept = static_cast<index_t>(std::ceil((std::max)(1.0, share * lanes - 1e-9)));
    const auto rest = std::max<index_t>(1, static_cast<index_t>(1 / (share * lanes)));
    for (index_t k = 0; k < kept; ++k) {
      cut.fit.push_back(run(k * (stride - 1) / kept, rows, stride * rest));
    }
  } else {
    for (index_t first = 0; first < rows; first += stride) {
      cut.fit.push_back(run(first, (std::min)(first + stride - 1, rows), thin));
    }
  }
  return cut;
}

/// Holds out every s-th query of every block, s = round(1 / fraction) ≥ 2, so that both parts span
/// the whole range of each query head. No query is copied: a part is a set of views. Blocks
/// with fewer than s rows are fitted on whole. fraction in [0, 0.5]; 0 holds out nothing.
///
/// share in (0, 1]: about this share of the queries that are not held out is fitted on, evenly
/// spread; never fewer than that.
inline query_split split_queries(const query_set& queries, std::span<const row_view> masks,
                                 double fraction, double share = 1) {
  query_split parts;
  const auto blocks = queries.blocks();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto take = [&](query_part& part, const row_run& run) {
      const index_t span = std::max<index_t>(0, (run.count - 1) * run.step + 1);
      const auto rows_of = [&](const row_view& view) {
        return view.middle_rows(run.first, span).every_row(0, run.step);
      };
      query_block block = blocks[b];
      block.rows = rows_of(block.rows);
      block.first_position += run.first * block.position_step;
      block.position_step *= run.step;
      part.blocks.push_back(block);
      part.origins.push_back({b, run.first, run.step});
      if (!masks.empty()) part.masks.push_back(rows_of(masks[b]));
    };
    const block_cut cut = cut_block(blocks[b].rows.rows(), fraction, share);
    for (const row_run& run : cut.fit) take(parts.fit, run);
    if (cut.judge) take(parts.judge, *cut.judge);
  }
  return parts;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
