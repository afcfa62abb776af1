// SPDX-License-Identifier: MIT
// Orthogonal matching pursuit: how much each key's column agrees with what is left to explain, and
// which agree most.
//
// `correlate`: one simdgroup takes four keys; columns are read once, the residual once for each key
// (it stays near). `best_rows` and `best_of_parts`: one threadgroup takes one part; its candidates
// are read `count` times.

#include <metal_stdlib>

using namespace metal;

#include "numbers.h"
#include "ranking.h"
#include "row_product.h"
#include "shared/pursuit_arguments.h"
#include "shared/tile_sizes.h"

using namespace kvfit::kernels;

[[kernel]] void correlate(device const float* columns [[buffer(0)]],
                          device const float* residual [[buffer(1)]],
                          device const float* divisors [[buffer(2)]],
                          device const uchar* open [[buffer(3)]],
                          device const int* rows [[buffer(4)]],
                          device float* correlations [[buffer(5)]],
                          device float* scores [[buffer(6)]],
                          constant correlation_arguments* heads [[buffer(7)]],
                          uint3 group [[threadgroup_position_in_grid]],
                          uint lane [[thread_index_in_simdgroup]],
                          uint simd_index [[simdgroup_index_in_threadgroup]]) {
  constant correlation_arguments& head = heads[group.y];
  const int first = int(group.x) * keys_per_group + int(simd_index) * 4;
  const int end = metal::min(first + 4, head.keys);
  for (int key = first; key < end; ++key) {
    const int column = (head.flags & correlation_rows) != 0 ? rows[head.rows_offset + key] : key;
    const float c =
        row_product(columns + head.column_offset + head.column_stride * long(column),
                    residual + head.residual_offset, head.queries, int(lane));
    if (lane == 0) {
      const long at = head.key_offset + key;
      correlations[at] = c;
      float score = (head.flags & correlation_absolute) != 0 ? metal::fabs(c) : c;
      if ((head.flags & correlation_divisors) != 0) score /= divisors[at];
      if ((head.flags & correlation_open) != 0 && open[at] == 0) score = minus_infinity();
      scores[at] = score;
    }
  }
}

/// The best key that goes after `last`, of those that the threads hold; in every thread.
inline ranked_key best_of_group(ranked_key mine, threadgroup float* scores, threadgroup int* rows,
                                int lane, int simd_index) {
  const ranked_key best = best_of_simdgroup(mine);
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (lane == 0) {
    scores[simd_index] = best.score;
    rows[simd_index] = best.row;
  }
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  ranked_key out = no_key();
  for (int k = 0; k < group_threads / 32; ++k) {
    ranked_key one;
    one.score = scores[k];
    one.row = rows[k];
    if (is_better(one, out)) out = one;
  }
  return out;
}

[[kernel]] void best_rows(device const float* candidates [[buffer(0)]],
                          device ranked_key* best [[buffer(1)]],
                          device uchar* open [[buffer(2)]],
                          constant best_arguments* heads [[buffer(3)]],
                          uint3 group [[threadgroup_position_in_grid]],
                          uint index [[thread_index_in_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]],
                          uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float scores[group_threads / 32];
  threadgroup int rows[group_threads / 32];

  constant best_arguments& head = heads[group.y];
  const int first = int(group.x) * head.candidates_per_part;
  const int end = first + metal::min(head.candidates - first, head.candidates_per_part);
  ranked_key last = no_key();
  for (int k = 0; k < head.count; ++k) {
    ranked_key mine = no_key();
    for (int j = first + int(index); j < end; j += group_threads) {
      ranked_key one;
      one.score = candidates[head.candidate_offset + j];
      one.row = j;
      const bool is_left = k == 0 || is_better(last, one);
      if (is_left && one.score > minus_infinity() && is_better(one, mine)) mine = one;
    }
    last = best_of_group(mine, scores, rows, int(lane), int(simd_index));
    if (index == 0) {
      best[head.best_offset + long(group.x) * head.count + k] = last;
      if ((head.flags & best_close) != 0 && last.row >= 0) open[head.open_offset + last.row] = 0;
    }
    if (last.row >= 0) continue;
    for (int rest = k + 1 + int(index); rest < head.count; rest += group_threads) {
      best[head.best_offset + long(group.x) * head.count + rest] = no_key();
    }
    break;
  }
}

[[kernel]] void best_of_parts(device const ranked_key* candidates [[buffer(0)]],
                              device ranked_key* best [[buffer(1)]],
                              device uchar* open [[buffer(2)]],
                              constant best_arguments* heads [[buffer(3)]],
                              uint3 group [[threadgroup_position_in_grid]],
                              uint index [[thread_index_in_threadgroup]],
                              uint lane [[thread_index_in_simdgroup]],
                              uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float scores[group_threads / 32];
  threadgroup int rows[group_threads / 32];

  constant best_arguments& head = heads[group.y];
  const int first = int(group.x) * head.candidates_per_part;
  const int end = first + metal::min(head.candidates - first, head.candidates_per_part);
  ranked_key last = no_key();
  for (int k = 0; k < head.count; ++k) {
    ranked_key mine = no_key();
    for (int j = first + int(index); j < end; j += group_threads) {
      const ranked_key one = candidates[head.candidate_offset + j];
      const bool is_left = k == 0 || is_better(last, one);
      if (is_left && is_better(one, mine)) mine = one;
    }
    last = best_of_group(mine, scores, rows, int(lane), int(simd_index));
    if (index == 0) {
      best[head.best_offset + long(group.x) * head.count + k] = last;
      if ((head.flags & best_close) != 0 && last.row >= 0) open[head.open_offset + last.row] = 0;
    }
    if (last.row >= 0) continue;
    for (int rest = k + 1 + int(index); rest < head.count; rest += group_threads) {
      best[head.best_offset + long(group.x) * head.count + rest] = no_key();
    }
    break;
  }
}
