// SPDX-License-Identifier: MIT
// Joint selection (simultaneous orthogonal least squares): what a pick leaves of every key, and what
// each key would then explain.
//
// `joint_update`: one simdgroup takes four keys, one lane a slot; every number of the two T × slots
// matrices is read and written once. `squared_lengths` reads every row once. The products that bring
// all keys up to date are those of gram.metal (`moments` with `product_subtract`), the best key is
// found by `best_rows` (correlation.metal).

#include <metal_stdlib>

using namespace metal;

#include "numbers.h"
#include "row_product.h"
#include "shared/pursuit_arguments.h"

using namespace kvfit::kernels;

[[kernel]] void joint_update(device float* products [[buffer(0)]],
                             device float* shared [[buffer(1)]],
                             device float* waiting [[buffer(2)]],
                             device float* scores [[buffer(3)]],
                             device float* left [[buffer(4)]],
                             device const float* norms [[buffer(5)]],
                             device const uchar* open [[buffer(6)]],
                             device const float* along [[buffer(7)]],
                             device const float* change [[buffer(8)]],
                             device float* gains [[buffer(9)]],
                             constant joint_arguments* heads [[buffer(10)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simd_index [[simdgroup_index_in_threadgroup]]) {
  constant joint_arguments& head = heads[group.y];
  const int first = int(group.x) * keys_per_group + int(simd_index) * 4;
  const int end = metal::min(first + 4, head.keys);
  const bool is_slot = int(lane) < head.slots;
  const bool takes_out = head.slot >= 0;
  float my_along = 0.0f;
  float my_change = 0.0f;
  if (takes_out && is_slot) {
    my_along = along[head.slot_offset + lane];
    my_change = change[head.slot_offset + lane];
  }
  for (int key = first; key < end; ++key) {
    const long at = head.key_offset + key;
    // One number of a key is its first lane's alone.
    float score = lane == 0 ? scores[at] : 0.0f;
    float rest = lane == 0 ? left[at] : 0.0f;
    if (takes_out) {
      const long row = head.product_offset + long(key) * head.slots + long(lane);
      float product = is_slot ? products[row] : 0.0f;
      float agreed = is_slot ? shared[row] : 0.0f;
      const float z = metal::simd_broadcast(product, ushort(head.slot)) * head.scale;
      const float h = metal::simd_broadcast(agreed, ushort(head.slot)) * head.scale;
      product = metal::fma(-z, my_along, product);
      agreed = metal::fma(-z, my_change, agreed);
      agreed = metal::fma(-h, my_along, agreed);
      if (is_slot) {
        products[row] = product;
        shared[row] = agreed;
      }
      const float lost = metal::fma(z, head.squares, -2.0f * h);
      score = metal::max(0.0f, metal::fma(z, lost, score));
      rest = metal::fma(-z, z, rest);
      if (lane == 0) {
        waiting[head.waiting_offset + head.waiting_stride * long(key) + head.pending] = z;
        scores[at] = score;
        left[at] = rest;
      }
    }
    if (lane == 0) {
      const bool may_gain = open[at] != 0 && rest > head.dependent * norms[at];
      gains[at] = may_gain ? score / rest : 0.0f;
    }
  }
}

[[kernel]] void squared_lengths(device const float* rows [[buffer(0)]],
                                device float* lengths [[buffer(1)]],
                                constant length_arguments* heads [[buffer(2)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint lane [[thread_index_in_simdgroup]],
                                uint simd_index [[simdgroup_index_in_threadgroup]]) {
  constant length_arguments& head = heads[group.y];
  const int first = int(group.x) * keys_per_group + int(simd_index) * 4;
  const int end = metal::min(first + 4, head.rows);
  for (int key = first; key < end; ++key) {
    device const float* row = rows + head.row_offset + head.row_stride * long(key);
    const float length = row_product(row, row, head.cols, int(lane));
    if (lane == 0) lengths[head.length_offset + key] = length;
  }
}
