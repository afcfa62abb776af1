// SPDX-License-Identifier: MIT
/// A tile of 32 × `Cols` sums held by the registers of one threadgroup, and products added to it.
///
/// `plain_sums` are made of plain numbers, `simdgroup_sums` of 8 × 8 simdgroup matrices, which
/// Apple7 and later devices have. All else is the same: `count` numbers a thread, each with its row
/// and column. Kernels are instances for both, and the host takes those that its device can run.
#pragma once

#include <metal_simdgroup_matrix>
#include <metal_stdlib>

#include "numbers.h"
#include "shared/tile_sizes.h"

namespace kvfit {
namespace kernels {

/// Who a thread is within its threadgroup.
struct thread_place {
  int index;  ///< 0 … 127
  int lane;   ///< within its simdgroup
  int group;  ///< its simdgroup, 0 … 3
};

/// `Cols`: a multiple of 16. Simdgroup g holds rows 16 (g / 2) … and columns Cols / 2 · (g % 2) …,
/// by parts of 8 × 8; of each part a lane holds two numbers side by side.
template <int Cols>
struct simdgroup_sums {
  metal::simdgroup_float8x8 parts[2][Cols / 16];
  int first_row;
  int first_col;
  int lane_row;
  int lane_col;

  /// Numbers a thread holds.
  static constexpr int count() { return Cols / 4; }

  /// All 0.
  void start(thread_place at) {
    first_row = 16 * (at.group / 2);
    first_col = (Cols / 2) * (at.group % 2);
    const int quad = at.lane / 4;
    lane_row = (quad & 4) + (at.lane / 2) % 4;
    lane_col = (quad & 2) * 2 + (at.lane % 2) * 2;
    clear();
  }

  void clear() {
    KVFIT_UNROLL
    for (int r = 0; r < 2; ++r) {
      KVFIT_UNROLL
      for (int c = 0; c < Cols / 16; ++c) {
        parts[r][c] = metal::make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      }
    }
  }

  int row(int k) const { return first_row + 8 * (k / (Cols / 8)) + lane_row; }
  int col(int k) const { return first_col + 8 * ((k / 2) % (Cols / 16)) + lane_col + k % 2; }
  float get(int k) { return parts[k / (Cols / 8)][(k / 2) % (Cols / 16)].thread_elements()[k % 2]; }
  void set(int k, float x) {
    parts[k / (Cols / 8)][(k / 2) % (Cols / 16)].thread_elements()[k % 2] = x;
  }

  /// Adds A B: A's rows 0 … 31 and `depth` (a multiple of 8) columns, B's `Cols` columns. A stands
  /// as [row][k], B as [k][col], or as [col][k] where `TransposeB`. Parts whose rows begin at
  /// `rows` or later, or whose columns at `cols`, are not made.
  template <bool TransposeB>
  void multiply_add(threadgroup const float* a, int a_stride, threadgroup const float* b,
                    int b_stride, int depth, int rows, int cols) {
    if (first_row >= rows || first_col >= cols) return;
    for (int k = 0; k < depth; k += 8) {
      metal::simdgroup_float8x8 left[2];
      metal::simdgroup_float8x8 right;
      KVFIT_UNROLL
      for (int r = 0; r < 2; ++r) {
        metal::simdgroup_load(left[r], a + (first_row + 8 * r) * a_stride + k, ulong(a_stride));
      }
      KVFIT_UNROLL
      for (int c = 0; c < Cols / 16; ++c) {
        const int column = first_col + 8 * c;
        if (column >= cols) break;
        if (TransposeB) {
          metal::simdgroup_load(right, b + column * b_stride + k, ulong(b_stride), ulong2(0, 0),
                                true);
        } else {
          metal::simdgroup_load(right, b + k * b_stride + column, ulong(b_stride));
        }
        KVFIT_UNROLL
        for (int r = 0; r < 2; ++r) {
          if (first_row + 8 * r < rows) {
            metal::simdgroup_multiply_accumulate(parts[r][c], left[r], right, parts[r][c]);
          }
        }
      }
    }
  }
};

/// The same in plain numbers. Thread t holds rows 4 (t / 16) … and columns t % 16, t % 16 + 16, …
template <int Cols>
struct plain_sums {
  float parts[4][Cols / 16];
  int first_row;
  int first_col;

  static constexpr int count() { return Cols / 4; }

  void start(thread_place at) {
    first_row = 4 * (at.index / 16);
    first_col = at.index % 16;
    clear();
  }

  void clear() {
    KVFIT_UNROLL
    for (int r = 0; r < 4; ++r) {
      KVFIT_UNROLL
      for (int c = 0; c < Cols / 16; ++c) parts[r][c] = 0.0f;
    }
  }

  int row(int k) const { return first_row + k / (Cols / 16); }
  int col(int k) const { return first_col + 16 * (k % (Cols / 16)); }
  float get(int k) const { return parts[k / (Cols / 16)][k % (Cols / 16)]; }
  void set(int k, float x) { parts[k / (Cols / 16)][k % (Cols / 16)] = x; }

  template <bool TransposeB>
  void multiply_add(threadgroup const float* a, int a_stride, threadgroup const float* b,
                    int b_stride, int depth, int rows, int cols) {
    if (first_row >= rows || first_col >= cols) return;
    for (int k = 0; k < depth; ++k) {
      float left[4];
      KVFIT_UNROLL
      for (int r = 0; r < 4; ++r) left[r] = a[(first_row + r) * a_stride + k];
      KVFIT_UNROLL
      for (int c = 0; c < Cols / 16; ++c) {
        const int column = first_col + 16 * c;
        if (column >= cols) break;
        const float right = TransposeB ? b[column * b_stride + k] : b[k * b_stride + column];
        KVFIT_UNROLL
        for (int r = 0; r < 4; ++r) parts[r][c] = metal::fma(left[r], right, parts[r][c]);
      }
    }
  }
};

}  // namespace kernels
}  // namespace kvfit
