// SPDX-License-Identifier: MIT
/// How many rows each head of a cache will keep, before any is compacted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"

namespace kvfit {

/// The heads to compact and their budgets, in the order of the view.
struct cache_plan {
  std::vector<head_task> tasks;  ///< refer to the view and the queries they were made from
  std::vector<index> rows;       ///< t_h, one a task, 0 … `head_task::visible`
};

}  // namespace kvfit

namespace kvfit::detail::inline KVFIT_ISA {

/// The options of one head's own `compact`.
template <class Selection, class Bias, class Values>
compaction<Selection, Bias, Values> head_options(
    const cache_compaction<Selection, Bias, Values>& options, const cache_layer& layer,
    index rows) {
  auto own = options.head;
  own.budget = rows;
  if (layer.rule) own.rule = *layer.rule;
  if (layer.rotation) own.refine.rotation = layer.rotation;
  if (options.memory) own.memory = std::min(*options.memory, own.memory.value_or(*options.memory));
  return own;
}

inline std::vector<head_rows> lengths_of(std::span<const head_task> tasks) {
  std::vector<head_rows> heads;
  heads.reserve(tasks.size());
  for (const head_task& task : tasks) heads.push_back({task.id, task.visible});
  return heads;
}

/// Rows of all heads; `check_heads` lets through no lengths whose sum does not fit.
inline index total_length(std::span<const head_rows> heads) {
  return std::accumulate(heads.begin(), heads.end(), index{0},
                         [](index sum, const head_rows& head) { return sum + head.rows; });
}

/// The limits of the options, and room in every head for its protected rows and one besides.
template <class Options>
result<std::vector<row_bounds>> bounds_of_tasks(std::span<const head_rows> heads,
                                                const Options& options) {
  auto bounds = bounds_of(heads, options.limits);
  if (!bounds) return bounds;
  const auto& head = options.head;
  if (head.protect_first < 0 || head.protect_last < 0) return bounds;  // refused with the heads
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const index first = std::min(head.protect_first, heads[h].rows);
    const index kept = first + std::min(head.protect_last, heads[h].rows - first);
    if (kept == 0) continue;
    row_bounds& own = (*bounds)[h];
    own.least = std::max(own.least, std::min(kept + 1, heads[h].rows));
    own.most = std::max(own.most, own.least);
  }
  return bounds;
}

/// Importance of the keys of each head that may be kept, under `budgets::global_ranking`.
template <class Options, executor E>
result<std::vector<std::vector<float>>> importance_of_tasks(const cache_view& cache,
                                                            std::span<const head_task> tasks,
                                                            const Options& options, E&& how,
                                                            const watch& by,
                                                            index* failed_at = nullptr) {
  const auto wanted = wanted_scores(std::get<budgets::global_ranking>(options.shares).by);
  const logit_rule& rule = options.head.rule;
  std::vector<std::vector<float>> importance(tasks.size());
  const auto measured = over_heads(
      how, static_cast<index>(tasks.size()), options.heads_at_once,
      {.cancel = by.cancel, .progress = {}, .deadline = by.deadline},
      [&](index i) -> result<void> {
        const head_task& task = tasks[static_cast<std::size_t>(i)];
        const auto scores = score_checked(task.block, task.queries,
                                          cache.layers[task.layer].rule.value_or(rule), wanted);
        if (!scores) return in_head(scores.error(), task.id);
        auto& own = importance[static_cast<std::size_t>(i)];
        own.reserve(static_cast<std::size_t>(task.visible));
        for (index j = 0; j < scores->importance.size(); ++j) {
          const bool is_hidden =
              !task.block.bias.empty() && !is_finite(task.block.bias[static_cast<std::size_t>(j)]);
          if (!is_hidden) own.push_back(scores->importance[j]);
        }
        return {};
      },
      failed_at);
  if (!measured) return measured.error();
  return importance;
}

/// Rows that the caller has given, no more than there are.
template <class Options>
result<std::vector<index>> given_rows(const std::vector<index>& each,
                                      std::span<const head_rows> heads, const Options& options) {
  if (each.size() != heads.size()) {
    return error{errc::shape_mismatch, "shares.each", static_cast<index>(each.size()),
                 static_cast<index>(heads.size()), "one number for each head to compact"};
  }
  const index kept = options.head.protect_first + options.head.protect_last;
  const index least = kept > 0 ? kept + 1 : 0;
  std::vector<index> rows = each;
  for (std::size_t h = 0; h < rows.size(); ++h) {
    rows[h] = std::min(rows[h], heads[h].rows);
    if (rows[h] < std::min(least, heads[h].rows)) {
      return error{errc::budget_out_of_range, name(heads[h].id), rows[h], least,
                   "must exceed the protected rows, and not be negative"};
    }
  }
  return rows;
}

/// Refuses budgets before any key is looked at. True where the policy ranks keys and not all can be
/// kept: `share_out` then needs their importance.
template <class Options>
result<bool> check_shares(std::span<const head_rows> heads, const Options& options) {
  if (const auto ok = check_heads(heads); !ok) return ok.error();
  if (std::holds_alternative<budgets::rows>(options.shares)) return false;
  if (options.budget < 1) {
    return error{errc::budget_out_of_range, "budget", options.budget, 1, "must be at least 1"};
  }
  if (options.budget >= total_length(heads)) return false;
  const auto bounds = bounds_of_tasks(heads, options);
  if (!bounds) return bounds.error();
  if (const auto ok = check_total(*bounds, options.budget); !ok) return ok.error();
  const auto* ranking = std::get_if<budgets::global_ranking>(&options.shares);
  if (ranking == nullptr) return false;
  if (const auto ok = check_settings(ranking->by); !ok) return ok.error();
  return true;
}

/// Rows by the policy of options that `check_shares` lets through, within bounds and with an exact
/// sum. importance: of the keys of each head, where `check_shares` asks for it; sorted.
template <class Options>
result<std::vector<index>> share_out(std::span<const head_rows> heads, const Options& options,
                                     std::span<std::vector<float>> importance) {
  const auto* given = std::get_if<budgets::rows>(&options.shares);
  if (given != nullptr) return given_rows(given->each, heads, options);
  if (options.budget >= total_length(heads)) {
    std::vector<index> all;
    for (const head_rows& head : heads) all.push_back(head.rows);
    return all;
  }
  const auto bounds = bounds_of_tasks(heads, options);
  if (!bounds) return bounds.error();
  return std::visit(
      [&]<class Policy>(const Policy& policy) -> result<std::vector<index>> {
        if constexpr (std::is_same_v<Policy, budgets::rows>) {
          return given_rows(policy.each, heads, options);
        } else if constexpr (std::is_same_v<Policy, budgets::global_ranking>) {
          return rank_globally(importance, *bounds, options.budget);
        } else {
          return allocate_within(heads, *bounds, options.budget, policy);
        }
      },
      options.shares);
}

/// Heads that may be under way together within `options.memory`, no more than `heads_at_once`; 0:
/// as many as the executor runs. Fewer at a time change no byte of the result, so they go first; a
/// head that needs more than the cap alone does with less, in the order of `planned_memory`.
template <class Options>
result<index> heads_within_memory(const cache_view& cache, const cache_plan& plan,
                                  const Options& options) {
  if (!options.memory) return options.heads_at_once;
  index largest = 1;
  for (std::size_t h = 0; h < plan.tasks.size(); ++h) {
    const head_task& task = plan.tasks[h];
    if (plan.rows[h] == 0) continue;
    const auto own = head_options(options, cache.layers[task.layer], plan.rows[h]);
    const auto planned = planned_memory(sizes_of(task.block, task.queries), own);
    if (!planned) return in_head(planned.error(), task.id);
    largest = std::max(largest, planned->needed);
  }
  const index lanes = std::max<index>(1, *options.memory / largest);
  return options.heads_at_once == 0 ? lanes : std::min(lanes, options.heads_at_once);
}

/// Everything that `compact` would refuse of every head, but for budgets.
template <class Options, executor E>
result<void> check_tasks(const cache_view& cache, std::span<const head_task> tasks,
                         const Options& options, E&& how, const watch& by,
                         index* failed_at = nullptr) {
  return over_heads(
      how, static_cast<index>(tasks.size()), options.heads_at_once,
      {.cancel = by.cancel, .progress = {}, .deadline = by.deadline},
      [&](index i) -> result<void> {
        const head_task& task = tasks[static_cast<std::size_t>(i)];
        const index rows = std::max<index>(task.block.keys.rows(), 1);
        const auto own = head_options(options, cache.layers[task.layer], rows);
        const auto ok = check_compaction(task.block, task.queries, own);
        if (!ok) return in_head(ok.error(), task.id);
        return {};
      },
      failed_at);
}

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

/// Checks every head and shares rows out: what `compact_cache` does before its first compaction.
///
/// Errors: those of `tasks_of`, of the budget policy and of `compact`'s checks, these with the
/// head's name in front ("L3H1: keys"); `cancelled`. Cost: one read of all inputs; under
/// `budgets::global_ranking` a score pass of every head besides, and 4 bytes a row.
template <class Selection, class Bias, class Values, executor E>
[[nodiscard]] result<cache_plan> plan_cache(
    const cache_view& cache, const cache_queries& queries,
    const cache_compaction<Selection, Bias, Values>& options, E&& how, const watch& by = {}) {
  return detail::guard_memory("plan_cache", [&]() -> result<cache_plan> {
    if (options.heads_at_once < 0) {
      return error{errc::invalid_option, "heads_at_once", options.heads_at_once, 0,
                   "must not be negative"};
    }
    auto tasks = tasks_of(cache, queries, options.skip);
    if (!tasks) return tasks.error();
    cache_plan plan{std::move(*tasks), {}};
    // A score pass must not read what is not there.
    if (const auto ok = detail::check_tasks(cache, plan.tasks, options, how, by); !ok)
      return ok.error();
    const std::vector<head_rows> heads = detail::lengths_of(plan.tasks);
    const auto ranks = detail::check_shares(heads, options);
    if (!ranks) return ranks.error();
    std::vector<std::vector<float>> importance;
    if (*ranks) {
      auto measured = detail::importance_of_tasks(cache, plan.tasks, options, how, by);
      if (!measured) return measured.error();
      importance = std::move(*measured);
    }
    auto rows = detail::share_out(heads, options, importance);
    if (!rows) return rows.error();
    plan.rows = std::move(*rows);
    return plan;
  });
}

}  // namespace kvfit::inline KVFIT_ISA
