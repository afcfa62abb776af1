// SPDX-License-Identifier: MIT
// Inner products of columns that lie a column a row, as `gather` writes them:
//
//     gram: C = A D² Aᵀ,   moments: C = A D² B  or  C − A D² B
//
// Sums run over 128 terms in fp32 and go on in pairs of fp32, so that entries are good to some
// 1e-6 √(c_ii c_jj) whatever the length. One threadgroup makes `query_tile` × `key_tile` numbers: A
// is read once for each tile of columns, B once for each tile of rows.

#include <metal_stdlib>

using namespace metal;

#include "instantiate.h"
#include "product_tiles.h"
#include "shared/product_arguments.h"

using namespace kvfit::kernels;

static_assert(sum_tile * right_stride <= key_tile * sum_stride, "one buffer holds B either way");

template <template <int> class Sums>
[[kernel]] void gram(device const float* left [[buffer(0)]],
                     device const float* factors [[buffer(2)]], device float* out [[buffer(3)]],
                     constant product_arguments* heads [[buffer(4)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint index [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float left_chunk[query_tile * sum_stride];
  threadgroup float right_chunk[key_tile * sum_stride];

  constant product_arguments& head = heads[group.z];
  const int first_row = int(group.y) * query_tile;
  const int first_col = int(group.x) * key_tile;
  if (first_row >= head.rows || first_col >= head.rows) return;
  if (first_col > first_row + query_tile - 1) return;  // above the diagonal: mirrored
  const thread_place at = {int(index), int(lane), int(simd_index)};
  product_tile<Sums> tile;
  tile.template make<true>(head, left, left, factors, left_chunk, right_chunk, at, first_row, first_col);
  for (int k = 0; k < tile.count(); ++k) {
    const int row = first_row + tile.row(k);
    const int col = first_col + tile.col(k);
    if (row >= head.rows || col > row) continue;
    const float x = tile.get(k);
    out[head.out_offset + head.out_row_stride * long(row) + col] = x;
    if (col < row) out[head.out_offset + head.out_row_stride * long(col) + row] = x;
  }
}

template <template <int> class Sums>
[[kernel]] void moments(device const float* left [[buffer(0)]],
                        device const float* right [[buffer(1)]],
                        device const float* factors [[buffer(2)]], device float* out [[buffer(3)]],
                        constant product_arguments* heads [[buffer(4)]],
                        uint3 group [[threadgroup_position_in_grid]],
                        uint index [[thread_index_in_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]],
                        uint simd_index [[simdgroup_index_in_threadgroup]]) {
  threadgroup float left_chunk[query_tile * sum_stride];
  threadgroup float right_chunk[key_tile * sum_stride];

  constant product_arguments& head = heads[group.z];
  const int first_row = int(group.y) * query_tile;
  const int first_col = int(group.x) * key_tile;
  if (first_row >= head.rows || first_col >= head.cols) return;
  const thread_place at = {int(index), int(lane), int(simd_index)};
  product_tile<Sums> tile;
  tile.template make<false>(head, left, right, factors, left_chunk, right_chunk, at, first_row, first_col);
  for (int k = 0; k < tile.count(); ++k) {
    const int row = first_row + tile.row(k);
    const int col = first_col + tile.col(k);
    if (row >= head.rows || col >= head.cols) continue;
    device float& to = out[head.out_offset + head.out_row_stride * long(row) + col];
    to = (head.flags & product_subtract) != 0 ? to - tile.get(k) : tile.get(k);
  }
}

KVFIT_FOR_ALL_TILES(gram)
KVFIT_FOR_ALL_TILES(moments)
