// SPDX-License-Identifier: MIT
/// The state of attention over a set of keys, and the merge that joins two sets exactly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

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

/// Which log-sum-exp a kernel returns where a query sees no keys.
enum class empty_log_mass : std::uint8_t {
  negative_infinity,  ///< −∞ alone
  any_infinity,       ///< −∞ or +∞: some kernels say so
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Adds the keys of `from` to `into`: attention over a union is the mass-weighted mixture of
/// attention over its parts. Associative and commutative up to rounding. The empty state is
/// neutral bit for bit, and its output is never read: kernels leave it unwritten. Two empty states
/// give output 0. `output` sizes must agree. No allocation.
inline void merge(attention_state& into, const attention_state& from) noexcept {
  if (from.mass <= 0) {
    if (into.mass <= 0) std::fill(into.output.begin(), into.output.end(), 0.0F);
    return;
  }
  if (into.mass <= 0) {
    std::copy(from.output.begin(), from.output.end(), into.output.begin());
    into.max = from.max;
    into.mass = from.mass;
    return;
  }
  const float max = (std::max)(into.max, from.max);
  const float mass_into = into.mass * std::exp(into.max - max);
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

/// The state behind a kernel that returns its log-sum-exp (natural log) and output. Refers to
/// `output`. The output of an empty state is set to 0, whatever the kernel left there.
///
///     auto live = kvfit::state_from_log_mass(lse, output, kvfit::empty_log_mass::any_infinity);
///
/// `non_finite` "log_mass" for NaN, and for +∞ unless `empty` says that it means no keys;
/// `non_finite` "output" (column `expected`) for NaN or infinity in the output of a state that is
/// not empty. Reads d_v numbers. No allocation but for an error.
[[nodiscard]] inline result<attention_state> state_from_log_mass(
    float log_mass, std::span<float> output,
    empty_log_mass empty = empty_log_mass::negative_infinity) {
  if (std::isnan(log_mass)) {
    return error{errc::non_finite, "log_mass", error::none, error::none, "is NaN"};
  }
  if (std::isinf(log_mass)) {
    if (log_mass > 0 && empty == empty_log_mass::negative_infinity) {
      return error{errc::non_finite, "log_mass", error::none, error::none,
                   "is +infinity, which means no keys only as empty_log_mass::any_infinity"};
    }
    std::fill(output.begin(), output.end(), 0.0F);
    return attention_state{.output = output};
  }
  for (std::size_t k = 0; k < output.size(); ++k) {
    if (!std::isfinite(output[k])) {
      return error{errc::non_finite, "output", 0, static_cast<index_t>(k)};
    }
  }
  return attention_state{log_mass, 1.0F, output};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
