// SPDX-License-Identifier: MIT
// Attention outputs of queries whose largest logit is known: a part of the keys' share.
//
//     out_r = Σ_j exp(s_rj − max_r) v_j
//
// `merge_states` adds the parts and divides by the mass. One threadgroup takes `query_tile` queries
// and `value_tile` columns over one part of the keys: values are read once for each tile of queries,
// keys once for each tile of queries and slice of columns.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "logits.h"
#include "online_softmax.h"
#include "shared/attention_arguments.h"
#include "value_tiles.h"

using namespace kvfit::kernels;

template <typename Query, typename Key, template <int> class Sums>
[[kernel]] void output(device const Query* queries [[buffer(0)]],
                       device const Key* keys [[buffer(1)]],
                       device const float* bias [[buffer(2)]],
                       device const float* mask [[buffer(3)]],
                       device const long* key_positions [[buffer(4)]],
                       device const long* query_positions [[buffer(5)]],
                       device const float* slopes [[buffer(6)]],
                       device const int* rows [[buffer(7)]],
                       constant output_arguments* heads [[buffer(8)]],
                       device const Key* values [[buffer(9)]],
                       device const float* largest [[buffer(10)]],
                       device float* part_outputs [[buffer(11)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint index [[thread_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]],
                       uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float query_chunk[query_tile * depth_stride];
  threadgroup float key_chunk[key_tile * depth_stride];
  threadgroup float logits[query_tile * logit_stride];
  threadgroup float key_bias[key_tile];
  threadgroup long key_place[key_tile];
  threadgroup long query_place[query_tile];
  threadgroup float query_slope[query_tile];

  constant output_arguments& head = heads[group.z];
  const int first_query = int(group.x) * query_tile;
  const int part = int(group.y) / head.slices;
  const int slice = int(group.y) % head.slices;
  if (first_query >= head.logits.queries) return;
  const int first_key = part * head.keys_per_part;
  const int end = first_key + metal::min(head.logits.keys - first_key, head.keys_per_part);
  const thread_place at = {int(index), int(lane), int(simd_index)};
  const logit_inputs<Query, Key> inputs = {queries,         keys,   bias, mask, key_positions,
                                           query_positions, slopes, rows};
  const logit_memory memory = {query_chunk, key_chunk,   logits,     key_bias,
                               key_place,   query_place, query_slope};
  logit_tiles<Query, Key, Sums> tiles;
  tiles.start(head.logits, inputs, memory, at, first_query);
  value_sums<Sums> sums;
  sums.start(head.values, at, tiles.queries, slice * value_tile);
  const int row = at.index / row_threads;
  float shift = 0.0f;
  if (row < tiles.queries) shift = largest[head.max_offset + first_query + row];
  if (is_hidden(shift)) shift = 0.0f;
  for (int key = first_key; key < end; key += key_tile) {
    tiles.make(head.logits, key, end);
    for (int k = at.index % row_threads; k < key_tile; k += row_threads) {
      threadgroup float& weight = logits[row * logit_stride + k];
      weight = metal::precise::exp(weight - shift);
    }
    sums.add(head.values, values, tiles, key, metal::min(key_tile, end - key));
  }
  sums.store(part_outputs + head.part_output_offset,
             long(part) * head.logits.queries + first_query, head.values.width);
}

KVFIT_FOR_ALL_TYPES(output)
