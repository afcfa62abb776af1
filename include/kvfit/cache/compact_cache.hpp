// SPDX-License-Identifier: MIT
/// `compact_cache()`: all heads of all layers in, a ragged compact cache out.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kvfit/cache/assemble.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/cache/plan_cache.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/cache/compiled.hpp"
#else
#include "kvfit/cache/compact_tasks.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Carries out a plan, handing over each head as it is done, so that no more than those under way
/// are held: for results that go to a file or back into the engine's memory.
///
/// take(place, head): `result<void>(std::size_t, compacted_head&&)`, called once a task, `place`
/// its number in the plan; never by two threads at once, in no order. Its error ends the call. What
/// it was given before an error is the caller's to undo.
///
/// Errors: those of `compact` that are found on the way, with the head's name in front ("L3H1:
/// values"), of several heads the first in order; those of `take`; `cancelled`. An exception can
/// only be one of a caller's own policy, and passes after the heads under way have ended.
template <executor E, class Take>
[[nodiscard]] result<void> compact_heads(const cache_view& cache, const cache_plan& plan,
                                         const cache_options& options, E&& how, Take&& take,
                                         const watch& by = {}) {
#if defined(KVFIT_COMPILED)
  return compiled::best_cache().heads(cache, plan, options, executor_ref(how), by,
                                      compiled::taker_of(take));
#else
  return detail::compact_tasks(cache, plan, options, how, take, by);
#endif
}

/// Compacts every head of every global layer to the rows that the budget policy gives it, on the
/// executor's threads; a head is one item.
///
/// Each head is `compact(block, queries of its group, options.head)` with its own budget, bit for
/// bit. Sliding layers and those in `options.skip` are left as they are and listed. A head's rows
/// are those of its own budget; none are padded.
///
/// Errors, before anything is compacted: those of `plan_cache`. On the way: those of
/// `compact_heads`; then nothing is returned. Same input, same bytes, at any number of threads.
/// Cost: that of the heads; holds the results, once more those of one layer, and the workspaces of
/// the heads under way (`heads_at_once`).
///
///     thread_pool pool;
///     auto small = compact_cache(cache, queries, {.budget = rows_of(cache) / 20}, pool);
///     if (!small) return small.error();
///     attend(query, {small->layers[l].block(h), live[l][h]});
template <executor E>
[[nodiscard]] result<compacted_cache> compact_cache(const cache_view& cache,
                                                    const cache_queries& queries,
                                                    const cache_options& options, E&& how,
                                                    const watch& by = {}) {
  return detail::catch_bad_alloc("compact_cache", [&]() -> result<compacted_cache> {
    const auto plan = plan_cache(cache, queries, options, how, by);
    if (!plan) return plan.error();
    std::vector<compacted_head> heads(plan->tasks.size());
    const auto all = compact_heads(
        cache, *plan, options, how,
        [&](std::size_t place, compacted_head&& head) -> result<void> {
          heads[place] = std::move(head);
          return {};
        },
        by);
    if (!all) return all.error();
    return detail::assemble(cache, options.skip, plan->tasks, heads);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_cache> compact_cache(const cache_view& cache,
                                                           const cache_queries& queries,
                                                           const cache_options& options) {
  return compact_cache(cache, queries, options, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
