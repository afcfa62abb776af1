// SPDX-License-Identifier: MIT
/// The work of `refit_layer`, head by head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/cache/layer_tasks.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/compact/decided_refinement.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/selection/fixed.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The options of one head's refit; `rows` ascend, and so do the protected ones among them.
inline compact_options refit_options(const cache_layer& layer, const compact_options& options,
                                     const std::vector<index_t>& rows,
                                     const std::vector<index_t>& kept) {
  compact_options asked = options;
  asked.budget = static_cast<index_t>(rows.size());
  if (layer.rule) asked.rule = *layer.rule;
  if (layer.rotation) asked.refine.rotation = layer.rotation;
  asked.refine = decided_refinement(asked);  // else rows that are given are not refined
  selection::given named;
  for (const index_t row : rows) {
    if (!std::binary_search(kept.begin(), kept.end(), row)) named.positions.push_back(row);
  }
  asked.selection = std::move(named);
  return asked;
}

/// The rows of a head that `options` protects; `invalid_option` or `invalid_position` for what is
/// none.
inline result<std::vector<index_t>> protected_rows(const kv_block& cache,
                                                   const compact_options& options) {
  const index_t length = cache.keys.rows();
  for (const std::size_t size : {cache.bias.size(), cache.positions.size()}) {
    if (size != 0 && static_cast<index_t>(size) != length) {  // `compact` says which, and why
      return std::vector<index_t>{};
    }
  }
  if (const auto ok = check_protection(options.protect, length); !ok) return ok.error();
  if (const auto ok = check_named_rows(cache, options.protect); !ok) return ok.error();
  return protected_rows(cache, order_of(cache), options.protect);
}

/// Rows that ascend within 0 … T − 1, every protected row among them.
inline result<void> check_rows(index_t length, const std::vector<index_t>& rows,
                               const std::vector<index_t>& kept) {
  index_t last = -1;
  for (const index_t row : rows) {
    if (row <= last || row >= length) {
      return error{errc::invalid_position, "rows", row, length, "must ascend within the cache"};
    }
    last = row;
  }
  for (const index_t row : kept) {
    if (std::binary_search(rows.begin(), rows.end(), row)) continue;
    return error{errc::invalid_position, "rows", row, error::none, "is protected, and not there"};
  }
  return {};
}

inline result<compacted_head> refit_head(const cache_layer& layer, const head_task& task,
                                         const std::vector<index_t>& rows,
                                         const compact_options& options, const stop_when& stop) {
  const kv_block& cache = task.block;
  compacted_head out;
  out.report = {.id = task.id,
                .rows_before = cache.keys.rows(),
                .rows = static_cast<index_t>(rows.size()),
                .outcome = head_outcome::empty,
                .cause = {},
                .report = {}};
  if (rows.empty()) {
    out.rows.keys.resize(0, cache.keys.cols());
    out.rows.values.resize(0, cache.values.cols());
    return out;
  }
  const auto kept = protected_rows(cache, options);
  if (!kept) return kept.error();
  if (const auto ok = check_rows(cache.keys.rows(), rows, *kept); !ok) return ok.error();
  auto fitted =
      compact(cache, query_set(task.queries), refit_options(layer, options, rows, *kept), stop);
  if (!fitted) return fitted.error();
  if (fitted->positions != rows) {
    return error{errc::invalid_position, "rows", static_cast<index_t>(rows.size()), error::none,
                 "the bias hides one of them"};
  }
  const bool is_whole = fitted->report.is_identity;
  out.report.outcome = is_whole ? head_outcome::identity : head_outcome::fitted;
  out.report.report = fitted->report;
  out.rows = std::move(*fitted);
  return out;
}

/// Heads that may be fitted together within `options.memory`; 0: as many as the executor runs.
inline result<index_t> refits_within_memory(const cache_layer& layer,
                                            std::span<const head_task> tasks,
                                            std::span<const std::vector<index_t>> rows,
                                            const compact_options& options) {
  if (!options.memory.cap) return index_t{0};
  index_t largest = 1;
  for (std::size_t h = 0; h < tasks.size(); ++h) {
    if (rows[h].empty()) continue;
    const kv_block& block = tasks[h].block;
    const auto kept = protected_rows(block, options);
    if (!kept) return in_head(kept.error(), tasks[h].id);
    const auto planned = planned_memory(sizes_of(block, query_set(tasks[h].queries)),
                                        refit_options(layer, options, rows[h], *kept));
    if (!planned) return in_head(planned.error(), tasks[h].id);
    largest = (std::max)(largest, planned->needed);
  }
  return std::max<index_t>(1, *options.memory.cap / largest);
}

/// `refit_layer`; take(head, compacted_head&&) is given each head, by several threads at once.
template <executor E, class Take>
result<void> refit_tasks(const cache_layer& layer, std::span<const std::vector<index_t>> rows,
                         std::span<const query_block> queries, const compact_options& options,
                         E&& how, Take&& take, const watch& by) {
  if (const auto ok = check_handles(options); !ok) return ok.error();
  const auto tasks = tasks_of_layer(layer, queries);
  if (!tasks) return tasks.error();
  if (rows.size() != tasks->size()) {
    return error{errc::shape_mismatch, "rows", static_cast<index_t>(rows.size()),
                 static_cast<index_t>(tasks->size()), "one list a head"};
  }
  const auto at_once = refits_within_memory(layer, *tasks, rows, options);
  if (!at_once) return at_once.error();
  return over_heads(how, static_cast<index_t>(tasks->size()), *at_once, by,
                    [&](index_t i) -> result<void> {
                      const auto h = static_cast<std::size_t>(i);
                      const head_task& task = (*tasks)[h];
                      auto one = refit_head(layer, task, rows[h], options, by.stop());
                      if (!one) return in_head(one.error(), task.id);
                      return take(h, std::move(*one));
                    });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
