// SPDX-License-Identifier: MIT
// Barriers that are missing, too weak, or not reached by all threads. Each kernel is sound when
// `mended` is set, so that a test sees both that the fault is found and that nothing else is.
#include <metal_stdlib>
using namespace metal;

constant bool mended [[function_constant(0)]];

// y[i] = x[n - 1 - i] through threadgroup memory, with no barrier between.
kernel void reverse_without_barrier(device const float* x [[buffer(0)]],
                                    device float* y [[buffer(1)]],
                                    uint t [[thread_index_in_threadgroup]],
                                    uint n [[threads_per_threadgroup]]) {
  threadgroup float tile[128];
  tile[t] = x[t];
  if (mended) threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[n - 1 - t];
}

// The tile is used again before all threads have read it.
kernel void reuse_without_barrier(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                                  uint t [[thread_index_in_threadgroup]],
                                  uint n [[threads_per_threadgroup]]) {
  threadgroup float tile[128];
  for (uint step = 0; step < 2; ++step) {
    if (mended && step > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
    tile[t] = x[step * n + t];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    y[step * n + t] = tile[n - 1 - t];
  }
}

// A barrier that orders device memory alone.
kernel void reverse_with_other_memory(device const float* x [[buffer(0)]],
                                      device float* y [[buffer(1)]],
                                      uint t [[thread_index_in_threadgroup]],
                                      uint n [[threads_per_threadgroup]]) {
  threadgroup float tile[128];
  tile[t] = x[t];
  threadgroup_barrier(mended ? mem_flags::mem_threadgroup : mem_flags::mem_device);
  y[t] = tile[n - 1 - t];
}

// Device memory that threads of one threadgroup hand to each other.
kernel void reverse_in_device_memory(device const float* x [[buffer(0)]],
                                     device float* y [[buffer(1)]],
                                     device float* scratch [[buffer(2)]],
                                     uint t [[thread_index_in_threadgroup]],
                                     uint n [[threads_per_threadgroup]]) {
  scratch[t] = x[t];
  threadgroup_barrier(mended ? mem_flags::mem_device : mem_flags::mem_threadgroup);
  y[t] = scratch[n - 1 - t];
}

// A simdgroup's barrier, where mended for what stays in the simdgroup, elsewhere for what does not.
kernel void reverse_behind_simdgroup_barrier(device const float* x [[buffer(0)]],
                                             device float* y [[buffer(1)]],
                                             uint t [[thread_index_in_threadgroup]],
                                             uint lane [[thread_index_in_simdgroup]],
                                             uint n [[threads_per_threadgroup]]) {
  threadgroup float tile[128];
  tile[t] = x[t];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[mended ? t - lane + 31 - lane : n - 1 - t];
}

// Lanes of one simdgroup run together on today's hardware, which Metal does not promise.
kernel void swap_lanes_without_barrier(device const float* x [[buffer(0)]],
                                       device float* y [[buffer(1)]],
                                       uint t [[thread_index_in_threadgroup]]) {
  threadgroup float tile[128];
  tile[t] = x[t];
  if (mended) simdgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[t ^ 1u];
}

// Half of the threads never come to the barrier.
kernel void barrier_in_a_branch(device float* y [[buffer(1)]],
                                uint t [[thread_index_in_threadgroup]],
                                uint n [[threads_per_threadgroup]]) {
  threadgroup float tile[128];
  tile[t] = float(t);
  if (mended || t < n / 2) threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[t];
}

// The threads wait at two barriers, as many as there are paths.
kernel void barriers_of_two_branches(device float* y [[buffer(1)]],
                                     uint t [[thread_index_in_threadgroup]],
                                     uint n [[threads_per_threadgroup]]) {
  if (mended || t < n / 2) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  y[t] = 1.0f;
}

// Threads beyond the edge return before the others wait.
kernel void return_before_barrier(device float* y [[buffer(1)]], constant uint& n [[buffer(2)]],
                                  uint i [[thread_position_in_grid]]) {
  if (!mended && i >= n) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i < n) y[i] = 1.0f;
}

// Some lanes take no part in the sum.
kernel void sum_in_a_branch(device float* y [[buffer(1)]],
                            uint t [[thread_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0.0f;
  if (mended || lane < 20) sum = simd_sum(1.0f);
  y[t] = sum;
}

// Lanes meet at two operations.
kernel void sums_of_two_branches(device float* y [[buffer(1)]],
                                 uint t [[thread_index_in_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0.0f;
  if (mended || lane < 20) {
    sum = simd_sum(1.0f);
  } else {
    sum = simd_max(1.0f);
  }
  y[t] = sum;
}
