// SPDX-License-Identifier: MIT
/// Which mass errors count how much.
#pragma once

#include <cstdint>

namespace kvfit {

/// How the rows of the mass equation Σ_j Φ_ij w_j = y_i are weighted, Φ_ij = exp(s_ij − m_i).
enum class mass_weighting : std::uint8_t {
  relative,  ///< row i divided by y_i: every query's *relative* mass error counts alike
  absolute,  ///< as published: diffuse queries, whose y_i is large, dominate
};

}  // namespace kvfit
