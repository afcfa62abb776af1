// SPDX-License-Identifier: MIT
/// How many queries a head is fitted on and judged by, in numbers alone.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/row_order.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor_ref.hpp"

namespace kvfit {

/// The sizes of what `compact` is given.
struct compaction_sizes {
  index_t keys = 0;                      ///< T ≥ 1
  index_t depth = 0;                     ///< d_k ≥ 1
  index_t width = 0;                     ///< d_v ≥ 1
  std::vector<index_t> query_rows = {};  ///< rows of each query block, ≥ 1; at least one block
  bool has_masks = false;
  bool has_slopes = false;  ///< some query block has an ALiBi slope
  index_t threads = 1;      ///< of the executor that the call is given, ≥ 1
  row_order order = {};     ///< hidden rows, and whether rows lie in the order of their positions
};

/// The sizes of these inputs. Cost: one read of each bias and position.
inline compaction_sizes sizes_of(const kv_block& cache, const query_set& queries,
                                 const executor_ref& threads = {}) {
  compaction_sizes sizes{.keys = cache.keys.rows(),
                         .depth = cache.keys.cols(),
                         .width = cache.values.cols(),
                         .has_masks = !cache.masks.empty(),
                         .threads = threads.threads(),
                         .order = order_of(cache)};
  for (const query_block& block : queries.blocks()) {
    sizes.query_rows.push_back(block.rows.rows());
    sizes.has_slopes = sizes.has_slopes || block.alibi_slope != 0;
  }
  return sizes;
}

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The share of the queries not held out that is fitted on, of `queries` rows for `budget` ones.
inline double fitted_share(const compact_options& options, index_t queries, index_t budget) {
  if (options.queries.per_row == 0) return 1;
  const double wanted =
      (std::max)(static_cast<double>(options.queries.per_row) * static_cast<double>(budget),
                 static_cast<double>(options.queries.at_least));
  const double given = static_cast<double>(queries) * (1 - options.queries.held_out);
  return (std::min)(1.0, wanted / (std::max)(given, 1.0));
}

/// Both parts of a split.
struct split_sizes {
  head_sizes fit;
  head_sizes judge;         ///< 0 queries where none are held out
  index_t given = 0;        ///< queries in all
  index_t given_block = 0;  ///< of the longest block
  double views = 0;         ///< bytes that a `query_split` holds
};

/// The sizes after `split_queries(…, fraction, share)`; `head`: T, d_k, d_v, t and the like.
inline split_sizes part_sizes(const head_sizes& head, std::span<const index_t> query_rows,
                              double fraction, double share) {
  split_sizes parts{head, head, 0, 0, 0};
  for (const index_t rows : query_rows) {
    parts.given += rows;
    parts.given_block = (std::max)(parts.given_block, rows);
  }
  parts.fit.queries = parts.fit.blocks = parts.fit.largest_block = 0;
  parts.judge.queries = parts.judge.blocks = parts.judge.largest_block = 0;
  const auto take = [](head_sizes& part, const row_run& run) {
    part.queries += run.count;
    ++part.blocks;
    part.largest_block = (std::max)(part.largest_block, run.count);
  };
  for (const index_t rows : query_rows) {
    const block_cut cut = cut_block(rows, fraction, share);
    for (const row_run& run : cut.fit) take(parts.fit, run);
    if (cut.judge) take(parts.judge, *cut.judge);
  }
  constexpr auto view =
      static_cast<double>(sizeof(query_block) + sizeof(row_view) + sizeof(block_origin));
  parts.views = grown_bytes(view * static_cast<double>(parts.fit.blocks + parts.judge.blocks));
  return parts;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
