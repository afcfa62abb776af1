// SPDX-License-Identifier: MIT
// Accesses outside of what is there, and of what nobody has written. Each kernel is sound when
// `mended` is set.
#include <metal_stdlib>
using namespace metal;

constant bool mended [[function_constant(0)]];

kernel void write_past_the_end(device float* y [[buffer(1)]], constant uint& n [[buffer(2)]],
                               uint i [[thread_position_in_grid]]) {
  if (mended && i >= n) return;
  y[i] = 1.0f;
}

kernel void read_before_the_beginning(device const float* x [[buffer(0)]],
                                      device float* y [[buffer(1)]],
                                      uint i [[thread_position_in_grid]]) {
  device const float* p = x + i;
  y[i] = p[mended ? 0 : -1];
}

// The row is too long for the tile; the element is one of the next row.
kernel void past_the_row_of_a_tile(device float* y [[buffer(1)]],
                                   uint t [[thread_index_in_threadgroup]]) {
  threadgroup float tile[4][8];
  tile[t / 8][t % 8] = float(t);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[t / 8 % 4][mended ? t % 8 : t % 9];
}

kernel void past_the_end_of_threadgroup_memory(device float* y [[buffer(1)]],
                                               threadgroup float* tile [[threadgroup(0)]],
                                               uint t [[thread_index_in_threadgroup]],
                                               uint n [[threads_per_threadgroup]]) {
  tile[t] = float(t);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[mended ? t : t + n];
}

kernel void component_that_is_not_there(device const float4* x [[buffer(0)]],
                                        device float* y [[buffer(1)]],
                                        uint i [[thread_position_in_grid]]) {
  const float4 v = x[i];
  y[i] = v[mended ? 3 : 4];
}

// Offsets beyond 2^32: an index of 32 bits comes back at the beginning, and is not at fault there.
kernel void write_far(device float* y [[buffer(1)]], constant ulong& far [[buffer(2)]],
                      uint i [[thread_position_in_grid]]) {
  const ulong at = mended ? far + i : ulong(uint(far) + i);
  y[at] = 1.0f;
}

kernel void vectors_off_their_boundary(device const float* x [[buffer(0)]],
                                       device float4* y [[buffer(1)]],
                                       uint i [[thread_position_in_grid]]) {
  y[i] = *reinterpret_cast<device const float4*>(x + 4 * i + (mended ? 0 : 1));
}

kernel void read_before_it_is_written(device float* y [[buffer(1)]],
                                      uint t [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  if (mended || t % 2 == 0) tile[t] = float(t);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[t] = tile[t];
}

kernel void read_its_own_output(device float* y [[buffer(1)]],
                                uint i [[thread_position_in_grid]]) {
  if (mended) y[i] = 0.0f;
  y[i] += 1.0f;
}

// Bound for reading by the host.
kernel void write_its_input(device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                            uint i [[thread_position_in_grid]]) {
  y[i] = x[i];
  if (!mended) x[i] = 0.0f;
}

kernel void never_ends(device float* y [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  uint k = 0;
  while (!mended || k < 10) y[i] = float(k++);
}

kernel void too_much_threadgroup_memory(device float* y [[buffer(1)]],
                                        uint t [[thread_index_in_threadgroup]]) {
  threadgroup float first[4096];
  first[t] = 1.0f;
  y[t] = first[t];
  if (!mended) {
    threadgroup float second[4097];
    second[t] = 1.0f;
    y[t] = second[t];
  }
}

[[max_total_threads_per_threadgroup(64)]] kernel void at_most_64_threads(
    device float* y [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  y[i] = 1.0f;
}
