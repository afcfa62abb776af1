// SPDX-License-Identifier: MIT
/// One run of a selection that serves every smaller budget.
#pragma once

#include <span>
#include <vector>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/compact/compiled.hpp"
#else
#include "kvfit/compact/progression.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Compacts one head to each of `budgets` rows with one run of the selection, at the largest of
/// them that is below T: a smaller budget takes the first rows in the order of choice, of `joint`
/// the first ones by attention and the first of the others (arXiv:2602.16284, where a greedy order
/// is cut to any smaller t), and fits biases, keys and values to those anew.
///
/// The first t rows of `highest_attention` are the t it would choose alone, from the same queries;
/// those of `omp` too where k = 1, but for rows that were dropped on the way; of others they are
/// near, and those of `joint` keep its share by attention. Dead keys are not replaced, for the rows
/// are given; in the place of weights that come with a selection (`bias::from_selection`) stand
/// those of `bias::nnls`.
///
/// budgets: each as `compact_options::budget`, in any order; `options.budget` is not used.
/// `options.memory.cap` caps the whole call, all results included: the selection does with less in
/// the order of `planned_memory`, as `compact` to the largest budget would, and so does each fit
/// beside the results of the others. Errors: `empty_input` for no budget; those of `compact`;
/// `memory_cap_exceeded` before anything is computed, with the least cap that is enough for the
/// whole call; `cancelled` once `stop` is due, which is checked as there. Cost: one score pass and
/// one selection, and for each budget a score pass and the fits. Same input, same bytes.
///
///     const kvfit::index_t wanted[] = {512, 256, 128};
///     auto all = kvfit::compact_progressive(cache, queries, options, wanted);  // all->at(2): 128
[[nodiscard]] inline result<std::vector<compacted>> compact_progressive(
    const kv_block& cache, const query_set& queries, const compact_options& options,
    std::span<const index_t> budgets, const stop_when& stop = {}) {
  if (budgets.empty()) return error{errc::empty_input, "budgets", 0, error::none, {}};
#if defined(KVFIT_COMPILED)
  return compiled::compact_progressive(cache, queries, options, budgets, stop);
#else
  return detail::catch_bad_alloc("compact_progressive", [&] {
    return detail::progression(cache, queries, options, budgets, stop).run();
  });
#endif
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
