// SPDX-License-Identifier: MIT
// Importance of every key from its sums or maxima over parts of the queries, pooled along the keys.
//
// The average counts the zeros beyond the ends, as the published method does. One thread takes one
// key; parts are read once for each key of the pooling window.

#include <metal_stdlib>

using namespace metal;

#include "numbers.h"
#include "shared/importance_arguments.h"
#include "shared/tile_sizes.h"

using namespace kvfit::kernels;

/// Importance of key j before pooling.
inline float raw_importance(device const float* parts, constant finish_importance_arguments& head,
                            int j) {
  long_sum sum;
  sum.clear();
  float most = 0.0f;
  for (int p = 0; p < head.parts; ++p) {
    const float part = parts[head.part_offset + long(p) * head.keys + j];
    sum.add(part);
    most = metal::max(most, part);
  }
  if (head.kind == importance_max) return most;
  const float mean = sum.value() / float(head.observed);
  return head.kind == importance_rms ? metal::precise::sqrt(mean) : mean;
}

[[kernel]] void finish_importance(device const float* parts [[buffer(0)]],
                                  device float* importance [[buffer(1)]],
                                  constant finish_importance_arguments* heads [[buffer(2)]],
                                  uint3 group [[threadgroup_position_in_grid]],
                                  uint index [[thread_index_in_threadgroup]]) {
  constant finish_importance_arguments& head = heads[group.y];
  const int key = int(group.x) * group_threads + int(index);
  if (key >= head.keys) return;
  float out = 0.0f;
  if (head.pooling == pooling_none) {
    out = raw_importance(parts, head, key);
  } else {
    const int half_width = head.pooling_width / 2;
    const int begin = key > half_width ? key - half_width : 0;
    const int end = metal::min(head.keys - 1 - key, half_width) + key + 1;
    for (int j = begin; j < end; ++j) {
      const float raw = raw_importance(parts, head, j);
      out = head.pooling == pooling_max ? metal::max(out, raw) : out + raw;
    }
    if (head.pooling == pooling_average) out /= float(head.pooling_width);
  }
  importance[head.importance_offset + key] = out;
}
