// SPDX-License-Identifier: MIT
/// The running maximum and mass of every query of a tile: four neighbouring threads a query.
#pragma once

#include <metal_stdlib>

#include "logits.h"
#include "shared/attention_arguments.h"

namespace kvfit {
namespace kernels {

constant constexpr int row_threads = group_threads / query_tile;  ///< 4

/// What the four threads of a query know alike: of all keys so far.
struct online_softmax {
  float max;
  long_sum mass;
  bool has_nan;

  void start() {
    max = minus_infinity();
    mass.clear();
    has_nan = false;
  }

  /// Takes in a tile of logits (`logit_tiles::make`). With `KeepWeights` exp(s − max) take their
  /// places. Returns exp(old maximum − new one), by which all before is too large.
  template <bool KeepWeights>
  float take(threadgroup float* logits, int index) {
    threadgroup float* row = logits + (index / row_threads) * logit_stride + index % row_threads;
    float largest = minus_infinity();
    for (int k = 0; k < key_tile; k += row_threads) {
      has_nan = has_nan || is_nan(row[k]);
      largest = metal::max(largest, row[k]);
    }
    largest = metal::max(largest, metal::simd_shuffle_xor(largest, ushort(1)));
    largest = metal::max(largest, metal::simd_shuffle_xor(largest, ushort(2)));
    const float now = metal::max(max, largest);
    const float shift = is_hidden(now) ? 0.0f : now;  // −∞ − −∞ is NaN
    float sum = 0.0f;
    for (int k = 0; k < key_tile; k += row_threads) {
      const float weight = metal::precise::exp(row[k] - shift);
      if (KeepWeights) row[k] = weight;
      sum += weight;
    }
    sum += metal::simd_shuffle_xor(sum, ushort(1));
    sum += metal::simd_shuffle_xor(sum, ushort(2));
    const float factor = metal::precise::exp(max - shift);
    mass.multiply(factor);
    mass.add(sum);
    max = now;
    return factor;
  }

  /// The state of the query, of which each of its threads has seen a quarter of the logits.
  query_state state() const {
    float bad = has_nan ? 1.0f : 0.0f;
    bad = metal::max(bad, metal::simd_shuffle_xor(bad, ushort(1)));
    bad = metal::max(bad, metal::simd_shuffle_xor(bad, ushort(2)));
    query_state out;
    out.max = max;
    out.mass = mass.value();
    out.faults = (bad > 0.0f ? fault_product : 0u) |
                 (is_finite(out.mass) && (is_finite(max) || is_hidden(max)) ? 0u : fault_logit);
    out.unused = 0;
    return out;
  }
};

}  // namespace kernels
}  // namespace kvfit
