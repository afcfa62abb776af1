// SPDX-License-Identifier: MIT
// Joins what parts of the keys, blocks of a cache and attention sinks leave for every query.
//
//     max = max_p max_p,   mass = Σ_p mass_p exp(max_p − max),   log_mass = max + ln mass
//     output = Σ_p exp(max_p − max) out_p / mass
//
// A query that sees nothing gets max and log mass −∞, mass and output 0. One threadgroup takes one
// query; states of all parts are read once for each of its columns' threads, part outputs once.

#include <metal_stdlib>

using namespace metal;

#include "numbers.h"
#include "shared/attention_arguments.h"
#include "shared/tile_sizes.h"

using namespace kvfit::kernels;

[[kernel]] void merge_states(device const query_state* states [[buffer(0)]],
                             device const float* part_outputs [[buffer(1)]],
                             device const float* sinks [[buffer(2)]],
                             device float* max_out [[buffer(3)]],
                             device float* mass_out [[buffer(4)]],
                             device float* log_mass_out [[buffer(5)]],
                             device uint* faults_out [[buffer(6)]],
                             device float* outputs [[buffer(7)]],
                             constant merge_arguments* heads [[buffer(8)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint index [[thread_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float bad_outputs[group_threads / 32];

  constant merge_arguments& head = heads[group.y];
  const int query = int(group.x);
  if (query >= head.queries) return;
  device const query_state* own = states + head.state_offset + query;
  const float sink = (head.flags & merge_sinks) != 0
                         ? sinks[head.sink_offset + query / head.block_rows]
                         : minus_infinity();
  float largest = sink;
  uint faults = 0;
  for (int p = 0; p < head.parts; ++p) {
    const query_state part = own[long(p) * head.queries];
    largest = metal::max(largest, part.max);
    faults |= part.faults;
  }
  const float shift = is_hidden(largest) ? 0.0f : largest;
  long_sum mass;
  mass.clear();
  for (int p = 0; p < head.parts; ++p) {
    const query_state part = own[long(p) * head.queries];
    mass.add(part.mass * metal::precise::exp(part.max - shift));
  }
  mass.add(metal::precise::exp(sink - shift));
  const float total = mass.value();
  if (!is_finite(total) || !(is_finite(largest) || is_hidden(largest))) faults |= fault_logit;

  float bad = 0.0f;
  const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
  const bool has_outputs = (head.flags & merge_outputs) != 0;
  for (int col = int(index); has_outputs && col < head.width; col += group_threads) {
    long_sum sum;
    sum.clear();
    for (int p = 0; p < head.output_parts; ++p) {
      const float part =
          part_outputs[head.part_output_offset +
                       (long(p) * head.queries + query) * head.width + col];
      float factor = 1.0f;
      if ((head.flags & merge_one_shift) == 0) {
        factor = metal::precise::exp(own[long(p) * head.queries].max - shift);
      }
      sum.add(part * factor);
    }
    const float output = sum.value() * inverse;
    if (!is_finite(output)) bad = 1.0f;
    outputs[head.output_offset + head.output_row_stride * query + col] = output;
  }
  bad = metal::simd_max(bad);
  if (lane == 0) bad_outputs[simd_index] = bad;
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (index != 0) return;
  for (int k = 0; k < group_threads / 32; ++k) {
    if (bad_outputs[k] > 0.0f) faults |= fault_output;
  }
  const long at = head.result_offset + query;
  max_out[at] = largest;
  mass_out[at] = total;
  log_mass_out[at] = total > 0.0f ? shift + metal::precise::log(total) : minus_infinity();
  faults_out[at] = faults;
}


