// SPDX-License-Identifier: MIT
/// Attention of queries over a compact cache, as softmax rows and log-mass.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "kvfit/attention/row_logits.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// What n queries give t compact keys: softmax weights (n × t) and the log of their mass (n).
struct compact_attention {
  matrix weights;
  vector log_mass;
};

/// Attention of `part` over the keys and biases of `compact`, rows of `cache` that keep their
/// positions and masks. Cost n · t · d_k; allocates the result and t + T numbers.
inline compact_attention attend_compact(const query_part& part, const kv_block& cache,
                                        const logit_rule& rule, const compacted& compact) {
  // The compact bias stands in for the cache's own.
  std::vector<float> bias(static_cast<std::size_t>(cache.keys.rows()), 0.0F);
  for (index j = 0; j < compact.bias.size(); ++j) {
    const index row = compact.positions[static_cast<std::size_t>(j)];
    bias[static_cast<std::size_t>(row)] = compact.bias[j];
  }
  kv_block stored = part.beside(cache);
  stored.bias = bias;
  compact_attention found;
  matrix& weights = found.weights;
  row_logits_into(stored, part.set(), rule, compact.positions, compact.keys, weights);
  found.log_mass.resize(weights.rows());
  for (index i = 0; i < weights.rows(); ++i) {
    float* row = weights.row(i).data();
    const float max = simd::max_value(row, weights.cols());
    const double mass = simd::exp_shifted_sum(row, weights.cols(), max);
    found.log_mass[i] = static_cast<float>(static_cast<double>(max) + std::log(mass));
    if (mass > 0) weights.row(i) *= static_cast<float>(1.0 / mass);
  }
  return found;
}

}  // namespace kvfit::detail::inline KVFIT_ISA
