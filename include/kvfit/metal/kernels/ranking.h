// SPDX-License-Identifier: MIT
/// The best of many scores, best first; ties go to the lower row.
#pragma once

#include <metal_stdlib>

#include "numbers.h"
#include "shared/pursuit_arguments.h"
#include "shared/tile_sizes.h"

namespace kvfit {
namespace kernels {

inline ranked_key no_key() {
  ranked_key none;
  none.score = minus_infinity();
  none.row = -1;
  return none;
}

/// Whether a goes before b; no key goes last. Neither score is NaN.
inline bool is_better(ranked_key a, ranked_key b) {
  if (b.row < 0) return a.row >= 0;
  if (a.row < 0) return false;
  return a.score != b.score ? a.score > b.score : a.row < b.row;
}

/// The best of a simdgroup, in every lane.
inline ranked_key best_of_simdgroup(ranked_key mine) {
  for (int step = 1; step < 32; step *= 2) {
    ranked_key other;
    other.score = metal::simd_shuffle_xor(mine.score, ushort(step));
    other.row = metal::simd_shuffle_xor(mine.row, ushort(step));
    if (is_better(other, mine)) mine = other;
  }
  return mine;
}

}  // namespace kernels
}  // namespace kvfit
