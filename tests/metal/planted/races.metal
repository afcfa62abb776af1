// SPDX-License-Identifier: MIT
// Races in device memory and on atomics. Each kernel is sound when `mended` is set.
#include <metal_stdlib>
using namespace metal;

constant bool mended [[function_constant(0)]];

// Every thread writes the same element.
kernel void all_write_one(device float* y [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  if (!mended || i == 0) y[0] = 1.0f;
}

// Two threads of different threadgroups write neighbours, or the same element.
kernel void groups_overlap(device float* y [[buffer(1)]],
                           uint group [[threadgroup_position_in_grid]],
                           uint t [[thread_index_in_threadgroup]],
                           uint n [[threads_per_threadgroup]]) {
  y[group * (mended ? n : n - 1) + t] = float(group);
}

// A threadgroup reads what another writes; no barrier orders threadgroups.
kernel void read_of_another_group(device float* y [[buffer(1)]], device float* z [[buffer(2)]],
                                  uint group [[threadgroup_position_in_grid]],
                                  uint groups [[threadgroups_per_grid]],
                                  uint t [[thread_index_in_threadgroup]]) {
  if (t == 0) y[group] = float(group);
  threadgroup_barrier(mem_flags::mem_device);
  if (t == 0) z[group] = y[mended ? group : (group + 1) % groups];
}

// A count by a plain addition.
kernel void count_without_atomics(device uint* plain [[buffer(1)]],
                                  device atomic_uint* counted [[buffer(2)]],
                                  uint i [[thread_position_in_grid]]) {
  if (mended) {
    atomic_fetch_add_explicit(&counted[i % 3], 1u, memory_order_relaxed);
  } else {
    plain[i % 3] += 1u;
  }
}

// An atomic counter is cleared by one thread while others may count already.
kernel void clear_while_counting(device uint* y [[buffer(1)]],
                                 uint t [[thread_index_in_threadgroup]]) {
  threadgroup atomic_uint count;
  threadgroup uint plain;
  if (t == 0) {
    atomic_store_explicit(&count, 0u, memory_order_relaxed);
    plain = 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed);
  if (mended) threadgroup_barrier(mem_flags::mem_threadgroup);
  if (t == 0) plain = atomic_load_explicit(&count, memory_order_relaxed);
  if (!mended && t == 1) plain = 0;
  if (mended && t == 0) y[0] = plain;
}

// Halves in one word belong to two threads, bytes to four: no race. With a shift they overlap.
kernel void neighbours_in_a_word(device half* y [[buffer(1)]], device uchar* z [[buffer(2)]],
                                 uint i [[thread_position_in_grid]]) {
  y[i] = 1.0h;
  z[i] = 1;
  if (!mended) z[i / 2] = 2;
}
