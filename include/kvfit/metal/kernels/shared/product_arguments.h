// SPDX-License-Identifier: MIT
/// Arguments of the kernels that multiply matrices.
#pragma once

#include "language.h"

namespace kvfit {
namespace kernels {

/// Bits of `product_arguments::flags`.
KVFIT_CONSTANT uint32_t product_scaled = 1;  ///< one fp32 factor per row of the sums: of both sides
KVFIT_CONSTANT uint32_t product_subtract = 2;  ///< C −= A B, else C = A B

/// `gram`: C = A D² Aᵀ, both triangles; the grid is (tiles of `key_tile` columns, tiles of
/// `query_tile` rows, heads). `moments`: C = A D² B, the same grid. A's rows lie along the sums:
/// A is `rows` × `depth`, B `depth` × `cols`, C `rows` × `cols`, D = diag(factors); all by rows.
struct product_arguments {
  int64_t left_offset;
  int64_t left_row_stride;
  int64_t right_offset;
  int64_t right_row_stride;
  int64_t factor_offset;
  int64_t out_offset;
  int64_t out_row_stride;
  int32_t rows;
  int32_t cols;  ///< of C; not of `gram`
  int32_t depth;
  uint32_t flags;
};
static_assert(sizeof(product_arguments) == 72, "host and shader must agree");
KVFIT_CONSTANT int product_buffer_left = 0;
KVFIT_CONSTANT int product_buffer_right = 1;
KVFIT_CONSTANT int product_buffer_factors = 2;
KVFIT_CONSTANT int product_buffer_out = 3;
KVFIT_CONSTANT int product_buffer_arguments = 4;

}  // namespace kernels
}  // namespace kvfit
