// SPDX-License-Identifier: MIT
/// The work of `compact_heads`.
#pragma once

#include <cstddef>
#include <mutex>
#include <utility>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/over_heads.hpp"
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
  const auto at_once = heads_within_memory(cache, plan.tasks, plan.rows, options, failed_at);
  if (!at_once) return at_once.error();
  std::mutex taking;
  return over_heads(
      how, static_cast<index_t>(plan.tasks.size()), *at_once, by,
      [&](index_t i) -> result<void> {
        const auto place = static_cast<std::size_t>(i);
        const head_task& task = plan.tasks[place];
        const auto own = head_options(options, cache.layers[task.layer], plan.rows[place]);
        auto head = fit_head(task, own, options.fallback, by.stop());
        if (!head) return head.error();
        const std::lock_guard<std::mutex> guard(taking);
        return take(place, std::move(*head));
      },
      failed_at);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
