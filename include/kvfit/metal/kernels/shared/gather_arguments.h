// SPDX-License-Identifier: MIT
/// Arguments of the kernel that writes columns of the mass equation.
#pragma once

#include "logit_arguments.h"

namespace kvfit {
namespace kernels {

/// `gather`: the grid is (tiles of queries, tiles of listed keys, heads). The list is that of
/// `logit_rows`; without it every key is written.
struct gather_arguments {
  logit_arguments logits;
  int64_t query_offset;  ///< of shift and factor of query 0
  int64_t column_offset;
  int64_t column_stride;  ///< column k's number of query r at + k · column_stride + r
};
static_assert(sizeof(gather_arguments) == 216, "host and shader must agree");
KVFIT_CONSTANT int gather_buffer_shifts = 9;
KVFIT_CONSTANT int gather_buffer_factors = 10;
KVFIT_CONSTANT int gather_buffer_columns = 11;

}  // namespace kernels
}  // namespace kvfit
