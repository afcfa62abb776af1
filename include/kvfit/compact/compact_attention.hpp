// SPDX-License-Identifier: MIT
/// Attention of queries over compact rows, and its errors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Σ_j weights_ij values_j: n × d_v. Cost 2 · n · t · d_v flops, which `threads` share.
inline matrix weighted_values(const matrix& weights, const matrix& values,
                              const executor_ref& executor = {}) {
  const index_t t = weights.cols();
  const index_t d = values.cols();
  matrix out(weights.rows(), d);
  const executor_ref threads =
      executor.for_work(2.0 * static_cast<double>(out.size()) * static_cast<double>(t));
  constexpr index_t rows = 64;
  constexpr index_t depth = 128;  // as many rows of values stay near
  over_pieces(threads, out.rows(), rows, [&](index_t first, index_t count) noexcept {
    if (t == 0) out.middleRows(first, count).setZero();
    for (index_t k = 0; k < t; k += depth) {
      simd::multiply({weights.data() + first * t + k, t, 1}, {values.data() + k * d, d},
                     {out.data() + first * d, d}, count, d, (std::min)(depth, t - k),
                     k == 0 ? simd::product_mode::assign : simd::product_mode::add);
    }
  });
  return out;
}

/// Attention of `part` over the keys and biases of `rows`, which keep positions and masks of their
/// rows of the cache. Cost n · t · d_k, which threads share; allocates the result, t + T numbers
/// and what `row_logits_into` does.
inline stages::compact_attention attention_over(const stages::problem& of, const query_part& part,
                                                const compacted& rows) {
  // The compact bias stands in for the cache's own.
  std::vector<float> bias(static_cast<std::size_t>(of.cache.keys.rows()), 0.0F);
  for (index_t j = 0; j < rows.bias.size(); ++j) {
    const index_t row = rows.positions[static_cast<std::size_t>(j)];
    bias[static_cast<std::size_t>(row)] = rows.bias[j];
  }
  kv_block stored = part.beside(of.cache);
  stored.bias = bias;
  stages::compact_attention found;
  matrix& weights = found.weights;
  row_logits_into(stored, part.set(), of.options.rule, rows.positions, rows.keys, weights,
                  of.threads);
  found.log_mass.resize(weights.rows());
  constexpr index_t piece = 64;
  over_pieces(of.threads, weights.rows(), piece, [&](index_t first, index_t count) noexcept {
    for (index_t i = first; i < first + count; ++i) {
      float* row = weights.row(i).data();
      const float max = simd::max_value(row, weights.cols());
      const double mass = simd::exp_shifted_sum(row, weights.cols(), max);
      found.log_mass[i] = static_cast<float>(static_cast<double>(max) + std::log(mass));
      if (mass > 0) weights.row(i) *= static_cast<float>(1.0 / mass);
    }
  });
  return found;
}

/// Errors of `found` with these `values` against full attention of the same queries.
inline fidelity errors_of(const stages::problem& of, const attention_scores& full,
                          const stages::compact_attention& found, const matrix& values) {
  return compare(full.output, full.log_mass, weighted_values(found.weights, values, of.threads),
                 found.log_mass);
}

/// Errors of the keys and biases of `rows` with these `values` on the queries held out, or on those
/// fitted on where none are held out or none of them sees a key.
inline fidelity judged_errors(const stages::problem& of, const stages::targets& full,
                              const compacted& rows, const matrix& values) {
  if (!full.parts.judge.blocks.empty()) {
    const fidelity judged =
        errors_of(of, full.held_out, attention_over(of, full.parts.judge, rows), values);
    if (judged.queries > 0) return judged;
  }
  return errors_of(of, full.fitted, attention_over(of, full.parts.fit, rows), values);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
