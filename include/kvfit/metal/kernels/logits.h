// SPDX-License-Identifier: MIT
/// Logits of a tile of queries against a tile of keys: the one place where kernels make them.
#pragma once

#include <metal_stdlib>

#include "numbers.h"
#include "shared/logit_arguments.h"
#include "shared/logit_rule.h"
#include "shared/tile_sizes.h"
#include "tile_sums.h"

namespace kvfit {
namespace kernels {

constant constexpr int depth_tile = 32;                ///< columns of keys staged together
constant constexpr int depth_stride = depth_tile + 4;  ///< of staged rows: other banks each
constant constexpr int logit_stride = key_tile + 4;    ///< of rows of a tile of logits
constant constexpr int staged_rows = group_threads / depth_tile;  ///< at a time: 4

/// What logits are made of, as kernels are handed it.
template <typename Query, typename Key>
struct logit_inputs {
  device const Query* queries;
  device const Key* keys;
  device const float* bias;
  device const float* mask;
  device const long* key_positions;
  device const long* query_positions;
  device const float* slopes;
  device const int* rows;
};

/// Threadgroup memory of a tile of logits. `logits`: query_tile rows `logit_stride` apart.
struct logit_memory {
  threadgroup float* queries;         ///< query_tile · depth_stride
  threadgroup float* keys;            ///< key_tile · depth_stride
  threadgroup float* logits;          ///< query_tile · logit_stride
  threadgroup float* key_bias;        ///< key_tile
  threadgroup long* key_positions;    ///< key_tile
  threadgroup long* query_positions;  ///< query_tile
  threadgroup float* query_slopes;    ///< query_tile
};

/// The tiles of logits of some queries of one head, each made by the whole threadgroup.
template <typename Query, typename Key, template <int> class Sums>
struct logit_tiles {
  logit_inputs<Query, Key> from;
  logit_memory memory;
  thread_place at;
  int first_query;
  int queries;     ///< of this tile: 1 … query_tile
  bool is_placed;  ///< positions matter
  // Rows of queries that this thread stages, and where it stands in them; −1: none.
  long query_rows[query_tile / staged_rows];

  /// Needs a barrier before anything else reads what it has written.
  void start(constant logit_arguments& rule, logit_inputs<Query, Key> inputs, logit_memory given,
             thread_place place, int first) {
    from = inputs;
    memory = given;
    at = place;
    first_query = first;
    queries = metal::min(query_tile, rule.queries - first);
    is_placed = has_positions(rule.flags, rule.window);
    KVFIT_UNROLL
    for (int k = 0; k < query_tile / staged_rows; ++k) {
      const int row = at.index / depth_tile + staged_rows * k;
      query_rows[k] = -1;
      if (row < queries) {
        const int block = (first + row) / rule.block_rows;
        const int in_block = (first + row) % rule.block_rows;
        query_rows[k] = rule.query_offset + rule.query_block_stride * long(block) +
                        rule.query_row_stride * long(in_block);
      }
    }
    if (is_placed && at.index < queries) {
      const int query = first + at.index;
      const int block = query / rule.block_rows;
      memory.query_positions[at.index] =
          (rule.flags & logit_query_positions) != 0
              ? from.query_positions[rule.query_position_offset + query]
              : rule.first_query_position +
                    rule.query_position_step * long(query % rule.block_rows);
      memory.query_slopes[at.index] =
          (rule.flags & logit_slopes) != 0 ? from.slopes[rule.slope_offset + block] : 0.0f;
    }
  }

  /// The row of the cache that key `k` is of.
  int cache_row(constant logit_arguments& rule, int k) const {
    return (rule.flags & logit_rows) != 0 ? from.rows[rule.rows_offset + k] : k;
  }

  /// Writes the logits of all queries against the keys from `first_key` on, as many as the tile
  /// takes; −∞ for keys from `end` on. NaN stands where a product, times the scale, is not finite,
  /// whether hidden or not. Rows that the bias hides are not read. Ends with a barrier, and has one
  /// before it writes anything but biases and positions of keys: whoever reads these after a call
  /// needs a barrier of its own before the next.
  void make(constant logit_arguments& rule, int first_key, int end) {
    const int keys = metal::min(key_tile, end - first_key);
    if (at.index < keys) {
      const int row = cache_row(rule, first_key + at.index);
      memory.key_bias[at.index] =
          (rule.flags & logit_bias) != 0 ? from.bias[rule.bias_offset + row] : 0.0f;
      if (is_placed) {
        memory.key_positions[at.index] = (rule.flags & logit_key_positions) != 0
                                             ? from.key_positions[rule.key_position_offset + row]
                                             : rule.first_key_position + long(row);
      }
    }
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    Sums<key_tile> products;
    products.start(at);
    multiply(rule, first_key, keys, products);
    KVFIT_UNROLL
    for (int k = 0; k < products.count(); ++k) {
      const int row = products.row(k);
      const int col = products.col(k);
      float logit = minus_infinity();
      if (row < queries && col < keys) {
        logit = finish(rule, products.get(k), row, col, first_key);
      }
      memory.logits[row * logit_stride + col] = logit;
    }
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  }

 private:
  /// Adds K Qᵀ chunk by chunk of columns.
  void multiply(constant logit_arguments& rule, int first_key, int keys,
                thread Sums<key_tile>& products) {
    const int col = at.index % depth_tile;
    const int first_row = at.index / depth_tile;
    long key_rows[key_tile / staged_rows];
    KVFIT_UNROLL
    for (int k = 0; k < key_tile / staged_rows; ++k) {
      const int row = first_row + staged_rows * k;
      key_rows[k] = -1;
      if (row < keys && !is_hidden(memory.key_bias[row])) {
        const int key = (rule.flags & logit_keys_copied) != 0 ? first_key + row
                                                              : cache_row(rule, first_key + row);
        key_rows[k] = rule.key_offset + rule.key_row_stride * long(key);
      }
    }
    for (int first = 0; first < rule.depth; first += depth_tile) {
      const bool is_inside = first + col < rule.depth;
      const long column = first + col;
      if (first > 0) threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      KVFIT_UNROLL
      for (int k = 0; k < query_tile / staged_rows; ++k) {
        float x = 0.0f;
        if (is_inside && query_rows[k] >= 0) {
          x = float(from.queries[query_rows[k] + rule.query_col_stride * column]);
        }
        memory.queries[(first_row + staged_rows * k) * depth_stride + col] = x;
      }
      KVFIT_UNROLL
      for (int k = 0; k < key_tile / staged_rows; ++k) {
        float x = 0.0f;
        if (is_inside && key_rows[k] >= 0) {
          x = float(from.keys[key_rows[k] + rule.key_col_stride * column]);
        }
        memory.keys[(first_row + staged_rows * k) * depth_stride + col] = x;
      }
      threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int depth = metal::min(depth_tile, (rule.depth - first + 7) / 8 * 8);
      products.template multiply_add<true>(memory.queries, depth_stride, memory.keys, depth_stride,
                                           depth, queries, keys);
    }
  }

  float finish(constant logit_arguments& rule, float product, int row, int col,
               int first_key) const {
    const float scaled = product * rule.scale;
    if (!is_finite(scaled)) return quiet_nan();
    const float bias = memory.key_bias[col];
    float logit = capped(scaled, rule.soft_cap) + bias;
    if (is_hidden(bias)) return logit;
    if ((rule.flags & logit_mask) != 0) {
      const int query = first_query + row;
      logit += from.mask[rule.mask_offset + rule.mask_block_stride * long(query / rule.block_rows) +
                         rule.mask_row_stride * long(query % rule.block_rows) +
                         rule.mask_col_stride * long(cache_row(rule, first_key + col))];
    }
    if (is_placed) {
      const long back = memory.query_positions[row] - memory.key_positions[col];
      if (is_hidden_by_position(back, rule.flags, rule.window)) return minus_infinity();
      logit -= memory.query_slopes[row] * float(back);
    }
    return logit;
  }
};

}  // namespace kernels
}  // namespace kvfit
