// SPDX-License-Identifier: MIT
// The score pass: the largest logit of every query and its mass over some of the keys, in one sweep.
//
//     max_r = max_j s_rj,   mass_r = Σ_j exp(s_rj − max_r)
//
// One threadgroup takes `query_tile` queries of one head over one part of the keys. Keys are read
// once for each tile of queries, queries once for each tile of keys.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "logits.h"
#include "online_softmax.h"
#include "shared/attention_arguments.h"

using namespace kvfit::kernels;

template <typename Query, typename Key, template <int> class Sums>
[[kernel]] void score_pass(device const Query* queries [[buffer(0)]],
                           device const Key* keys [[buffer(1)]],
                           device const float* bias [[buffer(2)]],
                           device const float* mask [[buffer(3)]],
                           device const long* key_positions [[buffer(4)]],
                           device const long* query_positions [[buffer(5)]],
                           device const float* slopes [[buffer(6)]],
                           device const int* rows [[buffer(7)]],
                           constant score_arguments* heads [[buffer(8)]],
                           device query_state* states [[buffer(9)]],
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

  constant score_arguments& head = heads[group.z];
  const int first_query = int(group.x) * query_tile;
  const int first_key = int(group.y) * head.keys_per_part;
  if (first_query >= head.logits.queries) return;
  const int end = first_key + metal::min(head.logits.keys - first_key, head.keys_per_part);
  const thread_place at = {int(index), int(lane), int(simd_index)};
  const logit_inputs<Query, Key> inputs = {queries,         keys,   bias, mask, key_positions,
                                           query_positions, slopes, rows};
  const logit_memory memory = {query_chunk, key_chunk,   logits,     key_bias,
                               key_place,   query_place, query_slope};
  logit_tiles<Query, Key, Sums> tiles;
  tiles.start(head.logits, inputs, memory, at, first_query);
  online_softmax softmax;
  softmax.start();
  for (int key = first_key; key < end; key += key_tile) {
    tiles.make(head.logits, key, end);
    softmax.take<false>(logits, at.index);
  }
  const query_state state = softmax.state();
  const int row = at.index / row_threads;
  if (at.index % row_threads == 0 && row < tiles.queries) {
    states[head.state_offset + long(group.y) * head.logits.queries + first_query + row] = state;
  }
}

KVFIT_FOR_ALL_TYPES(score_pass)
