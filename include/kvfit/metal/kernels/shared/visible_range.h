// SPDX-License-Identifier: MIT
/// Which keys any query of a tile can see, where positions are even: the others need not be read.
#pragma once

#include "logit_arguments.h"

namespace kvfit {
namespace kernels {

struct key_range {
  int begin;
  int end;
};

/// The keys that some of the queries first … first + count − 1 may see: all of them where positions
/// are tables, or nothing hides by position.
KVFIT_SHARED key_range visible_range(int64_t first_query_position, int64_t query_position_step,
                                     int64_t first_key_position, int64_t window, int block_rows,
                                     int keys, uint32_t flags, int first, int count) {
  key_range range = {0, keys};
  if ((flags & (logit_key_positions | logit_query_positions | logit_rows)) != 0) return range;
  const int row = first % block_rows;
  const bool crosses = row + count > block_rows;
  const int64_t a = first_query_position + query_position_step * (crosses ? 0 : row);
  const int64_t b =
      first_query_position + query_position_step * ((crosses ? block_rows : row + count) - 1);
  const int64_t earliest = a < b ? a : b;
  const int64_t latest = a < b ? b : a;
  if ((flags & logit_causal) != 0) {
    const int64_t end = latest - first_key_position + 1;
    range.end = end < 0 ? 0 : end < keys ? static_cast<int>(end) : keys;
  }
  if (window > 0 && earliest - first_key_position >= window) {
    const int64_t begin = earliest - first_key_position - window + 1;
    range.begin = begin < range.end ? static_cast<int>(begin) : range.end;
  }
  return range;
}

}  // namespace kernels
}  // namespace kvfit
