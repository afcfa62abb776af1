// SPDX-License-Identifier: MIT
/// Which of a ranking's score passes are kept for the fits, so that no head is scored twice.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/attention/known_scores.hpp"
#include "kvfit/attention/score_bytes.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether the fit of a head with its `own` options begins with the very pass `made`, whatever its
/// budget: all queries are fitted on, all rows are open, and nothing else is wanted. Exponentials
/// never are: n × T numbers of every head are too many to keep. Not where the library runs the fit,
/// perhaps with another instruction set.
inline bool repeats_pass(const head_task& task, const compact_options& own,
                         const score_options& made) {
  const head_sizes sizes = sizes_of_head(task.block, query_set(task.queries));
  // A budget of all rows wants all that any budget does.
  const score_options wanted = fit_scores(own, sizes.keys, sizes.keys);
  const bool ranks = wanted.importance != importance_kind::none;
  const bool pools = ranks && wanted.pooling != pooling_kind::none;
  const query_use& use = own.queries;
  return !isa_tag::links_library && use.held_out == 0 &&
         (use.per_row == 0 || use.at_least >= sizes.queries) && own.protect.is_empty() &&
         !task.block.is_hidden(0) && !task.block.is_hidden(sizes.keys - 1) &&
         !keeps_exponentials(sizes, wanted) && wanted.precision == made.precision &&
         wanted.panel == made.panel &&
         (!ranks || (wanted.importance == made.importance && wanted.window == made.window &&
                     wanted.pooling == made.pooling)) &&
         (!pools || wanted.pooling_width == made.pooling_width);
}

inline double kept_bytes(const head_task& task) {
  return known_scores_bytes(sizes_of_head(task.block, query_set(task.queries)));
}

/// Leaves marked the first of the heads that are, as many as fit beside heads under way that take
/// `largest` bytes each, of which no fewer than before run on so many `threads`. Without a cap all
/// stay: they take about what the queries take.
inline void limit_kept(std::vector<char>& is_kept, std::span<const head_task> tasks,
                       index_t largest, int threads, const cache_options& options) {
  if (!options.memory) return;
  const index_t under_way = (std::min)({lanes_of(largest, options), static_cast<index_t>(threads),
                                        std::max<index_t>(static_cast<index_t>(tasks.size()), 1)});
  double left = static_cast<double>(*options.memory) -
                static_cast<double>(under_way) * static_cast<double>(largest);
  for (std::size_t h = 0; h < tasks.size(); ++h) {
    if (is_kept[h] == 0) continue;
    const double own = kept_bytes(tasks[h]);
    is_kept[h] = own <= left ? 1 : 0;
    if (is_kept[h] != 0) left -= own;
  }
}

/// Bytes of those of the heads that are marked.
inline index_t kept_bytes(std::span<const char> is_kept, std::span<const head_task> tasks) {
  double bytes = 0;
  for (std::size_t h = 0; h < is_kept.size(); ++h) {
    if (is_kept[h] != 0) bytes += kept_bytes(tasks[h]);
  }
  return whole_bytes(bytes);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
