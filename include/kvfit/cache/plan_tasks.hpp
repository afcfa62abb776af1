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

#include "kvfit/attention/score_panels.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/share_out.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/progress.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Importance of the keys of each head that may be kept, under `budgets::global_ranking`.
template <executor E>
result<std::vector<std::vector<float>>> importance_of_tasks(const cache_view& cache,
                                                            std::span<const head_task> tasks,
                                                            const cache_options& options, E&& how,
                                                            const watch& by,
                                                            index_t* failed_at = nullptr) {
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
            score_checked(task.block, query_set(task.queries),
                          cache.layers[task.layer].rule.value_or(rule), *within, {}, by.stop());
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
                         index_t* failed_at = nullptr) {
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

/// `plan_cache`.
template <executor E>
result<cache_plan> plan_tasks(const cache_view& cache, const cache_queries& queries,
                              const cache_options& options, E&& how, const watch& by) {
  if (options.heads_at_once < 0) {
    return error{errc::invalid_option, "heads_at_once", options.heads_at_once, 0,
                 "must not be negative"};
  }
  auto tasks = tasks_of(cache, queries, options.skip);
  if (!tasks) return tasks.error();
  cache_plan plan{std::move(*tasks), {}};
  // A score pass must not read what is not there.
  if (const auto ok = check_tasks(cache, plan.tasks, options, how, by); !ok) return ok.error();
  const std::vector<head_rows> heads = lengths_of(plan.tasks);
  const auto ranks = check_shares(heads, options);
  if (!ranks) return ranks.error();
  std::vector<std::vector<float>> importance;
  if (*ranks) {
    auto measured = importance_of_tasks(cache, plan.tasks, options, how, by);
    if (!measured) return measured.error();
    importance = std::move(*measured);
  }
  auto rows = share_out(heads, options, importance);
  if (!rows) return rows.error();
  plan.rows = std::move(*rows);
  return plan;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
