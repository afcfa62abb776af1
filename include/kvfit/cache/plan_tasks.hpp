// SPDX-License-Identifier: MIT
/// The work of `plan_cache`: every head is checked, ranked where the budget policy asks for it, and
/// given its rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/attention/known_scores.hpp"
#include "kvfit/attention/score_by.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/exchange.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/kept_scores.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/share_out.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/progress.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Importance of the keys of each head that may be kept, under a policy that ranks
/// them (`ranking_of`). Makes `known`, where given, what the fits need not compute again.
template <executor E>
result<std::vector<std::vector<float>>> importance_of_tasks(const cache_view& cache,
                                                            std::span<const head_task> tasks,
                                                            const cache_options& options, E&& how,
                                                            const watch& by, index_t* failed_at,
                                                            std::vector<known_scores>* known) {
  score_options wanted = wanted_scores(*ranking_of(options.shares));
  wanted.precision = options.head.precision;
  const auto largest = largest_ranking(tasks, wanted, options, failed_at);
  if (!largest) return largest.error();
  std::vector<char> is_kept(tasks.size(), 0);
  if (known != nullptr) {
    known->resize(tasks.size());
    for (std::size_t h = 0; h < tasks.size(); ++h) {
      const auto within = ranking_within_memory(tasks[h], wanted, options);
      const auto own = head_options(options, cache.layers[tasks[h].layer], 1);
      is_kept[h] = within && repeats_pass(tasks[h], own, *within) ? 1 : 0;
    }
    limit_kept(is_kept, tasks, *largest, executor_ref(how).threads(), options);
  }
  const index_t at_once = lanes_of(*largest, options, kept_bytes(is_kept, tasks));
  const logit_rule& rule = options.head.rule;
  std::vector<std::vector<float>> importance(tasks.size());
  const auto measured = over_heads(
      how, static_cast<index_t>(tasks.size()), at_once,
      {.cancel = by.cancel, .progress = {}, .deadline = by.deadline},
      [&](index_t i) -> result<void> {
        const head_task& task = tasks[static_cast<std::size_t>(i)];
        const auto within = ranking_within_memory(task, wanted, options);
        if (!within) return in_head(within.error(), task.id);
        const logit_rule asked = cache.layers[task.layer].rule.value_or(rule);
        const auto scores = score_by(options.head.score_by, task.block, query_set(task.queries),
                                     asked, *within, {}, by.stop(), {});
        if (!scores) return in_head(scores.error(), task.id);
        auto& own = importance[static_cast<std::size_t>(i)];
        own.reserve(static_cast<std::size_t>(task.visible));
        for (index_t j = 0; j < scores->importance.size(); ++j) {
          if (!task.block.is_hidden(j)) own.push_back(scores->importance[j]);
        }
        const auto h = static_cast<std::size_t>(i);
        if (is_kept[h] != 0) (*known)[h] = known_from(*scores, asked, *within);
        return {};
      },
      failed_at);
  if (!measured) return measured.error();
  return importance;
}

/// Frees what no fit will use, and under a cap what is in the way of fits under way.
inline void release_scores(const cache_view& cache, cache_plan& plan, const cache_options& options,
                           int threads) {
  std::vector<char> is_kept(plan.known.size(), 0);
  for (std::size_t h = 0; h < plan.known.size(); ++h) {
    const bool is_fitted = plan.rows[h] > 0 && plan.rows[h] < plan.tasks[h].visible;
    is_kept[h] = is_fitted && !plan.known[h].max.empty() ? 1 : 0;
  }
  const auto largest = largest_fit(cache, plan.tasks, plan.rows, options);
  if (largest) limit_kept(is_kept, plan.tasks, *largest, threads, options);
  for (std::size_t h = 0; h < plan.known.size(); ++h) {
    if (!largest || is_kept[h] == 0) plan.known[h] = {};
  }
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

/// `plan_cache` for the heads of all processes of an exchange.
template <executor E>
result<cache_plan> plan_heads(head_exchange& with, const cache_view& cache,
                              const cache_queries& queries, const cache_options& options, E&& how,
                              const watch& by) {
  cache_plan plan;
  const auto of_all = with.find_heads(cache, queries, options, plan.tasks);
  if (!of_all) return of_all.error();
  const std::vector<head_task>& own = with.own(plan).tasks;
  // A score pass must not read what is not there.
  auto ok = with.step(
      [&](index_t& failed_at) { return check_tasks(cache, own, options, how, by, &failed_at); });
  std::vector<head_rows> heads;
  std::vector<std::vector<float>> importance;
  bool needs_importance = false;
  const auto rank_keys = [&](index_t& failed_at) -> result<void> {
    heads = lengths_of(plan.tasks);
    const auto asks = check_shares(heads, **of_all);
    if (!asks) return asks.error();
    needs_importance = *asks;
    if (!needs_importance) return {};
    auto* const known = with.keeps_scores() ? &plan.known : nullptr;
    auto measured = importance_of_tasks(cache, own, options, how, by, &failed_at, known);
    if (!measured) return measured.error();
    importance = std::move(*measured);
    return {};
  };
  if (ok) ok = with.step(rank_keys);
  if (ok && needs_importance) ok = with.share_importance(importance);
  const auto give_rows = [&](index_t&) -> result<void> {
    auto rows = share_out(heads, **of_all, importance);
    if (!rows) return rows.error();
    plan.rows = std::move(*rows);
    if (!plan.known.empty()) release_scores(cache, plan, options, executor_ref(how).threads());
    return {};
  };
  if (ok) ok = with.step(give_rows);
  if (ok) ok = with.settle(plan);
  if (!ok) return ok.error();
  return plan;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
