// SPDX-License-Identifier: MIT
/// How many rows each head of a cache will keep, before any is compacted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/attention/score_by.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/exchange.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/share_out.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"

namespace kvfit {

/// The heads to compact and their budgets, in the order of the view.
struct cache_plan {
  std::vector<head_task> tasks;  ///< refer to what the view and the queries refer to
  std::vector<index_t> rows;     ///< t_h, one a task, 0 … `head_task::visible`
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Importance of the keys of each head that may be kept, under `budgets::global_ranking`.
template <executor E>
result<std::vector<std::vector<float>>> importance_of_tasks(const cache_view& cache,
                                                            std::span<const head_task> tasks,
                                                            const cache_options& options, E&& how,
                                                            const watch& by, index_t* failed_at) {
  score_options wanted = wanted_scores(std::get<budgets::global_ranking>(options.shares).by);
  wanted.precision = options.head.precision;
  const auto at_once = rankings_within_memory(tasks, wanted, options, failed_at);
  if (!at_once) return at_once.error();
  const logit_rule& rule = options.head.rule;
  std::vector<std::vector<float>> importance(tasks.size());
  const auto measured = over_heads(
      how, static_cast<index_t>(tasks.size()), *at_once,
      {.cancel = by.cancel, .progress = {}, .deadline = by.deadline},
      [&](index_t i) -> result<void> {
        const head_task& task = tasks[static_cast<std::size_t>(i)];
        const auto within = ranking_within_memory(task, wanted, options);
        if (!within) return in_head(within.error(), task.id);
        const auto scores =
            score_by(options.head.score_by, task.block, query_set(task.queries),
                     cache.layers[task.layer].rule.value_or(rule), *within, {}, by.stop(), {});
        if (!scores) return in_head(scores.error(), task.id);
        auto& own = importance[static_cast<std::size_t>(i)];
        own.reserve(static_cast<std::size_t>(task.visible));
        for (index_t j = 0; j < scores->importance.size(); ++j) {
          if (!task.block.is_hidden(j)) own.push_back(scores->importance[j]);
        }
        return {};
      },
      failed_at);
  if (!measured) return measured.error();
  return importance;
}

/// Everything that `compact` would refuse of every head, but for budgets.
template <executor E>
result<void> check_tasks(const cache_view& cache, std::span<const head_task> tasks,
                         const cache_options& options, E&& how, const watch& by,
                         index_t* failed_at) {
  return over_heads(
      how, static_cast<index_t>(tasks.size()), checks_within_memory(tasks, options),
      {.cancel = by.cancel, .progress = {}, .deadline = by.deadline},
      [&](index_t i) -> result<void> {
        const head_task& task = tasks[static_cast<std::size_t>(i)];
        const index_t rows = std::max<index_t>(task.block.keys.rows(), 1);
        const auto own = head_options(options, cache.layers[task.layer], rows);
        const auto ok = check_compaction(task.block, query_set(task.queries), own);
        if (!ok) return in_head(ok.error(), task.id);
        return {};
      },
      failed_at);
}

/// `plan_cache` of all processes' heads, which `with` brings together.
template <executor E>
result<cache_plan> plan_together(head_exchange& with, const cache_view& cache,
                                 const cache_queries& queries, const cache_options& options,
                                 E&& how, const watch& by) {
  cache_plan plan;
  auto ok = with.step([&](index_t&) -> result<void> {
    if (options.heads_at_once >= 0) return {};
    return error{errc::invalid_option, "heads_at_once", options.heads_at_once, 0,
                 "must not be negative"};
  });
  if (ok) ok = with.find_heads(cache, queries, options, plan.tasks);
  if (!ok) return ok.error();
  const std::vector<head_task>& own = with.own(plan).tasks;
  // A score pass must not read what is not there.
  ok = with.step(
      [&](index_t& failed_at) { return check_tasks(cache, own, options, how, by, &failed_at); });
  if (!ok) return ok.error();
  const auto joined = with.join_shares(options);
  if (!joined) return joined.error();
  const cache_options& of_all = **joined;
  std::vector<head_rows> heads;
  std::vector<std::vector<float>> importance;
  bool ranks_keys = false;
  ok = with.step([&](index_t& failed_at) -> result<void> {
    heads = lengths_of(plan.tasks);
    const auto asks = check_shares(heads, of_all);
    if (!asks) return asks.error();
    ranks_keys = *asks;
    if (!ranks_keys) return {};
    auto measured = importance_of_tasks(cache, own, options, how, by, &failed_at);
    if (!measured) return measured.error();
    importance = std::move(*measured);
    return {};
  });
  if (ok && ranks_keys) ok = with.share_importance(importance);
  if (!ok) return ok.error();
  ok = with.step([&](index_t&) -> result<void> {
    auto rows = share_out(heads, of_all, importance);
    if (!rows) return rows.error();
    plan.rows = std::move(*rows);
    return {};
  });
  if (ok) ok = with.settle(plan);
  if (!ok) return ok.error();
  return plan;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Checks every head and shares rows out: what `compact_cache` does before its first compaction.
///
/// Errors: those of `tasks_of`, of the budget policy and of `compact`'s checks, these with the
/// head's name in front ("L3H1: keys"); `cancelled`. Cost: one read of all inputs; under
/// `budgets::global_ranking` a score pass of every head besides, as many at a time as
/// `options.memory` has space for, and 4 bytes a row.
template <executor E>
[[nodiscard]] result<cache_plan> plan_cache(const cache_view& cache, const cache_queries& queries,
                                            const cache_options& options, E&& how,
                                            const watch& by = {}) {
  return detail::catch_bad_alloc("plan_cache", [&]() -> result<cache_plan> {
    detail::head_exchange alone;
    return detail::plan_together(alone, cache, queries, options, how, by);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
