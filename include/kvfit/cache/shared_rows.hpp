// SPDX-License-Identifier: MIT
/// The rows that `share_positions` fits all heads of a layer on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/cache/refit_tasks.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What the attention of one head's queries says of its compact rows: mean_i Â_ij.
inline result<vector> mean_attention(const head_task& task, const compacted_layer& fitted,
                                     const logit_rule& rule, const compact_options& options,
                                     const stop_when& stop) {
  const kv_block& cache = task.block;
  if (const auto ok = check_cache(cache, query_set(task.queries)); !ok) return ok.error();
  const auto head = static_cast<std::size_t>(task.id.head);
  kv_block block = fitted.block(head);
  const auto rows = std::span(fitted.positions)
                        .subspan(static_cast<std::size_t>(fitted.offsets[head]),
                                 static_cast<std::size_t>(fitted.rows(head)));
  // Masks are of the original rows: those of the rows kept are gathered.
  std::vector<matrix> masks;
  std::vector<row_view> mask_views;
  for (const row_view& mask : cache.masks) masks.push_back(gather_rows(mask.transposed(), rows));
  for (const matrix& mask : masks) mask_views.push_back(row_view(mask).transposed());
  block.masks = mask_views;
  auto scores =
      score_pass(block, query_set(task.queries), rule,
                 {.importance = importance_kind::mean, .memory = options.memory.cap}, stop);
  if (!scores) return scores.error();
  return std::move(scores->importance);
}

/// The `most` rows of highest importance and those in `kept` among `rows`; all lists ascend.
inline result<std::vector<index_t>> rows_within(std::vector<index_t> rows,
                                                const std::vector<double>& importance, index_t most,
                                                const std::vector<index_t>& kept) {
  const auto is_protected = [&](index_t row) {
    return std::binary_search(kept.begin(), kept.end(), row);
  };
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (is_protected(rows[a]) != is_protected(rows[b])) return is_protected(rows[a]);
    return importance[a] != importance[b] ? importance[a] > importance[b] : a < b;
  });
  const index_t kept_for_sure = std::count_if(rows.begin(), rows.end(), is_protected);
  if (most <= kept_for_sure) {
    return error{errc::budget_out_of_range, "most_rows", most, kept_for_sure + 1,
                 "must exceed the protected rows"};
  }
  order.resize(static_cast<std::size_t>(most));
  std::sort(order.begin(), order.end());
  std::vector<index_t> within;
  for (const std::size_t at : order) within.push_back(rows[at]);
  return within;
}

/// The rows of any head, ascending; where they are more than `most` > 0, the most important.
inline result<std::vector<index_t>> shared_rows(const cache_layer& layer,
                                                const compacted_layer& fitted,
                                                std::span<const head_task> tasks,
                                                const compact_options& options, index_t most,
                                                const stop_when& stop) {
  std::vector<index_t> rows = fitted.positions;
  std::sort(rows.begin(), rows.end());
  const index_t length = layer.heads.front().keys.rows();
  if (!rows.empty() && rows.back() >= length) {
    return error{errc::invalid_position, part_of(fitted, "positions"), rows.back(), length,
                 "a row that the layer does not have"};
  }
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  if (most == 0 || static_cast<index_t>(rows.size()) <= most) return rows;
  std::vector<double> importance(rows.size(), 0.0);
  for (std::size_t h = 0; h < tasks.size(); ++h) {
    if (fitted.rows(h) == 0) continue;
    const auto part =
        mean_attention(tasks[h], fitted, layer.rule.value_or(options.rule), options, stop);
    if (!part) return in_head(part.error(), tasks[h].id);
    for (index_t j = 0; j < part->size(); ++j) {
      const index_t row = fitted.positions[static_cast<std::size_t>(fitted.offsets[h] + j)];
      const auto at = std::lower_bound(rows.begin(), rows.end(), row) - rows.begin();
      importance[static_cast<std::size_t>(at)] += static_cast<double>((*part)[j]);
    }
  }
  std::vector<index_t> kept;  // protected in any of the heads
  for (const head_task& task : tasks) {
    const auto own = protected_rows(task.block, options);
    if (!own) return in_head(own.error(), task.id);
    kept.insert(kept.end(), own->begin(), own->end());
  }
  std::sort(kept.begin(), kept.end());
  return rows_within(std::move(rows), importance, most, kept);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
