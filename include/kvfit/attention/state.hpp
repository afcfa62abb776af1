// SPDX-License-Identifier: MIT
/// The state of attention over a set of keys, and the merge that joins two sets exactly.
#pragma once

#include <cmath>
#include <limits>
#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// What one query knows of the keys it has seen: with logits s_j,
///
///     max = max_j s_j,   mass = Σ_j exp(s_j − max),   output = Σ_j exp(s_j − max) v_j / mass.
///
/// No keys, or hidden keys alone: max = −∞, mass = 0, output = 0. Natural log throughout.
struct attention_state {
  float max = -std::numeric_limits<float>::infinity();
  float mass = 0;
  std::span<float> output;  ///< d_v numbers, owned by the caller

  /// ln Σ_j exp(s_j); −∞ for no keys.
  [[nodiscard]] float log_mass() const noexcept { return max + std::log(mass); }
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// Adds the keys of `from` to `into`: attention over a union is the mass-weighted mixture of
/// attention over its parts. Associative and commutative up to rounding; the empty state is
/// neutral. `output` sizes must agree. No allocation.
inline void merge(attention_state& into, const attention_state& from) noexcept {
  if (from.mass <= 0) return;  // also keeps −∞ − −∞ from making a NaN below
  const float max = into.mass > 0 && into.max > from.max ? into.max : from.max;
  const float mass_into = into.mass > 0 ? into.mass * std::exp(into.max - max) : 0.0F;
  const float mass_from = from.mass * std::exp(from.max - max);
  const float mass = mass_into + mass_from;
  const float weight_into = mass_into / mass;
  const float weight_from = mass_from / mass;
  for (std::size_t k = 0; k < into.output.size(); ++k) {
    into.output[k] = weight_into * into.output[k] + weight_from * from.output[k];
  }
  into.max = max;
  into.mass = mass;
}

/// The state behind a kernel that returns only its log-sum-exp and output.
inline attention_state state_from_log_mass(float log_mass, std::span<float> output) noexcept {
  const bool empty = log_mass == -std::numeric_limits<float>::infinity();
  return {log_mass, empty ? 0.0F : 1.0F, output};
}

}  // namespace kvfit::inline KVFIT_ISA
