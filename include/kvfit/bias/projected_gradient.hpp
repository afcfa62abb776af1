// SPDX-License-Identifier: MIT
/// Weights per key from attention mass, by projected gradient steps, as published.
#pragma once

#include <algorithm>

#include "kvfit/bias/mass_target.hpp"
#include "kvfit/bias/policies.hpp"
#include "kvfit/bias/problem.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/gradient_start.hpp"
#include "kvfit/linalg/projected_gradient.hpp"

namespace kvfit::bias {
inline namespace KVFIT_ISA {

/// The bounds must be 0 < lower ≤ upper and lower < 1e30, the iterations not negative.
inline result<void> check_settings(const bias::projected_gradient& policy) {
  const auto ok = kvfit::detail::check_bounds("projected_gradient", policy.lower, policy.upper);
  if (!ok) return ok;
  if (policy.iterations < 0) {
    return error{errc::invalid_option, "projected_gradient.iterations", policy.iterations, 0,
                 "must not be negative"};
  }
  return {};
}

/// Cost n · t² for the Gram matrix, or 3 n · t² where the start needs a QR factor; allocates t²
/// doubles and as many floats, or a second copy of the columns for the QR factor. Errors are those
/// of `check_settings`.
inline result<bias_fit> fit_bias(const bias::projected_gradient& policy,
                                 const bias_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const matrix& columns = *problem.columns;
  const index_t n = columns.rows();
  auto mass = kvfit::detail::mass_target_of(*problem.scores, n, policy.weighting);
  matrix scaled;  // absolute weighting takes the columns as they are, without a copy
  if (policy.weighting == mass_weighting::relative) {
    scaled = columns;
    for (index_t i = 0; i < n; ++i) {
      const auto factor = static_cast<float>(mass.factors[static_cast<std::size_t>(i)]);
      float* const row = scaled.data() + i * scaled.cols();
      for (index_t j = 0; j < scaled.cols(); ++j) row[j] *= factor;
      mass.target[i] *= factor;
    }
  }
  const matrix& weighted = policy.weighting == mass_weighting::relative ? scaled : columns;
  // The published code stops power iteration after three rounds from a random start, so its step
  // length is not reproducible; the converged one is, and no step of it is too long.
  const linalg::gradient_start start =
      linalg::find_gradient_start(weighted, mass.target, problem.threads);
  const linalg::bounded_fit fit =
      linalg::projected_gradient(weighted, mass.target, start.weights,
                                 {.bounds = {policy.lower, policy.upper},
                                  .iterations = policy.iterations,
                                  .power = {},
                                  .sigma = start.sigma});
  return bias_fit{.weights = {fit.weights.data(), fit.weights.data() + fit.weights.size()},
                  .floor = policy.lower < policy.upper ? policy.lower : 0,
                  .report = fit.report,
                  .is_fitted = true};
}

/// What `fit_bias` holds, its result included.
inline void declare(workspace& space, const bias::projected_gradient& policy,
                    const head_sizes& sizes) {
  const index_t n = sizes.queries;
  const index_t t = sizes.budget;
  kvfit::detail::mass_target().declare(space, n);
  space.count(double_bytes(3, t));
  if (policy.weighting == mass_weighting::relative) space.count(float_bytes(n, t));
  {
    const workspace::phase starting(space);
    linalg::declare_gradient_start(space, n, t);
  }
  space.count(double_bytes(16, t));  // steps
}

static_assert(bias_policy<bias::projected_gradient>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::bias
