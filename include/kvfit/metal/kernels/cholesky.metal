// SPDX-License-Identifier: MIT
// Blocked Cholesky factor of a positive definite matrix, and triangular solves with many right sides.
//
//     A + ridge I = L Lᵀ,   L X = B,   Lᵀ X = B
//
// Each kernel is a step of one block of 32 columns (shared/factor_arguments.h). A factor reads and
// writes the trailing triangle once a block, t³ / 96 numbers each way; a solve the right sides once
// a block.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "numbers.h"
#include "shared/factor_arguments.h"
#include "shared/tile_sizes.h"
#include "tile_sums.h"

using namespace kvfit::kernels;

constant constexpr int block_stride = factor_block_size + 4;

/// Copies rows and columns first … of the factor's diagonal block; zeros beyond its end.
inline void stage_block(device const float* matrix, constant factor_arguments& head, int first,
                        threadgroup float* block, int index) {
  const int size = metal::min(factor_block_size, head.size - first);
  for (int k = index; k < factor_block_size * factor_block_size; k += group_threads) {
    const int row = k / factor_block_size;
    const int col = k % factor_block_size;
    float x = 0.0f;
    if (row < size && col <= row) {
      x = matrix[head.matrix_offset + head.matrix_row_stride * long(first + row) + first + col];
    }
    block[row * block_stride + col] = x;
  }
}

[[kernel]] void factor_block(device float* matrix [[buffer(0)]], device int* failed [[buffer(2)]],
                             constant factor_arguments* heads [[buffer(3)]],
                             constant int& first_column [[buffer(4)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint index [[thread_index_in_threadgroup]]) {
  threadgroup float block[factor_block_size * block_stride];

  constant factor_arguments& head = heads[group.y];
  const int first = first_column;
  if (first >= head.size || failed[head.failed_offset] >= 0) return;
  const int size = metal::min(factor_block_size, head.size - first);
  stage_block(matrix, head, first, block, int(index));
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  for (int j = 0; j < size; ++j) {
    const float pivot = block[j * block_stride + j] + head.ridge;
    if (!is_finite(pivot) || !(pivot > 0.0f)) {
      threadgroup_barrier(metal::mem_flags::mem_device);
      if (index == 0) failed[head.failed_offset] = first + j;
      return;
    }
    const float root = metal::precise::sqrt(pivot);
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    const int i = int(index);
    if (i == j) block[i * block_stride + j] = root;
    if (i > j && i < size) block[i * block_stride + j] /= root;
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    // Four threads a row of what is left.
    const int row = int(index) / 4;
    if (row > j && row < size) {
      const float factor = block[row * block_stride + j];
      for (int col = j + 1 + int(index) % 4; col <= row; col += 4) {
        const float other = block[col * block_stride + j];
        block[row * block_stride + col] =
            metal::fma(-factor, other, block[row * block_stride + col]);
      }
    }
    threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  }
  for (int k = int(index); k < factor_block_size * factor_block_size; k += group_threads) {
    const int row = k / factor_block_size;
    const int col = k % factor_block_size;
    if (row >= size || col > row) continue;
    matrix[head.matrix_offset + head.matrix_row_stride * long(first + row) + first + col] =
        block[row * block_stride + col];
  }
}

[[kernel]] void solve_panel(device float* matrix [[buffer(0)]],
                            device const int* failed [[buffer(2)]],
                            constant factor_arguments* heads [[buffer(3)]],
                            constant int& first_column [[buffer(4)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint index [[thread_index_in_threadgroup]]) {
  threadgroup float block[factor_block_size * block_stride];

  constant factor_arguments& head = heads[group.y];
  const int first = first_column;
  const int top = first + factor_block_size + int(group.x) * group_threads;
  if (top >= head.size || failed[head.failed_offset] >= 0) return;
  stage_block(matrix, head, first, block, int(index));
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const int row = top + int(index);
  if (row >= head.size) return;
  device float* const at = matrix + head.matrix_offset + head.matrix_row_stride * long(row) + first;
  float x[factor_block_size];
  KVFIT_UNROLL
  for (int j = 0; j < factor_block_size; ++j) {
    float rest = at[j];
    KVFIT_UNROLL
    for (int k = 0; k < j; ++k) rest = metal::fma(-x[k], block[j * block_stride + k], rest);
    x[j] = rest / block[j * block_stride + j];
  }
  KVFIT_UNROLL
  for (int j = 0; j < factor_block_size; ++j) at[j] = x[j];
}

template <template <int> class Sums>
[[kernel]] void update_trailing(device float* matrix [[buffer(0)]],
                                device const int* failed [[buffer(2)]],
                                constant factor_arguments* heads [[buffer(3)]],
                                constant int& first_column [[buffer(4)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint index [[thread_index_in_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]],
                                uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float left[query_tile * block_stride];
  threadgroup float right[key_tile * block_stride];

  constant factor_arguments& head = heads[group.z];
  const int first = first_column;
  const int begin = first + factor_block_size;
  const int top = begin + int(group.y) * query_tile;
  const int low = begin + int(group.x) * key_tile;
  if (top >= head.size || low > top + query_tile - 1 || failed[head.failed_offset] >= 0) return;
  const int rows = metal::min(query_tile, head.size - top);
  const int cols = metal::min(key_tile, head.size - low);
  const int k = int(index) % factor_block_size;
  for (int i = int(index) / factor_block_size; i < key_tile;
       i += group_threads / factor_block_size) {
    const long column = head.matrix_offset + first + k;
    if (i < query_tile) {
      left[i * block_stride + k] =
          i < rows ? matrix[column + head.matrix_row_stride * long(top + i)] : 0.0f;
    }
    right[i * block_stride + k] =
        i < cols ? matrix[column + head.matrix_row_stride * long(low + i)] : 0.0f;
  }
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const thread_place at = {int(index), int(lane), int(simd_index)};
  Sums<key_tile> products;
  products.start(at);
  products.template multiply_add<true>(left, block_stride, right, block_stride, factor_block_size, rows,
                              cols);
  for (int p = 0; p < products.count(); ++p) {
    const int row = top + products.row(p);
    const int col = low + products.col(p);
    if (row >= head.size || col > row) continue;
    matrix[head.matrix_offset + head.matrix_row_stride * long(row) + col] -= products.get(p);
  }
}

[[kernel]] void solve_lower_block(device const float* matrix [[buffer(0)]],
                                  device float* right [[buffer(1)]],
                                  device const int* failed [[buffer(2)]],
                                  constant factor_arguments* heads [[buffer(3)]],
                                  constant int& first_column [[buffer(4)]],
                                  uint3 group [[threadgroup_position_in_grid]],
                                  uint index [[thread_index_in_threadgroup]]) {
  threadgroup float block[factor_block_size * block_stride];

  constant factor_arguments& head = heads[group.y];
  const int first = first_column;
  if (first >= head.size || failed[head.failed_offset] >= 0) return;
  const int size = metal::min(factor_block_size, head.size - first);
  stage_block(matrix, head, first, block, int(index));
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const int col = int(group.x) * group_threads + int(index);
  if (col >= head.cols) return;
  device float* const at = right + head.right_offset + head.right_row_stride * long(first) + col;
  float x[factor_block_size];
  KVFIT_UNROLL
  for (int j = 0; j < factor_block_size; ++j) {
    x[j] = 0.0f;
    if (j >= size) continue;
    float rest = at[head.right_row_stride * j];
    KVFIT_UNROLL
    for (int k = 0; k < j; ++k) rest = metal::fma(-x[k], block[j * block_stride + k], rest);
    x[j] = rest / block[j * block_stride + j];
    at[head.right_row_stride * j] = x[j];
  }
}

[[kernel]] void solve_upper_block(device const float* matrix [[buffer(0)]],
                                  device float* right [[buffer(1)]],
                                  device const int* failed [[buffer(2)]],
                                  constant factor_arguments* heads [[buffer(3)]],
                                  constant int& first_column [[buffer(4)]],
                                  uint3 group [[threadgroup_position_in_grid]],
                                  uint index [[thread_index_in_threadgroup]]) {
  threadgroup float block[factor_block_size * block_stride];

  constant factor_arguments& head = heads[group.y];
  const int first = first_column;
  if (first >= head.size || failed[head.failed_offset] >= 0) return;
  const int size = metal::min(factor_block_size, head.size - first);
  stage_block(matrix, head, first, block, int(index));
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const int col = int(group.x) * group_threads + int(index);
  if (col >= head.cols) return;
  device float* const at = right + head.right_offset + head.right_row_stride * long(first) + col;
  float x[factor_block_size];
  KVFIT_UNROLL
  for (int back = 0; back < factor_block_size; ++back) {
    const int j = factor_block_size - 1 - back;
    x[j] = 0.0f;
    if (j >= size) continue;
    float rest = at[head.right_row_stride * j];
    KVFIT_UNROLL
    for (int k = j + 1; k < factor_block_size; ++k) {
      rest = metal::fma(-x[k], block[k * block_stride + j], rest);
    }
    x[j] = rest / block[j * block_stride + j];
    at[head.right_row_stride * j] = x[j];
  }
}

/// B's rows top … lose L's (or, `Above`, Lᵀ's) part in the block from `first` on times X.
template <bool Above, template <int> class Sums>
inline void update_right(device const float* matrix, device float* right,
                         constant factor_arguments& head, int first, int top, int bottom, int low,
                         threadgroup float* left_chunk, threadgroup float* right_chunk,
                         thread_place at) {
  constexpr int chunk_stride = key_tile + 4;
  const int size = metal::min(factor_block_size, head.size - first);
  const int rows = metal::min(query_tile, bottom - top);
  const int cols = metal::min(key_tile, head.cols - low);
  for (int n = at.index; n < query_tile * factor_block_size; n += group_threads) {
    // Neighbouring threads read along the rows of L.
    const int i = Above ? n % query_tile : n / factor_block_size;
    const int k = Above ? n / query_tile : n % factor_block_size;
    float x = 0.0f;
    if (i < rows && k < size) {
      const int row = Above ? first + k : top + i;
      const int col = Above ? top + i : first + k;
      x = matrix[head.matrix_offset + head.matrix_row_stride * long(row) + col];
    }
    left_chunk[i * block_stride + k] = x;
  }
  const int col = at.index % key_tile;
  for (int k = at.index / key_tile; k < factor_block_size; k += group_threads / key_tile) {
    float x = 0.0f;
    if (k < size && col < cols) {
      x = right[head.right_offset + head.right_row_stride * long(first + k) + low + col];
    }
    right_chunk[k * chunk_stride + col] = x;
  }
  threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  Sums<key_tile> products;
  products.start(at);
  products.template multiply_add<false>(left_chunk, block_stride, right_chunk, chunk_stride,
                               factor_block_size, rows, cols);
  for (int p = 0; p < products.count(); ++p) {
    if (products.row(p) >= rows || products.col(p) >= cols) continue;
    right[head.right_offset + head.right_row_stride * long(top + products.row(p)) + low +
          products.col(p)] -= products.get(p);
  }
}

template <template <int> class Sums>
[[kernel]] void update_below(device const float* matrix [[buffer(0)]],
                             device float* right [[buffer(1)]],
                             device const int* failed [[buffer(2)]],
                             constant factor_arguments* heads [[buffer(3)]],
                             constant int& first_column [[buffer(4)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint index [[thread_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float left_chunk[query_tile * block_stride];
  threadgroup float right_chunk[factor_block_size * (key_tile + 4)];

  constant factor_arguments& head = heads[group.z];
  const int first = first_column;
  const int top = first + factor_block_size + int(group.y) * query_tile;
  const int low = int(group.x) * key_tile;
  if (top >= head.size || low >= head.cols || failed[head.failed_offset] >= 0) return;
  const thread_place at = {int(index), int(lane), int(simd_index)};
  update_right<false, Sums>(matrix, right, head, first, top, head.size, low, left_chunk, right_chunk, at);
}

template <template <int> class Sums>
[[kernel]] void update_above(device const float* matrix [[buffer(0)]],
                             device float* right [[buffer(1)]],
                             device const int* failed [[buffer(2)]],
                             constant factor_arguments* heads [[buffer(3)]],
                             constant int& first_column [[buffer(4)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint index [[thread_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float left_chunk[query_tile * block_stride];
  threadgroup float right_chunk[factor_block_size * (key_tile + 4)];

  constant factor_arguments& head = heads[group.z];
  const int first = first_column;
  const int top = int(group.y) * query_tile;
  const int low = int(group.x) * key_tile;
  if (top >= first || first >= head.size || low >= head.cols || failed[head.failed_offset] >= 0) {
    return;
  }
  const thread_place at = {int(index), int(lane), int(simd_index)};
  update_right<true, Sums>(matrix, right, head, first, top, first, low, left_chunk, right_chunk, at);
}

KVFIT_FOR_ALL_TILES(update_trailing)
KVFIT_FOR_ALL_TILES(update_below)
KVFIT_FOR_ALL_TILES(update_above)
