// SPDX-License-Identifier: MIT
/// Arguments of the kernels that reduce logits to masses and outputs.
#pragma once

#include "logit_arguments.h"

namespace kvfit {
namespace kernels {

/// Bits that kernels leave for every query; 0: all is well. The host makes typed errors of them.
/// A product of query and key is not finite, or a bias or a mask is NaN.
KVFIT_CONSTANT uint32_t fault_product = 1;
KVFIT_CONSTANT uint32_t fault_logit = 2;   ///< a logit is +∞, or the mass is not finite
KVFIT_CONSTANT uint32_t fault_output = 4;  ///< an output is not finite

/// What a part of the keys leaves for one query: max = max_j s_j, mass = Σ_j exp(s_j − max),
/// natural log; −∞ and 0 where it sees none. Parts are merged by `merge_states`.
struct query_state {
  float max;
  float mass;
  uint32_t faults;
  uint32_t unused;
};
static_assert(sizeof(query_state) == 16, "host and shader must agree");

/// `score_pass`: the grid is (tiles of queries, parts, heads).
struct score_arguments {
  logit_arguments logits;
  int64_t state_offset;   ///< of part 0: state of query r in part p at + p · queries + r
  int32_t keys_per_part;  ///< a multiple of `key_tile`
  int32_t unused;
};
static_assert(sizeof(score_arguments) == 208, "host and shader must agree");
KVFIT_CONSTANT int score_buffer_states = 9;

/// Values of the same rows as the keys.
struct value_arguments {
  int64_t offset;
  int64_t row_stride;
  int64_t col_stride;
  int32_t width;  ///< d_v
  int32_t unused;
};
static_assert(sizeof(value_arguments) == 32, "host and shader must agree");

/// `attention`: the grid is (tiles of queries, parts · slices of `value_tile` columns, heads).
struct attention_arguments {
  logit_arguments logits;
  value_arguments values;
  int64_t state_offset;        ///< as in `score_arguments`
  int64_t part_output_offset;  ///< fp32; query r of part p at + (p · queries + r) · d_v
  int32_t keys_per_part;       ///< a multiple of `key_tile`
  int32_t slices;              ///< tiles_of(d_v, value_tile)
};
static_assert(sizeof(attention_arguments) == 248, "host and shader must agree");
KVFIT_CONSTANT int attention_buffer_values = 9;
KVFIT_CONSTANT int attention_buffer_states = 10;
KVFIT_CONSTANT int attention_buffer_part_outputs = 11;

/// `output`: the same grid, for queries whose largest logit is known.
struct output_arguments {
  logit_arguments logits;
  value_arguments values;
  int64_t max_offset;          ///< of max_r, as `merge_states` wrote it
  int64_t part_output_offset;  ///< as in `attention_arguments`, but relative to max_r
  int32_t keys_per_part;       ///< a multiple of `key_tile`
  int32_t slices;              ///< tiles_of(d_v, value_tile)
};
static_assert(sizeof(output_arguments) == 248, "host and shader must agree");
KVFIT_CONSTANT int output_buffer_values = 9;
KVFIT_CONSTANT int output_buffer_max = 10;
KVFIT_CONSTANT int output_buffer_part_outputs = 11;

/// Bits of `merge_arguments::flags`.
KVFIT_CONSTANT uint32_t merge_sinks = 1;    ///< one fp32 sink logit per query block
KVFIT_CONSTANT uint32_t merge_outputs = 2;  ///< outputs are merged, too
KVFIT_CONSTANT uint32_t merge_one_shift =
    4;  ///< outputs of all parts are relative to the merged max

/// `merge_states`: the grid is (queries, heads).
struct merge_arguments {
  int64_t state_offset;  ///< as the kernels that wrote them
  int64_t part_output_offset;
  int64_t sink_offset;
  int64_t result_offset;  ///< of max, mass, log mass and faults, one a query
  int64_t output_offset;  ///< of the first output row
  int64_t output_row_stride;
  int32_t queries;
  int32_t block_rows;
  int32_t parts;         ///< of states
  int32_t output_parts;  ///< of outputs; `parts` unless `merge_one_shift`
  int32_t width;         ///< d_v
  uint32_t flags;
};
static_assert(sizeof(merge_arguments) == 72, "host and shader must agree");
KVFIT_CONSTANT int merge_buffer_states = 0;
KVFIT_CONSTANT int merge_buffer_part_outputs = 1;
KVFIT_CONSTANT int merge_buffer_sinks = 2;
KVFIT_CONSTANT int merge_buffer_max = 3;
KVFIT_CONSTANT int merge_buffer_mass = 4;
KVFIT_CONSTANT int merge_buffer_log_mass = 5;
KVFIT_CONSTANT int merge_buffer_faults = 6;
KVFIT_CONSTANT int merge_buffer_outputs = 7;
KVFIT_CONSTANT int merge_buffer_arguments = 8;

}  // namespace kernels
}  // namespace kvfit
