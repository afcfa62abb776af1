// SPDX-License-Identifier: MIT
/// Values as they were: eviction, and the baseline of every fit.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/values/policies.hpp"
#include "kvfit/values/problem.hpp"

namespace kvfit::values {
inline namespace KVFIT_ISA {

inline result<values_fit> fit_values(const values::copy&, const values_problem& problem) {
  return values_fit{.values = *problem.original};
}

/// What `fit_values` holds: its result.
inline void declare(workspace& space, const values::copy&, const head_sizes& sizes) {
  space.count(float_bytes(sizes.budget, sizes.width));
}

constexpr bool fits_values(const values::copy&) {
  return false;
}

static_assert(values_policy<values::copy>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::values
