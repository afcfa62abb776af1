// SPDX-License-Identifier: MIT
/// Inner products of rows, one simdgroup a row.
#pragma once

#include <metal_stdlib>

#include "numbers.h"

namespace kvfit {
namespace kernels {

/// Σ_i a_i b_i of `count` numbers, the same in every lane. Each lane sums every 32nd product, in
/// four sums side by side.
inline float row_product(device const float* a, device const float* b, int count, int lane) {
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  int i = lane;
  for (; i + 96 < count; i += 128) {
    KVFIT_UNROLL
    for (int k = 0; k < 4; ++k) sums[k] = metal::fma(a[i + 32 * k], b[i + 32 * k], sums[k]);
  }
  for (; i < count; i += 32) sums[0] = metal::fma(a[i], b[i], sums[0]);
  return metal::simd_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace kernels
}  // namespace kvfit
