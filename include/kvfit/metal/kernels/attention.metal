// SPDX-License-Identifier: MIT
// Biased attention over a part of the keys of one block, in one sweep, for decode and prefill.
//
//     max_r = max_j s_rj,   mass_r = Σ_j exp(s_rj − max_r),   out_r = Σ_j exp(s_rj − max_r) v_j
//
// `merge_states` joins parts, blocks and sinks to outputs and log masses. One threadgroup takes
// `query_tile` queries (of all query heads of a GQA group, counted through) and `value_tile` columns
// over one part of the keys: values are read once for each tile of queries, keys once for each tile
// of queries and slice of columns. Keys that no query of the tile can see, by even positions, are
// not read at all.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "logits.h"
#include "online_softmax.h"
#include "shared/attention_arguments.h"
#include "shared/visible_range.h"
#include "value_tiles.h"

using namespace kvfit::kernels;

template <typename Query, typename Key, template <int> class Sums>
[[kernel]] void attention(device const Query* queries [[buffer(0)]],
                          device const Key* keys [[buffer(1)]],
                          device const float* bias [[buffer(2)]],
                          device const float* mask [[buffer(3)]],
                          device const long* key_positions [[buffer(4)]],
                          device const long* query_positions [[buffer(5)]],
                          device const float* slopes [[buffer(6)]],
                          device const int* rows [[buffer(7)]],
                          constant attention_arguments* heads [[buffer(8)]],
                          device const Key* values [[buffer(9)]],
                          device query_state* states [[buffer(10)]],
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
  threadgroup float factors[query_tile];

  constant attention_arguments& head = heads[group.z];
  const int first_query = int(group.x) * query_tile;
  const int part = int(group.y) / head.slices;
  const int slice = int(group.y) % head.slices;
  if (first_query >= head.logits.queries) return;
  const thread_place at = {int(index), int(lane), int(simd_index)};
  const logit_inputs<Query, Key> inputs = {queries,         keys,   bias, mask, key_positions,
                                           query_positions, slopes, rows};
  const logit_memory memory = {query_chunk, key_chunk,   logits,     key_bias,
                               key_place,   query_place, query_slope};
  logit_tiles<Query, Key, Sums> tiles;
  tiles.start(head.logits, inputs, memory, at, first_query);
  value_sums<Sums> sums;
  sums.start(head.values, at, tiles.queries, slice * value_tile);
  online_softmax softmax;
  softmax.start();
  const int row = at.index / row_threads;

  const key_range visible = visible_range(
      head.logits.first_query_position, head.logits.query_position_step,
      head.logits.first_key_position, head.logits.window, head.logits.block_rows, head.logits.keys,
      head.logits.flags, first_query, tiles.queries);
  const int first_key =
      metal::max(part * head.keys_per_part, visible.begin / key_tile * key_tile);
  const int end = metal::min(visible.end, (part + 1) * head.keys_per_part);
  for (int key = first_key; key < end; key += key_tile) {
    tiles.make(head.logits, key, end);
    const float factor = softmax.take<true>(logits, at.index);
    if (at.index % row_threads == 0) factors[row] = factor;
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    sums.scale_rows(factors);
    sums.add(head.values, values, tiles, key, metal::min(key_tile, end - key));
  }
  sums.store(part_outputs + head.part_output_offset,
             long(part) * head.logits.queries + first_query, head.values.width);
  const query_state state = softmax.state();
  if (slice == 0 && at.index % row_threads == 0 && row < tiles.queries) {
    states[head.state_offset + long(part) * head.logits.queries + first_query + row] = state;
  }
}

KVFIT_FOR_ALL_TYPES(attention)
