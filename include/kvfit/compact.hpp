// SPDX-License-Identifier: MIT
/// `compact()`: one head's long cache in, a short one that behaves like it out.
#pragma once

#include "kvfit/attention/known_scores.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/compact/compiled.hpp"
#else
#include "kvfit/compact/run.hpp"
#endif

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `compact`, with `known` scores (see `stages::problem`), or null. The library scores for itself.
inline result<compacted> compact_known(const kv_block& cache, const query_set& queries,
                                       const compact_options& options,
                                       [[maybe_unused]] const known_scores* known,
                                       const stop_when& stop = {},
                                       const executor_ref& threads = {}) {
#if defined(KVFIT_COMPILED)
  return compiled::compact(cache, queries, options, stop, threads);
#else
  return catch_bad_alloc(
      "compact", [&] { return compact_checked(cache, queries, options, stop, threads, known); });
#endif
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Replaces T keys and values by `options.budget` that give nearly the same attention (Attention
/// Matching, arXiv:2602.16284): rows are selected, a bias per key is fitted so that
///
///     Σ_l exp(s_il + β_l) ≈ Σ_j exp(s_ij)                         (mass)
///
/// and values so that softmax(s + β) C ≈ softmax(s) V               (output), over the given
/// queries.
///
/// keys: T × d_k, values: T × d_v, queries: n × d_k or several such blocks, already rotated (RoPE)
/// and never rescaled. A budget of all visible rows or more is the identity. Rows whose bias is −∞
/// are hidden: never kept, never read, and not counted in T here.
///
///     auto fitted = kvfit::compact(keys, values, queries, {.budget = 256});
///     if (!fitted) return fitted.error();
///     use(fitted->keys, fitted->bias, fitted->values);
///
/// Errors, before anything is computed: shapes that do not fit, empty inputs, NaN or infinity in
/// any row that is not hidden, budget < 1 or not above the protected rows, `invalid_position` for
/// rows named in `protect` that are not there, hidden or named twice, options out of range,
/// `untied_values` where `options.tied_values_from` says that values are columns of the keys and
/// one of them is not, `memory_cap_exceeded` where even the smallest plan exceeds
/// `options.memory.cap`. Found on the way: rows given by name that are not there, a rule that the
/// selection has no model of, `all_masked` where no query sees a key, `non_finite` "logits" where a
/// product overflows, `storage_overflow` where a value does not fit its storage type,
/// `out_of_memory`, and `cancelled` once `stop` is due: it is checked between stages, before
/// every panel of the score pass (or the panels computed at once), every greedy round and every
/// evaluation of the refinement, not within a fit of weights or values. Numerical trouble is no
/// error but a status in the report. Nothing is thrown, printed or kept. Same input, same bytes,
/// whatever `threads`: an executor (`thread_pool`, `external_executor`) that shares the work within
/// this one head. Where there are as many heads as threads, `compact_cache` keeps them busier.
///
/// Cost: n·T·(d_k + d_v) for the scores, the selection's own, n·t² for each fit (where queries are
/// few some 4/3 m³ + 8 m² d_v flops more, m = min(n, t), see `linalg::cross_validated_ridge`), the
/// refinement's own. Memory: `planned_memory` says it beforehand (compact/memory_plan.hpp),
/// `report.memory` afterwards.
///
/// Policies other than the defaults need their headers (kvfit/selection/omp.hpp, say). With the
/// target kvfit::compiled they need none: this is a call into the library then, which takes the
/// best instruction set of the machine (`active_isa()`).
[[nodiscard]] inline result<compacted> compact(const kv_block& cache, const query_set& queries,
                                               const compact_options& options,
                                               const stop_when& stop = {},
                                               const executor_ref& threads = {}) {
  return detail::compact_known(cache, queries, options, nullptr, stop, threads);
}

/// The plain call: no bias, mask or position of its own on the input.
[[nodiscard]] inline result<compacted> compact(const row_view& keys, const row_view& values,
                                               const query_set& queries,
                                               const compact_options& options,
                                               const stop_when& stop = {},
                                               const executor_ref& threads = {}) {
  return compact(kv_block{.keys = keys, .values = values}, queries, options, stop, threads);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
