// SPDX-License-Identifier: MIT
/// Arguments of the kernels that make one number per key of the attention it gets.
#pragma once

#include "logit_arguments.h"

namespace kvfit {
namespace kernels {

/// How a key's attention weights become one number: `kvfit::importance_kind` and `pooling_kind`.
KVFIT_CONSTANT int importance_mean = 1;
KVFIT_CONSTANT int importance_rms = 2;
KVFIT_CONSTANT int importance_max = 3;
KVFIT_CONSTANT int pooling_none = 0;
KVFIT_CONSTANT int pooling_average = 1;
KVFIT_CONSTANT int pooling_max = 2;

/// `importance`: the grid is (tiles of keys, parts of the queries, heads).
struct importance_arguments {
  logit_arguments logits;
  int64_t result_offset;     ///< of max and mass of query 0, as `merge_states` wrote them
  int64_t observed_offset;   ///< of one byte per query: 0 where it has no say
  int64_t part_offset;       ///< fp32; key j's sum or maximum over part p at + p · keys + j
  int32_t queries_per_part;  ///< a multiple of `query_tile`
  int32_t kind;
  int32_t has_observed;  ///< else every query has a say
  int32_t unused;
};
static_assert(sizeof(importance_arguments) == 232, "host and shader must agree");
KVFIT_CONSTANT int importance_buffer_max = 9;
KVFIT_CONSTANT int importance_buffer_mass = 10;
KVFIT_CONSTANT int importance_buffer_observed = 11;
KVFIT_CONSTANT int importance_buffer_parts = 12;

/// `finish_importance`: the grid is (tiles of `group_threads` keys, heads).
struct finish_importance_arguments {
  int64_t part_offset;
  int64_t importance_offset;  ///< fp32, one a key
  int32_t keys;
  int32_t parts;
  int32_t observed;  ///< queries that had a say, ≥ 1
  int32_t kind;
  int32_t pooling;
  int32_t pooling_width;  ///< odd
};
static_assert(sizeof(finish_importance_arguments) == 40, "host and shader must agree");
KVFIT_CONSTANT int finish_importance_buffer_parts = 0;
KVFIT_CONSTANT int finish_importance_buffer_importance = 1;
KVFIT_CONSTANT int finish_importance_buffer_arguments = 2;

}  // namespace kernels
}  // namespace kvfit
