// SPDX-License-Identifier: MIT
/// The memory that a compaction takes, known beforehand.
#pragma once

#include "kvfit/compact/options.hpp"
#include "kvfit/compact/report.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/compact/compiled.hpp"
#else
#include "kvfit/compact/memory_planner.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// What `compact()` would hold at most for inputs of these sizes, and what it would do without to
/// keep to `options.memory.cap`; the very report that it then gives. Nothing is computed.
///
///     auto plan = planned_memory(sizes_of(cache, queries), options);
///     if (plan && plan->needed <= free_bytes) auto fitted = compact(cache, queries, options);
///
/// `needed` counts what is asked of the allocator, the result included, inputs not, in the worst
/// case: of every solver's ways the one that takes most, of every vector its moment of growth, and
/// 256 KB for what is small. Types and layouts of the inputs do not enter, for rows are converted
/// tile by tile; hidden rows and positions out of order do (`compaction_sizes::order`). Where named
/// rows may or may not be among the first and last ones that are protected, it is the worst of all
/// counts. A caller's own policy lists what it holds (its result included) by a
/// function beside it (core/workspace.hpp), else it counts as nothing and `is_complete` is false:
///
///     void declare(workspace& space, const P&, const head_sizes& sizes) {
///       space.count(double_bytes(2, sizes.budget));
///     }
///
/// Under a cap these are given up, in this order, each only where those before it do not do, and
/// 1 and 2 are given back where the later ones alone do:
///
/// 0. Panels of queries computed at the same time (full scores, and logits of the kept keys), where
///    there is an executor.
/// 1. What the selection stores (`memory.selection`): first OMP's copy of the n × T exponentials in
///    bf16; then these themselves: joint selection makes them anew, and OMP only a round's
///    candidates, found by a copy in bf16; then that copy, and the folded columns: each round makes
///    all of them anew, which is slow. The choice is the same but for rounding; without folding,
///    joint selection uses all queries.
/// 2. Refinement: made sets beside a batch, as few of them as need be; then the batch, by
///    halves, to 512 queries.
/// 3. Queries fitted on. Where a rule or a mask may hide keys: first, that the fit begins again on
///    all given queries where those chosen see no key (then on as many, spread over all). Then a
///    quarter of them at a time, down to two a row selected, or 256 where that is more.
///
/// What stays: the budget, the policies, the queries held out (a judge of fewer would tell less),
/// and panels of up to 16 MB or eight rows of T logits (smaller ones would read all keys more
/// often).
///
/// Errors: those of `compact()` that sizes and options can show, and `memory_cap_exceeded` with
/// the least it would need and the cap. Cost: some microseconds for each query block, and for each
/// count of protected rows that may be.
[[nodiscard]] inline result<memory_report> planned_memory(const compaction_sizes& sizes,
                                                          const compact_options& options) {
#if defined(KVFIT_COMPILED)
  return compiled::available().front().compact->planned_memory(sizes, options);
#else
  return detail::catch_bad_alloc("planned_memory",
                                 [&] { return detail::plan_memory(sizes, options); });
#endif
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
