// SPDX-License-Identifier: MIT
/// `metal::compact_cache()`. Include kvfit/metal/executor.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/assemble.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/device_executor.hpp"
#include "kvfit/metal/group_scores.hpp"
#include "kvfit/metal/run_compact.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// The options of one head, with the stages that the GPU is to run.
inline compact_options placed_head_options(guarded_device& on, const cache_view& cache,
                                           const cache_options& options, const head_task& task,
                                           index_t rows) {
  const auto own = kvfit::detail::head_options(options, cache.layers[task.layer], rows);
  return placed_options(on, own, query_set(task.queries).rows(), task.block.keys.rows());
}

/// Bytes of the device that the score pass of any one head takes at most.
inline double largest_head_bytes(guarded_device& on, const cache_view& cache,
                                 const cache_plan& plan, const cache_options& options) {
  double most = 0;
  for (std::size_t i = 0; i < plan.tasks.size(); ++i) {
    const head_task& task = plan.tasks[i];
    const auto own = placed_head_options(on, cache, options, task, plan.rows[i]);
    most = (std::max)(most, score_device_bytes(query_set(task.queries), task.block, own));
  }
  return most;
}

/// Whether the caps of `options` hold every head by itself, the device's memory included.
inline bool fits_cap_alone(guarded_device& on, const cache_view& cache, const cache_plan& plan,
                           const cache_options& options) {
  constexpr index_t none = (std::numeric_limits<index_t>::max)();
  const index_t cap =
      (std::min)(options.memory.value_or(none), options.head.memory.cap.value_or(none));
  const double device = largest_head_bytes(on, cache, plan, options);
  for (std::size_t i = 0; i < plan.tasks.size(); ++i) {
    const head_task& task = plan.tasks[i];
    if (plan.rows[i] == 0) continue;
    const auto own = placed_head_options(on, cache, options, task, plan.rows[i]);
    if (!fits_cap(task.block, query_set(task.queries), own, device, cap)) return false;
  }
  return true;
}

/// `kvfit::compact_heads` of all tasks, their score passes in groups.
template <kvfit::executor E>
result<std::vector<compacted_head>> compact_grouped(guarded_device& on, const cache_view& cache,
                                                    const cache_plan& plan,
                                                    const cache_options& options, E&& how,
                                                    const watch& by) {
  const auto at_once = kvfit::detail::heads_within_memory(cache, plan.tasks, plan.rows, options);
  if (!at_once) return at_once.error();
  const auto options_of = [&](std::size_t i) {
    return placed_head_options(on, cache, options, plan.tasks[i], plan.rows[i]);
  };
  group_scores scores(on, plan.tasks.size(), [&](std::size_t i, const score_runner& runner) {
    if (plan.rows[i] == 0) return;
    compact_options own = options_of(i);
    own.score_by = runner;
    const head_task& task = plan.tasks[i];
    // What it ends with is found again by the call that compacts.
    (void)kvfit::compact(task.block, query_set(task.queries), own, by.stop());
  });
  std::vector<compacted_head> heads(plan.tasks.size());
  const bool is_grouped =
      !options.memory && !options.head.memory.cap && options.head.score_by.run == nullptr;
  const auto all = kvfit::detail::over_heads(
      how, static_cast<index_t>(plan.tasks.size()), *at_once, by, [&](index_t i) -> result<void> {
        const auto place = static_cast<std::size_t>(i);
        compact_options own = options_of(place);
        if (is_grouped) own.score_by = scores.runner(place);
        auto head = kvfit::detail::fit_head(plan.tasks[place], own, options.fallback, by.stop());
        if (!head) return head.error();
        heads[place] = std::move(*head);
        return {};
      });
  if (!all) return all.error();
  return heads;
}

/// `kvfit::compact_cache` with the stages of `metal::compact` on the GPU, score passes of up to 16
/// heads in one command buffer. For that, the inputs of each head are checked once more; where a
/// cap on memory is given, each head's score pass is a command buffer of its own, and heads run one
/// after the other.
///
/// Errors: those of `kvfit::compact_cache` and of `metal::compact`. Same input, same bytes, at any
/// number of threads. Where `options.memory` or the heads' own cap does not hold all that any
/// head's stages and the device would take, all runs on the CPU.
template <kvfit::executor E>
[[nodiscard]] result<compacted_cache> compact_cache(const executor& gpu, const cache_view& cache,
                                                    const cache_queries& queries,
                                                    const cache_options& options, E&& how,
                                                    const watch& by = {}) {
  return kvfit::detail::catch_bad_alloc("compact_cache", [&]() -> result<compacted_cache> {
    cache_options placed = options;
    if (placed.head.score_by.run == nullptr) placed.head.score_by = {&gpu.state(), &run_score_pass};
    auto plan = kvfit::plan_cache(cache, queries, placed, how, by);
    if (!plan) return plan.error();
    placed.head.score_by = options.head.score_by;
    if (options.memory || options.head.memory.cap) {
      if (!fits_cap_alone(gpu.state(), cache, *plan, placed)) {
        return kvfit::compact_cache(cache, queries, options, how, by);
      }
      const auto device =
          static_cast<index_t>(largest_head_bytes(gpu.state(), cache, *plan, placed));
      if (placed.memory) *placed.memory -= device;
      if (placed.head.memory.cap) *placed.head.memory.cap -= device;
      placed.heads_at_once = 1;
    }
    auto heads = compact_grouped(gpu.state(), cache, *plan, placed, how, by);
    if (!heads) return heads.error();
    return kvfit::detail::assemble(cache, options.skip, plan->tasks, *heads);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_cache> compact_cache(const executor& gpu,
                                                           const cache_view& cache,
                                                           const cache_queries& queries,
                                                           const cache_options& options) {
  return compact_cache(gpu, cache, queries, options, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
