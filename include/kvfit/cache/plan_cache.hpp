// SPDX-License-Identifier: MIT
/// How many rows each head of a cache will keep, before any is compacted.
#pragma once

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/progress.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/cache/compiled.hpp"
#else
#include "kvfit/cache/plan_tasks.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Checks every head and shares rows out: what `compact_cache` does before its first compaction.
///
/// Errors: those of `tasks_of`, of the budget policy and of `compact`'s checks, these with the
/// head's name in front ("L3H1: keys"); `cancelled`. Cost: one read of all inputs; under
/// `budgets::global_ranking` and `layer_ranking` a score pass of every head besides, as many at a
/// time as `options.memory` has space for, and 4 bytes a row. Where the fits would begin with that
/// very pass (a selection by the same importance, all queries fitted on), the plan keeps what it
/// gave, 4 bytes · (n (d_v + 3) + T) a head, so that no head is scored twice; under
/// `options.memory` as many of them as leave memory for the heads under way.
template <executor E>
[[nodiscard]] result<cache_plan> plan_cache(const cache_view& cache, const cache_queries& queries,
                                            const cache_options& options, E&& how,
                                            const watch& by = {}) {
  return detail::catch_bad_alloc("plan_cache", [&]() -> result<cache_plan> {
#if defined(KVFIT_COMPILED)
    return compiled::best_cache().plan(cache, queries, options, executor_ref(how), by);
#else
    detail::head_exchange alone;
    return detail::plan_heads(alone, cache, queries, options, how, by);
#endif
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
