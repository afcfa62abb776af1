// SPDX-License-Identifier: MIT
/// `metal::compact()`. Include kvfit/metal/executor.hpp.
#pragma once

#include <algorithm>

#include "kvfit/compact.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/device_executor.hpp"
#include "kvfit/metal/policies.hpp"
#include "kvfit/metal/score_runner.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// `options` with the stages that the GPU is to run, by sizes of n queries and T keys.
inline compact_options placed_options(guarded_device& on, const compact_options& options, index_t n,
                                      index_t keys) {
  compact_options out = options;
  if (out.score_by.run == nullptr) out.score_by = {&on, &run_score_pass};
  if (const auto* omp = options.selection.get_if<selection::omp>(); omp != nullptr) {
    const double work = static_cast<double>(n) * static_cast<double>(keys) *
                        static_cast<double>(std::max<index_t>(options.budget, 1));
    if (work >= on.from.select_from) out.selection = omp_on_device{*omp, &on};
  }
  if (on.from.fit_from == placement::never) return out;
  if (const auto* fit = options.bias.get_if<bias::projected_gradient>(); fit != nullptr) {
    out.bias = projected_gradient_on_device{*fit, &on};
  }
  if (const auto* fit = options.bias.get_if<bias::nnls>(); fit != nullptr) {
    out.bias = nnls_on_device{*fit, &on};
  }
  if (const auto* fit = options.values.get_if<values::unpivoted_qr>(); fit != nullptr) {
    out.values = values_on_device{*fit, &on};
  }
  return out;
}

/// Bytes of the device that the score passes of a compaction take at most: those of attention, and
/// a copy of the exponentials where they are kept, for their memory may be such as can't be shared.
inline double score_device_bytes(const query_set& queries, const kv_block& cache,
                                 const compact_options& options) {
  const double kept = float_bytes(queries.rows(), cache.keys.rows());
  // Beside protected rows other numbers decide whether they are kept: then as if they were.
  const index_t keys = options.protect.is_empty() ? cache.keys.rows() : 0;
  const auto most = static_cast<double>(
      kvfit::detail::fit_scores(options, keys, options.budget).keep_exponentials);
  return attention_device_bytes(queries, cache) + (kept <= most ? kept : 0);
}

/// Whether a head's compaction by `placed` and `device` bytes of the GPU keep to the cap without
/// giving anything up. Inputs were checked.
inline bool fits_cap(const kv_block& cache, const query_set& queries, compact_options placed,
                     double device, index_t cap, const executor_ref& threads = {}) {
  placed.memory.cap.reset();
  const auto plan = planned_memory(sizes_of(cache, queries, threads), placed);
  return plan && static_cast<double>(plan->needed) + device <= static_cast<double>(cap);
}

/// `kvfit::compact` with score passes, OMP's correlations and the products of fits on the GPU, each
/// where it is as large as `placement` asks; everything else, and what the GPU does not take
/// (docs/metal.md, Which stage runs where), on the CPU. Results differ from `kvfit::compact`'s by
/// rounding: selections but for ties, errors on held-out queries within 0.1 %.
///
/// Errors: those of `kvfit::compact`, and `out_of_memory`, `shader_failed`, `device_fault`,
/// `device_timeout` of the GPU. Nothing of the caller's is written. Same input, same bytes,
/// whatever `threads`. `options.memory.cap` counts memory of the device, too: where it does not
/// hold all that the stages and the device would take, everything runs on the CPU (inputs are then
/// checked twice). Where `options.score_by` names a runner, that one is asked.
[[nodiscard]] inline result<compacted> compact(const executor& gpu, const kv_block& cache,
                                               const query_set& queries,
                                               const compact_options& options,
                                               const stop_when& stop = {},
                                               const executor_ref& threads = {}) {
  compact_options placed = placed_options(gpu.state(), options, queries.rows(), cache.keys.rows());
  if (!options.memory.cap) return kvfit::compact(cache, queries, placed, stop, threads);
  if (const auto ok = kvfit::detail::check_compaction(cache, queries, options); !ok) {
    return ok.error();
  }
  const double device = score_device_bytes(queries, cache, placed);
  if (!fits_cap(cache, queries, placed, device, *options.memory.cap, threads)) {
    return kvfit::compact(cache, queries, options, stop, threads);
  }
  placed.memory.cap = *options.memory.cap - static_cast<index_t>(device);
  return kvfit::compact(cache, queries, placed, stop, threads);
}

/// The plain call: no bias, mask or position of its own on the input.
[[nodiscard]] inline result<compacted> compact(const executor& gpu, const row_view& keys,
                                               const row_view& values, const query_set& queries,
                                               const compact_options& options,
                                               const stop_when& stop = {},
                                               const executor_ref& threads = {}) {
  return compact(gpu, kv_block{.keys = keys, .values = values}, queries, options, stop, threads);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
