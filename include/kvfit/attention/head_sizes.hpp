// SPDX-License-Identifier: MIT
/// The sizes of one head's problem, from which every stage says what memory it takes.
#pragma once

#include <algorithm>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/precision.hpp"

namespace kvfit {

/// Sizes alone. Types and layouts of the inputs don't matter: rows are converted tile by tile.
///
/// Functions and members named `declare…(workspace&, …)` list what the code beside them holds, its
/// result included, inputs and what the caller holds besides not (core/workspace.hpp).
struct head_sizes {
  index_t keys = 0;           ///< T
  index_t depth = 0;          ///< d_k
  index_t width = 0;          ///< d_v
  index_t queries = 0;        ///< n, rows of all query blocks
  index_t blocks = 1;         ///< query blocks
  index_t largest_block = 0;  ///< rows of the longest
  bool has_masks = false;
  index_t budget = 0;      ///< t rows to keep
  index_t memory_cap = 0;  ///< of the selection, see `selection_problem`
  /// The score pass kept the exponentials: they are an input of the selection.
  bool has_exponentials = false;
  index_t panel = 0;  ///< queries taken together at most, see `score_options`; 0: as many as ever
  precision_kind precision = precision_kind::fp32;  ///< of the score pass
};

/// The sizes of these inputs, for `score_pass_bytes`, `attend_bytes` and the like:
///
///     if (score_pass_bytes(sizes_of_head(cache, queries), options) > free_bytes) …
inline head_sizes sizes_of_head(const kv_block& cache, const query_set& queries) noexcept {
  head_sizes sizes{.keys = cache.keys.rows(),
                   .depth = cache.keys.cols(),
                   .width = cache.values.cols(),
                   .queries = queries.rows(),
                   .blocks = static_cast<index_t>(queries.blocks().size()),
                   .has_masks = !cache.masks.empty()};
  for (const query_block& block : queries.blocks()) {
    sizes.largest_block = (std::max)(sizes.largest_block, block.rows.rows());
  }
  return sizes;
}

}  // namespace kvfit
