// SPDX-License-Identifier: MIT
/// Ways to give kept keys a bias. Plain settings; the code of each stands in a header of its own.
#pragma once

#include <limits>

#include "kvfit/attention/mass_weighting.hpp"

namespace kvfit::bias {

/// min_w ½ Σ_i (f_i (Σ_j Φ_ij w_j − y_i))² subject to lower ≤ w_j ≤ upper; f by `mass_weighting`.
/// Solved to the KKT conditions, by pivoting (bias/nnls.hpp).
struct nnls {
  mass_weighting weighting = mass_weighting::relative;
  double lower = 0.36787944117144233;  ///< e⁻¹; > 0, so that ln w is finite
  double upper = std::numeric_limits<double>::infinity();
};

/// The same problem as the published code leaves it: clipped least squares, then a few projected
/// gradient steps (bias/projected_gradient.hpp).
struct projected_gradient {
  mass_weighting weighting = mass_weighting::absolute;
  double lower = 0.049787068367863944;  ///< e⁻³; > 0
  double upper = 20.085536923187668;    ///< e³
  int iterations = 2;                   ///< ≥ 0
};

/// w = 1: the kept rows keep their own bias. For kernels that take no bias per key (bias/zero.hpp).
struct zero {};

/// The weights that the selection fitted on its way, as the published OMP does. A selection that
/// fits none is an error (`invalid_option`; bias/zero.hpp).
struct from_selection {};

}  // namespace kvfit::bias
