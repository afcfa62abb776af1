// SPDX-License-Identifier: MIT
/// Weights per key from attention mass, by bounded least squares (docs/algorithm.md, Weights).
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/bias/problem.hpp"
#include "kvfit/bias/weighting.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/linalg/bounded_nnls.hpp"
#include "kvfit/linalg/gradient_start.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/projected_gradient.hpp"

namespace kvfit {

enum class nnls_solver : std::uint8_t {
  exact,               ///< to the KKT conditions, by pivoting; the optimum
  projected_gradient,  ///< as published: clipped least squares, then plain steps
};

}  // namespace kvfit

namespace kvfit::bias {

/// min_w ½ Σ_i (f_i (Σ_j Φ_ij w_j − y_i))² subject to lower ≤ w_j ≤ upper; f by `mass_weighting`.
struct nnls {
  nnls_solver solver = nnls_solver::exact;
  mass_weighting weighting = mass_weighting::relative;
  double lower = 0.36787944117144233;  ///< e⁻¹; > 0, so that ln w is finite
  double upper = std::numeric_limits<double>::infinity();
  int iterations = 2;  ///< of `projected_gradient`; `exact` stops on the KKT residual
};

}  // namespace kvfit::bias

namespace kvfit::bias::inline KVFIT_ISA {

/// The bounds must be 0 < lower ≤ upper and lower < 1e30, the iterations not negative.
template <class = void>
inline result<void> check_settings(const bias::nnls& policy) {
  if (!(policy.lower > 0 && policy.lower < 1e30)) {
    return kvfit::detail::refuse_number("nnls.lower", policy.lower,
                                        "must be above 0 and below 1e30");
  }
  if (!(policy.upper >= policy.lower)) {
    return kvfit::detail::refuse_number(
        "nnls.upper", policy.upper,
        "must be at least lower, " + kvfit::detail::number_text(policy.lower));
  }
  if (policy.iterations < 0) {
    return error{errc::invalid_option, "nnls.iterations", policy.iterations, 0,
                 "must not be negative"};
  }
  return {};
}

/// Cost n · t² for the Gram matrix (`projected_gradient`: or 3 n · t² where that one needs a QR
/// factor) plus a few t³/3; allocates t² doubles (`projected_gradient`: as many floats besides, or
/// a second copy of the columns for the QR factor). An unfinished solve is a status in the report,
/// with the best weights found; errors are those of `check_settings`.
template <class = void>
inline result<bias_fit> fit_bias(const bias::nnls& policy, const bias_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const matrix& columns = *problem.columns;
  const index_t n = columns.rows();
  vector target(n);  // of the equation before row weights
  std::vector<double> factors(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) {
    const mass_row row = weighted_mass_row(*problem.scores, i, policy.weighting);
    factors[static_cast<std::size_t>(i)] = static_cast<double>(row.factor);
    target[i] = row.factor > 0 ? row.target / row.factor : 0.0F;
  }
  const linalg::box bounds{policy.lower, policy.upper};
  bias_fit out{.weights = {},
               .floor = policy.lower < policy.upper ? policy.lower : 0,
               .report = {},
               .is_fitted = true};
  linalg::bounded_fit fit;
  if (policy.solver == nnls_solver::projected_gradient) {
    matrix scaled;  // absolute weighting takes the columns as they are, without a copy
    if (policy.weighting == mass_weighting::relative) {
      scaled = columns;
      for (index_t i = 0; i < n; ++i) {
        const auto factor = static_cast<float>(factors[static_cast<std::size_t>(i)]);
        scaled.row(i) *= factor;
        target[i] *= factor;
      }
    }
    const matrix& weighted = policy.weighting == mass_weighting::relative ? scaled : columns;
    // The published code stops power iteration after three rounds from a random start, so its step
    // length is not reproducible; the converged one is, and no step of it is too long.
    const linalg::gradient_start start =
        linalg::find_gradient_start(weighted, target, problem.threads);
    fit = linalg::projected_gradient(
        weighted, target, start.weights,
        {.bounds = bounds, .iterations = policy.iterations, .power = {}, .sigma = start.sigma});
  } else {
    fit = linalg::bounded_nnls(
        linalg::form_normal_equations(columns, target, factors, problem.threads),
        {.bounds = bounds}, Eigen::VectorXd(), problem.threads);
  }
  out.weights = std::move(fit.weights);
  out.report = fit.report;
  return out;
}

/// Bytes that `fit_bias` holds at most, its result included.
template <class = void>
inline double fit_bias_bytes(const bias::nnls& policy, const head_sizes& sizes) {
  const index_t n = sizes.queries;
  const index_t t = sizes.budget;
  const double rows = float_bytes(n) + double_bytes(n) + double_bytes(2, t);
  if (policy.solver == nnls_solver::projected_gradient) {
    const double scaled = policy.weighting == mass_weighting::relative ? float_bytes(n, t) : 0;
    return rows + scaled + std::max(linalg::gradient_start_bytes(n, t), double_bytes(16, t));
  }
  return rows + double_bytes(t, t) +
         std::max(linalg::normal_equations_bytes(n, t) - double_bytes(t, t),
                  linalg::bounded_nnls_bytes(t));
}

static_assert(bias_policy<bias::nnls>);

}  // namespace kvfit::bias::inline KVFIT_ISA
