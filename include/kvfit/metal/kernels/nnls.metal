// SPDX-License-Identifier: MIT
// Bounded least squares by projected gradient steps, as published, and the step's length by power
// iteration.
//
//     r = M w − y,   w ← clip(w − η Mᵀ r),   η = 1 / max(σ², 1e-6)
//
// `residual` and `projected_step` read every column once each. The weights are inside the box after
// every step.

#include <metal_stdlib>

using namespace metal;

#include "numbers.h"
#include "row_product.h"
#include "shared/pursuit_arguments.h"
#include "shared/step_arguments.h"
#include "shared/tile_sizes.h"

using namespace kvfit::kernels;

/// Sum over the threadgroup, in every thread.
inline float sum_of_group(float mine, threadgroup float* sums, int lane, int simd_index) {
  const float sum = metal::simd_sum(mine);
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (lane == 0) sums[simd_index] = sum;
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  float out = 0.0f;
  for (int k = 0; k < group_threads / 32; ++k) out += sums[k];
  return out;
}

[[kernel]] void residual(device const float* columns [[buffer(0)]],
                         device const int* rows [[buffer(1)]],
                         device const float* weights [[buffer(2)]],
                         device const float* target [[buffer(3)]],
                         device float* out [[buffer(4)]], device float* squares [[buffer(5)]],
                         constant step_arguments* heads [[buffer(7)]],
                         uint3 group [[threadgroup_position_in_grid]],
                         uint index [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float sums[group_threads / 32];

  constant step_arguments& head = heads[group.y];
  if (int(group.x) * group_threads >= head.queries) return;
  const int query = int(group.x) * group_threads + int(index);
  float r = 0.0f;
  if (query < head.queries) {
    long_sum sum;
    sum.clear();
    if ((head.flags & step_target) != 0) sum.add(-target[head.query_offset + query]);
    for (int k = 0; k < head.keys; ++k) {
      const int column = (head.flags & step_rows) != 0 ? rows[head.rows_offset + k] : k;
      sum.add(weights[head.weight_offset + k] *
              columns[head.column_offset + head.column_stride * long(column) + query]);
    }
    r = sum.value();
    out[head.query_offset + query] = (head.flags & step_negative) != 0 ? -r : r;
  }
  const float all = sum_of_group(r * r, sums, int(lane), int(simd_index));
  if (index == 0) squares[head.part_offset + group.x] = all;
}

[[kernel]] void projected_step(device const float* columns [[buffer(0)]],
                               device const int* rows [[buffer(1)]],
                               device float* weights [[buffer(2)]],
                               device const float* residuals [[buffer(4)]],
                               device const float* steps [[buffer(6)]],
                               constant step_arguments* heads [[buffer(7)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint lane [[thread_index_in_simdgroup]],
                               uint simd_index [[simdgroup_index_in_threadgroup]]) {
  constant step_arguments& head = heads[group.y];
  const int first = int(group.x) * keys_per_group + int(simd_index) * 4;
  const int end = metal::min(first + 4, head.keys);
  for (int key = first; key < end; ++key) {
    const int column = (head.flags & step_rows) != 0 ? rows[head.rows_offset + key] : key;
    const float gradient =
        row_product(columns + head.column_offset + head.column_stride * long(column),
                    residuals + head.query_offset, head.queries, int(lane));
    if (lane == 0) {
      float w = weights[head.weight_offset + key] - steps[head.step_offset] * gradient;
      if (is_nan(w)) w = 0.0f;  // the number of the box nearest to 0
      if (w < head.lower) w = head.lower;
      if (w > head.upper) w = head.upper;
      weights[head.weight_offset + key] = w;
    }
  }
}

[[kernel]] void power_step(device float* vectors [[buffer(2)]], device float* steps [[buffer(6)]],
                           constant step_arguments* heads [[buffer(7)]],
                           device const float* images [[buffer(8)]],
                           device float* squared_sigmas [[buffer(9)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint index [[thread_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float sums[group_threads / 32];

  constant step_arguments& head = heads[group.x];
  float product = 0.0f;
  float most = 0.0f;  // of |z|: its squares may leave fp32
  for (int k = int(index); k < head.keys; k += group_threads) {
    const float z = images[head.weight_offset + k];
    product = metal::fma(vectors[head.weight_offset + k], z, product);
    most = metal::max(most, metal::fabs(z));
  }
  product = sum_of_group(product, sums, int(lane), int(simd_index));
  most = metal::simd_max(most);
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (lane == 0) sums[simd_index] = most;
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  for (int k = 0; k < group_threads / 32; ++k) most = metal::max(most, sums[k]);
  const bool may_divide = is_finite(most) && most > 0.0f;
  float squares = 0.0f;
  for (int k = int(index); may_divide && k < head.keys; k += group_threads) {
    const float z = images[head.weight_offset + k] / most;
    squares = metal::fma(z, z, squares);
  }
  const float length = metal::precise::sqrt(sum_of_group(squares, sums, int(lane), int(simd_index)));
  for (int k = int(index); may_divide && k < head.keys; k += group_threads) {
    vectors[head.weight_offset + k] = images[head.weight_offset + k] / most / length;
  }
  if (index != 0) return;
  squared_sigmas[head.step_offset] = product;
  steps[head.step_offset] = 1.0f / metal::max(product, 1e-6f);
}
