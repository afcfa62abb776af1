// SPDX-License-Identifier: MIT
/// The work of `compact_heads`.
#pragma once

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/cache/exchange.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/kept_scores.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/plan_tasks.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/progress.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `compact_heads`; `failed_at`, if given, is told the place in the plan whose error is returned.
template <executor E, class Take>
result<void> compact_tasks(const cache_view& cache, const cache_plan& plan,
                           const cache_options& options, E&& how, Take&& take, const watch& by,
                           index_t* failed_at = nullptr) {
  // A plan whose tasks were changed has no scores that belong to them.
  const bool has_known = plan.known.size() == plan.tasks.size();
  std::vector<char> is_known(plan.tasks.size(), 0);
  for (std::size_t h = 0; has_known && h < is_known.size(); ++h) {
    is_known[h] = plan.known[h].max.empty() ? 0 : 1;
  }
  const auto at_once = heads_within_memory(cache, plan.tasks, plan.rows, options, failed_at,
                                           kept_bytes(is_known, plan.tasks));
  if (!at_once) return at_once.error();
  std::mutex taking;
  return over_heads(
      how, static_cast<index_t>(plan.tasks.size()), *at_once, by,
      [&](index_t i) -> result<void> {
        const auto place = static_cast<std::size_t>(i);
        const head_task& task = plan.tasks[place];
        const auto own = head_options(options, cache.layers[task.layer], plan.rows[place]);
        // Other options than those that were planned with may ask for another pass.
        const known_scores* known = has_known ? &plan.known[place] : nullptr;
        if (known != nullptr && !(known->rule == own.rule && repeats_pass(task, own, known->made)))
          known = nullptr;
        auto head = fit_head(task, own, options.fallback, by.stop(), known);
        if (!head) return head.error();
        const std::lock_guard<std::mutex> guard(taking);
        return take(place, std::move(*head));
      },
      failed_at);
}

/// The plan of all processes' heads, and as many of these as `with` brings together.
template <executor E>
result<std::vector<compacted_head>> plan_and_fit(head_exchange& with, const cache_view& cache,
                                                 const cache_queries& queries,
                                                 const cache_options& options, E&& how,
                                                 const watch& by, cache_plan& plan) {
  auto made = plan_heads(with, cache, queries, options, how, by);
  if (!made) return made.error();
  plan = std::move(*made);
  const cache_plan& own = with.own(plan);
  std::vector<compacted_head> heads;
  auto ok = with.step([&](index_t& failed_at) -> result<void> {
    heads.resize(own.tasks.size());
    const auto put = [&](std::size_t place, compacted_head&& head) -> result<void> {
      heads[place] = std::move(head);
      return {};
    };
    return compact_tasks(cache, own, options, how, put, by, &failed_at);
  });
  if (ok) ok = with.share_heads(plan, heads);
  if (!ok) return ok.error();
  return heads;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
