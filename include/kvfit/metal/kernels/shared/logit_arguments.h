// SPDX-License-Identifier: MIT
/// Arguments of every kernel that makes logits: where queries, keys, bias, masks and positions lie,
/// and the rule that makes a logit of them (`kvfit::logit_rule`).
#pragma once

#include "language.h"

namespace kvfit {
namespace kernels {

/// Bits of `logit_arguments::flags`. Buffers without their bit are not read.
KVFIT_CONSTANT uint32_t logit_causal = 1;         ///< keys after the query's position are hidden
KVFIT_CONSTANT uint32_t logit_bias = 2;           ///< one fp32 number per key; −∞ hides the row
KVFIT_CONSTANT uint32_t logit_mask = 4;           ///< one fp32 number per query and key
KVFIT_CONSTANT uint32_t logit_key_positions = 8;  ///< one int64 per key
KVFIT_CONSTANT uint32_t logit_query_positions = 16;  ///< one int64 per query
KVFIT_CONSTANT uint32_t logit_slopes = 32;           ///< one fp32 ALiBi slope per query block
/// A list of int32 row numbers: product k is that of key row rows[k], its bias, position and mask.
KVFIT_CONSTANT uint32_t logit_rows = 64;
/// With `logit_rows`: row k of the keys is row rows[k] of the cache (keys were copied out).
KVFIT_CONSTANT uint32_t logit_keys_copied = 128;

/// One KV head. Query row r is row r % block_rows of query block r / block_rows: the query heads of
/// a GQA group are blocks. All offsets and strides are counted in elements from the start of the
/// buffer and may exceed 2³²; counts are below 2³⁰.
struct logit_arguments {
  int64_t query_offset;
  int64_t query_block_stride;
  int64_t query_row_stride;
  int64_t query_col_stride;
  int64_t key_offset;
  int64_t key_row_stride;
  int64_t key_col_stride;
  int64_t mask_offset;
  int64_t mask_block_stride;
  int64_t mask_row_stride;
  int64_t mask_col_stride;
  int64_t bias_offset;
  int64_t key_position_offset;
  int64_t query_position_offset;
  int64_t slope_offset;
  int64_t rows_offset;
  int64_t first_query_position;  ///< of row 0 of every block, where there is no table
  int64_t query_position_step;
  int64_t first_key_position;  ///< of row 0, where there is no table
  int64_t window;              ///< 0: none; otherwise the number of positions a query sees back
  int32_t queries;             ///< n: rows of all query blocks together
  int32_t block_rows;          ///< rows of one query block, ≥ 1
  int32_t keys;                ///< T, or the length of the list of rows
  int32_t depth;               ///< d_k
  float scale;
  float soft_cap;  ///< 0: none
  uint32_t flags;
  uint32_t unused;
};
static_assert(sizeof(logit_arguments) == 192, "host and shader must agree");

/// Places of the buffers that every such kernel reads.
KVFIT_CONSTANT int buffer_queries = 0;
KVFIT_CONSTANT int buffer_keys = 1;
KVFIT_CONSTANT int buffer_bias = 2;
KVFIT_CONSTANT int buffer_mask = 3;
KVFIT_CONSTANT int buffer_key_positions = 4;
KVFIT_CONSTANT int buffer_query_positions = 5;
KVFIT_CONSTANT int buffer_slopes = 6;
KVFIT_CONSTANT int buffer_rows = 7;
KVFIT_CONSTANT int buffer_arguments = 8;  ///< an array of the kernel's arguments, one per KV head

}  // namespace kernels
}  // namespace kvfit
