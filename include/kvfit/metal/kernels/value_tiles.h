// SPDX-License-Identifier: MIT
/// Weighted sums of values: a tile of weights times the values of the same keys, for a slice of
/// `value_tile` columns.
#pragma once

#include <metal_stdlib>

#include "logits.h"
#include "shared/attention_arguments.h"
#include "tile_sums.h"

namespace kvfit {
namespace kernels {

constant constexpr int value_chunk = 16;               ///< keys whose values are staged together
constant constexpr int value_stride = value_tile + 4;  ///< of their rows

static_assert(value_chunk * value_stride <= key_tile * depth_stride,
              "values are staged where keys were");
static_assert(value_tile == group_threads, "a thread stages one column");

/// Σ_j weight_rj v_j for the queries of a tile and some columns, in the threadgroup's registers.
template <template <int> class Sums>
struct value_sums {
  Sums<value_tile> sums;
  thread_place at;
  int queries;
  int first_col;
  int cols;  ///< of this slice: 1 … value_tile

  void start(constant value_arguments& values, thread_place place, int queries_of_tile,
             int first_column) {
    sums.start(place);
    at = place;
    queries = queries_of_tile;
    first_col = first_column;
    cols = metal::min(value_tile, values.width - first_column);
  }

  /// Multiplies the sums of row r by factors[r].
  void scale_rows(threadgroup const float* factors) {
    KVFIT_UNROLL
    for (int k = 0; k < sums.count(); ++k) sums.set(k, sums.get(k) * factors[sums.row(k)]);
  }

  /// Adds `keys` keys from `first_key` on, whose weights stand in `tiles.memory.logits`. Rows that
  /// the bias hides are not read. Begins with a barrier; the weights must stay until the next one.
  /// The keys' biases are not read after its last barrier.
  template <typename Query, typename Key>
  void add(constant value_arguments& rule, device const Key* values,
           thread const logit_tiles<Query, Key, Sums>& tiles, int first_key, int keys) {
    threadgroup float* const staged = tiles.memory.keys;
    const bool is_inside = at.index < cols;
    const long column = rule.offset + rule.col_stride * long(first_col + at.index);
    for (int first = 0; first < keys; first += value_chunk) {
      threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      for (int k = 0; k < value_chunk; ++k) {
        const int key = first + k;
        float x = 0.0f;
        if (is_inside && key < keys && !is_hidden(tiles.memory.key_bias[key])) {
          x = float(values[column + rule.row_stride * long(first_key + key)]);
        }
        staged[k * value_stride + at.index] = x;
      }
      threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      sums.template multiply_add<false>(tiles.memory.logits + first, logit_stride, staged,
                                        value_stride, value_chunk, queries, cols);
    }
  }

  /// Writes the sums, one row of `width` a query.
  void store(device float* out, long first_row, int width) {
    KVFIT_UNROLL
    for (int k = 0; k < sums.count(); ++k) {
      const int row = sums.row(k);
      const int col = sums.col(k);
      if (row < queries && col < cols) {
        out[(first_row + row) * width + first_col + col] = sums.get(k);
      }
    }
  }
};

}  // namespace kernels
}  // namespace kvfit
