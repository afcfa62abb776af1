// SPDX-License-Identifier: MIT
/// Sizes of the tiles that kernels work on, and of the threadgroups that do.
#pragma once

#include "language.h"

namespace kvfit {
namespace kernels {

KVFIT_CONSTANT int query_tile = 32;      ///< queries of one threadgroup
KVFIT_CONSTANT int key_tile = 64;        ///< keys taken together
KVFIT_CONSTANT int value_tile = 128;     ///< columns of values of one threadgroup
KVFIT_CONSTANT int group_threads = 128;  ///< threads of a threadgroup: four simdgroups

/// Tiles of `size` that cover `count`.
KVFIT_SHARED int tiles_of(int count, int size) {
  return count / size + (count % size != 0 ? 1 : 0);
}

}  // namespace kernels
}  // namespace kvfit
