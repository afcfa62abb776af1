// SPDX-License-Identifier: MIT
/// One list of positions for all heads of a layer, for engines whose heads share their cells.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/refit.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/serial.hpp"

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

namespace kvfit {
inline namespace KVFIT_ISA {

/// `fitted` with the same positions in every head: the union of the heads' own, on which every head
/// is fitted anew.
///
/// A bias that hides the rows a head did not choose would keep its fit, but spend the slots and
/// lose what the rows could do; and a fit made before hiding is no fit. So biases and values of
/// each head are fitted to full attention over the union's rows (`refit_layer`), and all biases are
/// finite. Where every head chose the same rows the result is that of `compact` with these rows
/// given.
///
/// layer: what `fitted` was made of, all heads of the same T. queries, options: as for
/// `refit_layer`. most_rows: rows that may stay, 0 for all. Of a larger union those stay that the
/// heads attend to most, protected rows before all others,
///
///     Σ_h mean_i Â_ij^h,   Â^h = softmax(s + β) of head h's compact rows, 0 for rows it lacks,
///
/// of equal ones the first.
///
/// Errors: those of `check_layer` and `refit_layer`; `shape_mismatch` where `fitted` is not of this
/// layer; `invalid_position` where a head hides a row of the union; `budget_out_of_range` for
/// `most_rows` below 0, or not above the protected rows. Cost: that of `refit_layer` for the
/// union's rows, n · t · d_k a head for the importance. Same input, same bytes.
///
///     auto shared = kvfit::share_positions(view.layers[0], cache.layers[0], asked, options, 512);
///     // shared->positions: the union's rows, once for each head
template <executor E>
[[nodiscard]] result<compacted_layer> share_positions(
    const cache_layer& layer, const compacted_layer& fitted, std::span<const query_block> queries,
    const compact_options& options, index_t most_rows, E&& how, const watch& by = {}) {
  return detail::catch_bad_alloc("share_positions", [&]() -> result<compacted_layer> {
    const auto tasks = detail::tasks_of_layer(layer, queries);
    if (!tasks) return tasks.error();
    if (const auto ok = check_layer(fitted); !ok) return ok.error();
    const auto mismatch = [&](const char* part, index_t actual, index_t expected, const char* why) {
      return error{errc::shape_mismatch, detail::part_of(fitted, part), actual, expected, why};
    };
    if (fitted.number != layer.number) {
      return mismatch("number", fitted.number, layer.number, "of another layer");
    }
    if (fitted.heads.size() != layer.heads.size()) {
      return mismatch("heads", static_cast<index_t>(fitted.heads.size()),
                      static_cast<index_t>(layer.heads.size()), "as many as the layer has");
    }
    const index_t length = layer.heads.front().keys.rows();
    for (const kv_block& head : layer.heads) {
      if (head.keys.rows() == length) continue;
      return mismatch("rows", head.keys.rows(), length, "must be the same in all heads");
    }
    if (most_rows < 0) {
      return error{errc::budget_out_of_range, "most_rows", most_rows, 0, "must not be negative"};
    }
    auto rows = detail::shared_rows(layer, fitted, *tasks, options, most_rows, by.stop());
    if (!rows) return rows.error();
    const std::vector<std::vector<index_t>> same(layer.heads.size(), *rows);
    return refit_layer(layer, same, queries, options, how, by);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_layer> share_positions(const cache_layer& layer,
                                                             const compacted_layer& fitted,
                                                             std::span<const query_block> queries,
                                                             const compact_options& options,
                                                             index_t most_rows = 0) {
  return share_positions(layer, fitted, queries, options, most_rows, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
