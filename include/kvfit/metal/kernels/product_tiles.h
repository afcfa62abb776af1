// SPDX-License-Identifier: MIT
/// One tile of a product of matrices, its sums carried beyond fp32.
#pragma once

#include <metal_stdlib>

#include "numbers.h"
#include "shared/product_arguments.h"
#include "shared/tile_sizes.h"
#include "tile_sums.h"

namespace kvfit {
namespace kernels {

constant constexpr int sum_tile = 32;  ///< terms of the sums staged together
constant constexpr int sum_stride = sum_tile + 4;
constant constexpr int sum_run = 128;  ///< terms summed in fp32 before they go on
constant constexpr int right_stride = key_tile + 4;

/// 32 × 64 numbers of A D² B or A D² Aᵀ. `left`: 32 · sum_stride floats of threadgroup memory,
/// `right`: 64 · sum_stride.
template <template <int> class Sums>
struct product_tile {
  Sums<key_tile> run;
  long_sum sums[key_tile / 4];
  thread_place at;

  static constexpr int count() { return key_tile / 4; }
  int row(int k) const { return run.row(k); }
  int col(int k) const { return run.col(k); }
  float get(int k) const { return sums[k].value(); }

  /// `IsGram`: B is Aᵀ, and `b` is not used.
  template <bool IsGram>
  void make(constant product_arguments& rule, device const float* a, device const float* b,
            device const float* factors, threadgroup float* left, threadgroup float* right,
            thread_place place, int first_row, int first_col) {
    at = place;
    run.start(at);
    KVFIT_UNROLL
    for (int k = 0; k < count(); ++k) sums[k].clear();
    const int rows = metal::min(query_tile, rule.rows - first_row);
    const int cols = metal::min(key_tile, (IsGram ? rule.rows : rule.cols) - first_col);
    const bool is_scaled = (rule.flags & product_scaled) != 0;
    for (int first = 0; first < rule.depth; first += sum_tile) {
      const int terms = metal::min(sum_tile, rule.depth - first);
      threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int term = at.index % sum_tile;
      float factor = term < terms ? 1.0f : 0.0f;
      if (is_scaled && term < terms) factor = factors[rule.factor_offset + first + term];
      for (int row = at.index / sum_tile; row < query_tile; row += group_threads / sum_tile) {
        float x = 0.0f;
        if (row < rows && term < terms) {
          x = a[rule.left_offset + rule.left_row_stride * long(first_row + row) + first + term];
          x *= factor;
        }
        left[row * sum_stride + term] = x;
      }
      if (IsGram) {
        for (int col = at.index / sum_tile; col < key_tile; col += group_threads / sum_tile) {
          float x = 0.0f;
          if (col < cols && term < terms) {
            x = a[rule.left_offset + rule.left_row_stride * long(first_col + col) + first + term];
            x *= factor;
          }
          right[col * sum_stride + term] = x;
        }
      } else {
        const int col = at.index % key_tile;
        for (int k = at.index / key_tile; k < sum_tile; k += group_threads / key_tile) {
          float x = 0.0f;
          if (col < cols && k < terms) {
            x = b[rule.right_offset + rule.right_row_stride * long(first + k) + first_col + col];
            if (is_scaled) x *= factors[rule.factor_offset + first + k];
          }
          right[k * right_stride + col] = x;
        }
      }
      threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int depth = (terms + 7) / 8 * 8;
      run.template multiply_add<IsGram>(left, sum_stride, right, IsGram ? sum_stride : right_stride,
                                        depth, rows, cols);
      if ((first + sum_tile) % sum_run == 0 || first + sum_tile >= rule.depth) {
        KVFIT_UNROLL
        for (int k = 0; k < count(); ++k) sums[k].add(run.get(k));
        run.clear();
      }
    }
  }
};

}  // namespace kernels
}  // namespace kvfit
