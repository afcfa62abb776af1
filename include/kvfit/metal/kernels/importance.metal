// SPDX-License-Identifier: MIT
// Attention weights of every key over some of the queries, as a sum, a sum of squares or a maximum.
//
//     A_rj = exp(s_rj − max_r) / mass_r
//
// One threadgroup takes `key_tile` keys of one head over one part of the queries. Keys are read once
// for each tile of queries, queries once for each tile of keys; no n × T numbers are written.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "logits.h"
#include "shared/importance_arguments.h"

using namespace kvfit::kernels;

template <typename Query, typename Key, template <int> class Sums>
[[kernel]] void importance(device const Query* queries [[buffer(0)]],
                           device const Key* keys [[buffer(1)]],
                           device const float* bias [[buffer(2)]],
                           device const float* mask [[buffer(3)]],
                           device const long* key_positions [[buffer(4)]],
                           device const long* query_positions [[buffer(5)]],
                           device const float* slopes [[buffer(6)]],
                           device const int* rows [[buffer(7)]],
                           constant importance_arguments* heads [[buffer(8)]],
                           device const float* largest [[buffer(9)]],
                           device const float* mass [[buffer(10)]],
                           device const uchar* observed [[buffer(11)]],
                           device float* parts [[buffer(12)]],
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
  threadgroup float shifts[query_tile];
  threadgroup float scales[query_tile];
  threadgroup float halves[key_tile];

  constant importance_arguments& head = heads[group.z];
  const int first_key = int(group.x) * key_tile;
  if (first_key >= head.logits.keys) return;
  const int begin = int(group.y) * head.queries_per_part;
  const int end = begin + metal::min(head.logits.queries - begin, head.queries_per_part);
  const thread_place at = {int(index), int(lane), int(simd_index)};
  const logit_inputs<Query, Key> inputs = {queries,         keys,   bias, mask, key_positions,
                                           query_positions, slopes, rows};
  const logit_memory memory = {query_chunk, key_chunk,   logits,     key_bias,
                               key_place,   query_place, query_slope};
  logit_tiles<Query, Key, Sums> tiles;
  // Half of the threads take the first 16 queries of each tile, the others the last 16.
  const int col = at.index % key_tile;
  const int first_row = at.index / key_tile * (query_tile / 2);
  long_sum sum;
  sum.clear();
  float most = 0.0f;
  for (int query = begin; query < end; query += query_tile) {
    tiles.start(head.logits, inputs, memory, at, query);
    tiles.make(head.logits, first_key, head.logits.keys);
    if (at.index < query_tile) {
      const int row = query + at.index;
      float shift = 0.0f;
      float scale = 0.0f;
      if (at.index < tiles.queries && row < end &&
          (head.has_observed == 0 || observed[head.observed_offset + row] != 0)) {
        const float total = mass[head.result_offset + row];
        if (total > 0.0f) {
          shift = largest[head.result_offset + row];
          scale = 1.0f / total;
        }
      }
      shifts[at.index] = shift;
      scales[at.index] = scale;
    }
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    float part = 0.0f;
    for (int row = first_row; row < first_row + query_tile / 2; ++row) {
      if (scales[row] == 0.0f) continue;
      const float weight =
          metal::precise::exp(logits[row * logit_stride + col] - shifts[row]) * scales[row];
      most = metal::max(most, weight);
      part += head.kind == importance_rms ? weight * weight : weight;
    }
    sum.add(part);
  }
  const float mine = head.kind == importance_max ? most : sum.value();
  if (first_row > 0) halves[col] = mine;
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (first_row > 0 || first_key + col >= head.logits.keys) return;
  parts[head.part_offset + long(group.y) * head.logits.keys + first_key + col] =
      head.kind == importance_max ? metal::max(mine, halves[col]) : mine + halves[col];
}

KVFIT_FOR_ALL_TYPES(importance)
