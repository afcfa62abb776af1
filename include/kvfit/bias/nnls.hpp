// SPDX-License-Identifier: MIT
/// Weights per key from attention mass, by bounded least squares (docs/algorithm.md, Weights).
#pragma once

#include <algorithm>

#include "kvfit/bias/mass_target.hpp"
#include "kvfit/bias/policies.hpp"
#include "kvfit/bias/problem.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/bounded_nnls.hpp"
#include "kvfit/linalg/gram.hpp"

namespace kvfit::bias {
inline namespace KVFIT_ISA {

/// The bounds must be 0 < lower ≤ upper and lower < 1e30.
inline result<void> check_settings(const bias::nnls& policy) {
  return kvfit::detail::check_bounds("nnls", policy.lower, policy.upper);
}

/// Cost n · t² for the Gram matrix plus a few t³/3; allocates t² doubles. An unfinished solve is a
/// status in the report, with the best weights found; errors are those of `check_settings`. A
/// repeated fit makes the part of the Gram matrix that changed, and starts from the last weights.
inline result<bias_fit> fit_bias(const bias::nnls& policy, const bias_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const matrix& columns = *problem.columns;
  const auto mass =
      kvfit::detail::mass_target_of(*problem.scores, columns.rows(), policy.weighting);
  const index_t t = columns.cols();
  repeated_bias_fit* const again = problem.again;
  linalg::normal_equations products;
  Eigen::VectorXd start;
  if (again != nullptr && static_cast<index_t>(again->gram.size()) == t * t) {
    linalg::update_gram(columns, mass.factors, again->changed, again->gram.data(), problem.threads);
    products = linalg::target_of(columns, mass.target, mass.factors, problem.threads);
    products.gram.resize(t, t);
    std::copy(again->gram.begin(), again->gram.end(), products.gram.data());
    start.resize(t);
    std::copy(again->weights.begin(), again->weights.end(), start.data());
  } else {
    products = linalg::form_normal_equations(columns, mass.target, mass.factors, problem.threads);
  }
  const linalg::bounded_fit fit = linalg::bounded_nnls(
      products, {.bounds = {policy.lower, policy.upper}}, start, problem.threads);
  if (again != nullptr) {
    again->gram.assign(products.gram.data(), products.gram.data() + t * t);
    again->weights.assign(fit.weights.data(), fit.weights.data() + t);
  }
  return bias_fit{.weights = {fit.weights.data(), fit.weights.data() + fit.weights.size()},
                  .floor = policy.lower < policy.upper ? policy.lower : 0,
                  .report = fit.report,
                  .is_fitted = true};
}

/// What `fit_bias` holds, its result included.
inline void declare(workspace& space, const bias::nnls&, const head_sizes& sizes) {
  const index_t t = sizes.budget;
  kvfit::detail::mass_target().declare(space, sizes.queries);
  space.count(double_bytes(3, t));
  {
    const workspace::phase forming(space);
    linalg::declare_normal_equations(space, sizes.queries, t);
  }
  space.count(double_bytes(t, t));
  linalg::declare_bounded_nnls(space, t);
}

static_assert(bias_policy<bias::nnls>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::bias
