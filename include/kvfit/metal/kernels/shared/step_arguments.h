// SPDX-License-Identifier: MIT
/// Arguments of bounded least squares by projected gradient steps.
#pragma once

#include "language.h"

namespace kvfit {
namespace kernels {

/// Bits of `step_arguments::flags`.
KVFIT_CONSTANT uint32_t step_rows = 1;      ///< column k is that of rows[k]
KVFIT_CONSTANT uint32_t step_target = 2;    ///< y, else 0
KVFIT_CONSTANT uint32_t step_negative = 4;  ///< `residual` writes y − M w in place of M w − y

/// w ← clip(w − η Mᵀ(M w − y)) for columns of M that lie a column a row. `residual`: r = M w − y
/// and the sums of its squares over `group_threads` queries; the grid is (tiles of `group_threads`
/// queries, heads). `projected_step`: w of `keys_per_group` keys; the grid is (tiles of them,
/// heads). `power_step`: one threadgroup a head: from u and z = MᵀM u, σ² = uᵀz, u = z / ‖z‖ (where
/// z is not 0) and η = 1 / max(σ², 1e-6).
struct step_arguments {
  int64_t column_offset;
  int64_t column_stride;  ///< column k's number of query i at + k · column_stride + i
  int64_t rows_offset;
  int64_t weight_offset;  ///< of w and of u and z
  int64_t query_offset;   ///< of y and r
  int64_t part_offset;    ///< of the sums of squares, one a threadgroup
  int64_t step_offset;    ///< of σ² and η, one each a head
  int32_t keys;           ///< t
  int32_t queries;        ///< n
  float lower;
  float upper;
  uint32_t flags;
  int32_t unused;
};
static_assert(sizeof(step_arguments) == 80, "host and shader must agree");
KVFIT_CONSTANT int step_buffer_columns = 0;
KVFIT_CONSTANT int step_buffer_rows = 1;
KVFIT_CONSTANT int step_buffer_weights = 2;
KVFIT_CONSTANT int step_buffer_target = 3;
KVFIT_CONSTANT int step_buffer_residual = 4;
KVFIT_CONSTANT int step_buffer_squares = 5;
KVFIT_CONSTANT int step_buffer_steps = 6;
KVFIT_CONSTANT int step_buffer_arguments = 7;
KVFIT_CONSTANT int step_buffer_images = 8;  ///< z of `power_step`
KVFIT_CONSTANT int step_buffer_squared_sigmas = 9;

}  // namespace kernels
}  // namespace kvfit
