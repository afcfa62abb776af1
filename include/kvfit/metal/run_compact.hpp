// SPDX-License-Identifier: MIT
/// `metal::compact()`. Include kvfit/metal/executor.hpp.
#pragma once

#include <mutex>
#include <span>
#include <utility>

#include "kvfit/compact.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/executor.hpp"
#include "kvfit/metal/policies.hpp"
#include "kvfit/metal/score.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// Whether the GPU takes a score pass.
inline bool takes_scores(const placement& from, const score_request& request) noexcept {
  return request.queries.rows() < largest_count && request.cache.keys.rows() < largest_count &&
         attention_work(request.queries, request.cache) >= from.score_from;
}

/// A `score_runner` whose owner is a `guarded_device`: one head, one command buffer.
inline result<bool> run_score_pass(void* owner, const score_request& request) {
  auto& on = *static_cast<guarded_device*>(owner);
  if (!takes_scores(on.from, request)) return false;
  const std::lock_guard<std::mutex> guard(on.mutex);
  const auto is_done = score_heads(*on.gpu, std::span(&request, 1));
  if (!is_done) return is_done.error();
  ++(is_done->front() ? on.counts.score_passes : on.counts.handed_over);
  return is_done->front();
}

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

/// `kvfit::compact` with score passes, OMP's correlations and the products of fits on the GPU, each
/// where it is as large as `placement` asks; everything else, and what the GPU does not take
/// (docs/metal.md, Which stage runs where), on the CPU. Results differ from `kvfit::compact`'s by
/// rounding: selections but for ties, errors on held-out queries within 0.1 %.
///
/// Errors: those of `kvfit::compact`, and `out_of_memory`, `shader_failed`, `device_fault`,
/// `device_timeout` of the GPU. Nothing of the caller's is written. Same input, same bytes,
/// whatever `threads`. `options.memory.cap` counts memory of the device, too: where it leaves too
/// little for that, all stages run on the CPU. Where `options.score_by` names a runner, that one is
/// asked.
[[nodiscard]] inline result<compacted> compact(const executor& gpu, const kv_block& cache,
                                               const query_set& queries,
                                               const compact_options& options,
                                               const stop_when& stop = {},
                                               const executor_ref& threads = {}) {
  compact_options placed = placed_options(gpu.state(), options, queries.rows(), cache.keys.rows());
  if (!options.memory.cap) return kvfit::compact(cache, queries, placed, stop, threads);
  const double device = attention_device_bytes(queries, cache);
  if (device < static_cast<double>(*options.memory.cap)) {
    placed.memory.cap = *options.memory.cap - static_cast<index_t>(device);
    auto fitted = kvfit::compact(cache, queries, placed, stop, threads);
    if (fitted || fitted.error().code != errc::memory_cap_exceeded) return fitted;
  }
  return kvfit::compact(cache, queries, options, stop, threads);
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
