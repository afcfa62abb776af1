// SPDX-License-Identifier: MIT
// Columns of the mass equation for listed keys, a key a row:
//
//     column_k,r = exp(s_rj − shift_r) factor_r,   j = rows_k
//
// With shift max and factor 1 they are the published Φ, with 1 / mass the attention weights. One
// threadgroup takes `query_tile` queries and `key_tile` listed keys: keys are read once for each
// tile of queries, queries once for each tile of keys.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "logits.h"
#include "shared/gather_arguments.h"

using namespace kvfit::kernels;

template <typename Query, typename Key, template <int> class Sums>
[[kernel]] void gather(device const Query* queries [[buffer(0)]],
                       device const Key* keys [[buffer(1)]],
                       device const float* bias [[buffer(2)]],
                       device const float* mask [[buffer(3)]],
                       device const long* key_positions [[buffer(4)]],
                       device const long* query_positions [[buffer(5)]],
                       device const float* slopes [[buffer(6)]],
                       device const int* rows [[buffer(7)]],
                       constant gather_arguments* heads [[buffer(8)]],
                       device const float* shifts [[buffer(9)]],
                       device const float* factors [[buffer(10)]],
                       device float* columns [[buffer(11)]],
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

  constant gather_arguments& head = heads[group.z];
  const int first_query = int(group.x) * query_tile;
  const int first_key = int(group.y) * key_tile;
  if (first_query >= head.logits.queries || first_key >= head.logits.keys) return;
  const thread_place at = {int(index), int(lane), int(simd_index)};
  const logit_inputs<Query, Key> inputs = {queries,         keys,   bias, mask, key_positions,
                                           query_positions, slopes, rows};
  const logit_memory memory = {query_chunk, key_chunk,   logits,     key_bias,
                               key_place,   query_place, query_slope};
  logit_tiles<Query, Key, Sums> tiles;
  tiles.start(head.logits, inputs, memory, at, first_query);
  tiles.make(head.logits, first_key, head.logits.keys);
  const int row = at.index % query_tile;
  if (row >= tiles.queries) return;
  const int query = first_query + row;
  const float given = shifts[head.query_offset + query];
  const float shift = is_hidden(given) ? 0.0f : given;
  const float factor = factors[head.query_offset + query];
  const int listed = metal::min(key_tile, head.logits.keys - first_key);
  for (int k = at.index / query_tile; k < listed; k += group_threads / query_tile) {
    columns[head.column_offset + head.column_stride * long(first_key + k) + query] =
        metal::precise::exp(logits[row * logit_stride + k] - shift) * factor;
  }
}

KVFIT_FOR_ALL_TYPES(gather)
