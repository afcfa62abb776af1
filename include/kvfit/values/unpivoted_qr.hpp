// SPDX-License-Identifier: MIT
/// Values from attention output, by least squares as published.
#pragma once

#include <cmath>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/published_least_squares.hpp"
#include "kvfit/values/policies.hpp"
#include "kvfit/values/problem.hpp"

namespace kvfit::values {
inline namespace KVFIT_ISA {

/// The ridge must be finite and not negative.
inline result<void> check_settings(const values::unpivoted_qr& policy) {
  if (policy.ridge >= 0 && std::isfinite(policy.ridge)) return {};
  return kvfit::detail::refuse_number("unpivoted_qr.ridge", policy.ridge,
                                      "must be finite and not negative");
}

/// Cost and memory as `linalg::published_least_squares`.
inline result<values_fit> fit_values(const values::unpivoted_qr& policy,
                                     const values_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  linalg::least_squares_fit fit = linalg::published_least_squares(
      *problem.weights, *problem.output, {.mode = policy.ridge_scaling, .ridge = policy.ridge},
      problem.threads);
  return values_fit{std::move(fit.coefficients), fit.report, true};
}

/// What `fit_values` holds, its result included.
inline void declare(workspace& space, const values::unpivoted_qr& policy, const head_sizes& sizes) {
  linalg::declare_published_least_squares(space, sizes.queries, sizes.budget, sizes.width,
                                          policy.ridge_scaling != linalg::ridge_mode::none);
}

static_assert(values_policy<values::unpivoted_qr>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::values
