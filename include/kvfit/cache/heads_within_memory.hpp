// SPDX-License-Identifier: MIT
/// How many heads of a cache may be under way together within `cache_options::memory`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/attention/score_bytes.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Lanes of at most `largest` bytes each, no more than `options.heads_at_once`; 0: as many as the
/// executor runs. Fewer at a time change no byte of a result, so they go first; a head that needs
/// more than the cap alone does with less. `besides`: bytes of the cap that others hold.
inline index_t lanes_of(index_t largest, const cache_options& options, index_t besides = 0) {
  if (!options.memory) return options.heads_at_once;
  const index_t left = std::max<index_t>(*options.memory - besides, 0);
  const index_t lanes = std::max<index_t>(1, left / std::max<index_t>(largest, 1));
  return options.heads_at_once == 0 ? lanes : (std::min)(lanes, options.heads_at_once);
}

/// The most that a head takes to be compacted, or to fall back to copies where it may.
///
/// rows: the budget of each task. `memory_cap_exceeded`, with the head's name, where a head can't
/// keep to the cap in the order of `planned_memory`, by its method or by the copies. `failed_at`,
/// if given, is told the place of that head.
inline result<index_t> largest_fit(const cache_view& cache, std::span<const head_task> tasks,
                                   std::span<const index_t> rows, const cache_options& options,
                                   index_t* failed_at = nullptr) {
  const auto refuse = [&](const error& cause, std::size_t h) {
    if (failed_at != nullptr) *failed_at = static_cast<index_t>(h);
    return in_head(cause, tasks[h].id);
  };
  index_t largest = 1;
  for (std::size_t h = 0; h < tasks.size(); ++h) {
    const head_task& task = tasks[h];
    if (rows[h] == 0) continue;
    const auto own = head_options(options, cache.layers[task.layer], rows[h]);
    const compaction_sizes sizes = sizes_of(task.block, query_set(task.queries));
    const auto fitted = planned_memory(sizes, own);
    if (!fitted) return refuse(fitted.error(), h);
    largest = (std::max)(largest, fitted->needed);
    if (options.fallback != head_fallback::copies) continue;
    const auto copied = planned_memory(sizes, copying(own));
    if (!copied) return refuse(copied.error(), h);
    largest = (std::max)(largest, copied->needed);
  }
  return largest;
}

/// Heads that may be compacted together, beside so many bytes; errors are those of `largest_fit`.
inline result<index_t> heads_within_memory(const cache_view& cache,
                                           std::span<const head_task> tasks,
                                           std::span<const index_t> rows,
                                           const cache_options& options,
                                           index_t* failed_at = nullptr, index_t besides = 0) {
  if (!options.memory) return options.heads_at_once;
  const auto largest = largest_fit(cache, tasks, rows, options, failed_at);
  if (!largest) return largest;
  return lanes_of(*largest, options, besides);
}

/// The score pass that ranks a task's keys, within `options.memory`: by smaller panels of queries
/// where it must.
inline result<score_options> ranking_within_memory(const head_task& task, score_options wanted,
                                                   const cache_options& options) {
  wanted.memory = options.memory;
  return detail::score_options_within(sizes_of_head(task.block, query_set(task.queries)), wanted);
}

/// The most that a head takes to be ranked; its importance, 4 bytes a row, is a result.
/// `memory_cap_exceeded`, with the head's name, where one score pass takes more than the cap;
/// `failed_at`, if given, is told that head's place.
inline result<index_t> largest_ranking(std::span<const head_task> tasks,
                                       const score_options& wanted, const cache_options& options,
                                       index_t* failed_at = nullptr) {
  double largest = 1;
  for (std::size_t h = 0; h < tasks.size(); ++h) {
    const head_task& task = tasks[h];
    const auto own = ranking_within_memory(task, wanted, options);
    if (!own) {
      if (failed_at != nullptr) *failed_at = static_cast<index_t>(h);
      return in_head(own.error(), task.id);
    }
    largest = (std::max)(
        largest, checked_scores_bytes(sizes_of_head(task.block, query_set(task.queries)), *own));
  }
  return whole_bytes(largest);
}

/// Heads that may be checked together: each is read tile by tile.
inline index_t checks_within_memory(std::span<const head_task> tasks,
                                    const cache_options& options) {
  if (!options.memory) return options.heads_at_once;
  index_t largest = 1;
  for (const head_task& task : tasks) {
    workspace space;
    declare_check(space, sizes_of_head(task.block, query_set(task.queries)));
    largest = (std::max)(largest, whole_bytes(space.most()));
  }
  return lanes_of(largest, options);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
