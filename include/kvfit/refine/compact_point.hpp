// SPDX-License-Identifier: MIT
/// The numbers of a compact cache that a gradient method moves.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// A compact cache's numbers, t rows each.
struct compact_point {
  matrix keys;    ///< C1: t × d_k
  vector bias;    ///< β: t
  matrix values;  ///< C2: t × d_v; for `log_mass` left alone, and may be empty
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
