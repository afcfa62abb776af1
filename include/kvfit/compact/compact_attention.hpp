// SPDX-License-Identifier: MIT
/// Attention of queries over a compact cache, as softmax rows and log-mass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "kvfit/attention/row_logits.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::stages {
inline namespace KVFIT_ISA {

/// What n queries give t compact keys: softmax weights (n × t) and the log of their mass (n).
struct compact_attention {
  matrix weights;
  vector log_mass;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::stages

namespace kvfit::detail {
inline namespace KVFIT_ISA {

using stages::compact_attention;

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
                     {out.data() + first * d, d}, count, d, std::min(depth, t - k),
                     k == 0 ? simd::product_mode::assign : simd::product_mode::add);
    }
  });
  return out;
}

/// Attention of `part` over the keys and biases of `compact`, rows of `cache` that keep their
/// positions and masks. Cost n · t · d_k, which the executor shares; allocates the result, t + T
/// numbers and what `row_logits_into` does.
inline compact_attention attend_compact(const query_part& part, const kv_block& cache,
                                        const logit_rule& rule, const compacted& compact,
                                        const executor_ref& threads = {}) {
  // The compact bias stands in for the cache's own.
  std::vector<float> bias(static_cast<std::size_t>(cache.keys.rows()), 0.0F);
  for (index_t j = 0; j < compact.bias.size(); ++j) {
    const index_t row = compact.positions[static_cast<std::size_t>(j)];
    bias[static_cast<std::size_t>(row)] = compact.bias[j];
  }
  kv_block stored = part.beside(cache);
  stored.bias = bias;
  compact_attention found;
  matrix& weights = found.weights;
  row_logits_into(stored, part.set(), rule, compact.positions, compact.keys, weights, threads);
  found.log_mass.resize(weights.rows());
  constexpr index_t piece = 64;
  over_pieces(threads, weights.rows(), piece, [&](index_t first, index_t count) noexcept {
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

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
