// SPDX-License-Identifier: MIT
/// Arguments of the blocked Cholesky factor and of its triangular solves.
#pragma once

#include "language.h"

namespace kvfit {
namespace kernels {

KVFIT_CONSTANT int factor_block_size = 32;

/// A + ridge I = L Lᵀ in place of A's lower triangle (the upper one is not touched), and
/// L X = B or Lᵀ X = B in place of B. Steps of one block of `factor_block_size` columns, whose
/// first is a number of its own (`factor_buffer_first`), are dispatched one after the other:
///
///     factor      for first = 0, 32, …: factor_block (1, heads), then
///                 solve_panel (tiles of `group_threads` rows below, heads) and
///                 update_trailing (tiles of `key_tile`, tiles of `query_tile` rows below, heads)
///     L X = B     for first = 0, 32, …: solve_lower_block (tiles of `group_threads` columns,
///     heads),
///                 then update_below (tiles of `key_tile` columns, of `query_tile` rows below,
///                 heads)
///     Lᵀ X = B    for first = …, 32, 0: solve_upper_block, then update_above (…, of `query_tile`
///                 rows above, heads)
///
/// A pivot that is not above 0, or not finite, is a failure: its column is written to `failed`,
/// which the host sets to −1 before, and whatever comes after does nothing.
struct factor_arguments {
  int64_t matrix_offset;
  int64_t matrix_row_stride;
  int64_t right_offset;
  int64_t right_row_stride;
  int64_t failed_offset;
  int32_t size;  ///< t
  int32_t cols;  ///< of B
  float ridge;   ///< ≥ 0
  int32_t unused;
};
static_assert(sizeof(factor_arguments) == 56, "host and shader must agree");
KVFIT_CONSTANT int factor_buffer_matrix = 0;
KVFIT_CONSTANT int factor_buffer_right = 1;
KVFIT_CONSTANT int factor_buffer_failed = 2;
KVFIT_CONSTANT int factor_buffer_arguments = 3;
KVFIT_CONSTANT int factor_buffer_first = 4;

}  // namespace kernels
}  // namespace kvfit
