// SPDX-License-Identifier: MIT
// A small kernel without faults: what a kernel test looks like.
#include <metal_stdlib>
using namespace metal;

struct scale_params {
  uint n;
  float factor;
};

kernel void scale_float(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                        constant scale_params& p [[buffer(2)]],
                        uint i [[thread_position_in_grid]]) {
  if (i < p.n) y[i] = x[i] * p.factor;
}

template <typename T>
kernel void sum_tile(device const T* x [[buffer(0)]], device float* y [[buffer(1)]],
                     constant uint& n [[buffer(2)]], threadgroup float* scratch [[threadgroup(0)]],
                     uint group [[threadgroup_position_in_grid]],
                     uint t [[thread_index_in_threadgroup]],
                     uint threads [[threads_per_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simd [[simdgroup_index_in_threadgroup]]) {
  float sum = 0.0;
  for (uint i = t; i < n; i += threads) sum += float(x[group * n + i]);
  sum = simd_sum(sum);
  if (lane == 0) scratch[simd] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (t == 0) {
    float total = 0.0f;
    for (uint s = 0; s < (threads + 31) / 32; ++s) total += scratch[s];
    y[group] = total;
  }
}
template [[host_name("sum_tile_float")]] kernel void sum_tile<float>(
    device const float*, device float*, constant uint&, threadgroup float*, uint, uint, uint, uint,
    uint);
template [[host_name("sum_tile_half")]] kernel decltype(sum_tile<half>) sum_tile<half>;
