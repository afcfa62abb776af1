// SPDX-License-Identifier: MIT
/// The rows of the weighted mass equation.
#pragma once

#include <limits>

#include "kvfit/attention/mass_weighting.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Shift, factor and target of one row of the weighted mass equation
/// Σ_j factor · exp(s_ij − shift) w_j = target. A query that sees nothing asks for nothing: factor
/// 0.
struct mass_row {
  float shift = 0;
  float factor = 0;
  float target = 0;
};

/// The mass equation's row for query i: shift m_i; factor 1/y_i and target 1, or factor 1 and
/// target y_i.
inline mass_row weighted_mass_row(const attention_scores& scores, index_t i,
                                  mass_weighting weighting) {
  if (scores.max[i] == -std::numeric_limits<float>::infinity()) return {};
  const float mass = scores.mass[i];  // not exp(log_mass − max), which loses digits at large max
  if (weighting == mass_weighting::absolute) return {scores.max[i], 1.0F, mass};
  return {scores.max[i], 1.0F / mass, 1.0F};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
