// SPDX-License-Identifier: MIT
/// Values from attention output, by least squares (docs/algorithm.md, Values).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/cross_validated_ridge.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/values/policies.hpp"
#include "kvfit/values/problem.hpp"

namespace kvfit::values {
inline namespace KVFIT_ISA {

/// The ridge must be finite and not negative, nor must the reweightings be.
inline result<void> check_settings(const values::least_squares& policy) {
  if (policy.reweightings < 0) {
    return error{errc::invalid_option, "least_squares.reweightings", policy.reweightings, 0,
                 "must not be negative"};
  }
  if (!(policy.cross_validate_below >= 0)) {
    return kvfit::detail::refuse_number("least_squares.cross_validate_below",
                                        policy.cross_validate_below, "must not be negative");
  }
  if (policy.ridge >= 0 && std::isfinite(policy.ridge)) return {};
  return kvfit::detail::refuse_number("least_squares.ridge", policy.ridge,
                                      "must be finite and not negative");
}

/// Row i of `x` times `factors[i]`.
inline matrix scaled_rows(const matrix& x, const vector& factors) {
  matrix out(x.rows(), x.cols());
  for (index_t i = 0; i < x.rows(); ++i) {
    const float factor = factors[i];
    const float* const from = x.data() + i * x.cols();
    float* const to = out.data() + i * x.cols();
    for (index_t j = 0; j < x.cols(); ++j) to[j] = factor * from[j];
  }
  return out;
}

/// y ← y − x c. Cost n · t · d.
inline void subtract_product(matrix& y, const matrix& x, const matrix& c) {
  constexpr index_t depth = 128;  // as many rows of c stay near
  for (index_t k = 0; k < x.cols(); k += depth) {
    simd::multiply({x.data() + k, x.cols(), 1}, {c.data() + k * c.cols(), c.cols()},
                   {y.data(), y.cols()}, y.rows(), y.cols(), (std::min)(depth, x.cols() - k),
                   simd::product_mode::subtract);
  }
}

/// Row factors that tend from the least mean square to the least mean of the errors of the fit
/// before; false, with `factors` as they are, where that one's errors are noise.
inline bool reweight(const vector& given, const matrix& y, const matrix& missing, vector& factors) {
  const index_t n = y.rows();
  const index_t d = y.cols();
  const auto length = [d](const matrix& rows, index_t i) {
    return std::sqrt(simd::dot(rows.data() + i * d, rows.data() + i * d, d));
  };
  std::vector<double> errors(static_cast<std::size_t>(n));
  double sum = 0;
  double outputs = 0;
  for (index_t i = 0; i < n; ++i) {
    const double weight = static_cast<double>(given[i]);
    errors[static_cast<std::size_t>(i)] = weight * length(missing, i);
    sum += errors[static_cast<std::size_t>(i)];
    outputs += weight * length(y, i);
  }
  // Below the noise of fp32 errors say nothing; and a row that fits well must not rule all others.
  if (!(sum > 1e-5 * outputs)) return false;
  const double floor = 0.1 * sum / static_cast<double>(n);
  double squares = 0;
  double given_squares = 0;
  for (index_t i = 0; i < n; ++i) {
    double& error = errors[static_cast<std::size_t>(i)];
    const double weight = static_cast<double>(given[i]);
    error = weight / std::sqrt((std::max)(error, floor));  // the new factor
    squares += error * error;
    given_squares += weight * weight;
  }
  // So that a ridge stays what it was beside the rows.
  const double unit = std::sqrt(given_squares / squares);
  for (index_t i = 0; i < n; ++i) {
    factors[i] = static_cast<float>(unit * errors[static_cast<std::size_t>(i)]);
  }
  return true;
}

/// Whether a ridge is sought for n queries and t keys.
inline bool cross_validates(const values::least_squares& policy, index_t n, index_t t) noexcept {
  const double many = policy.cross_validate_below * static_cast<double>(t);
  return policy.ridge_scaling == linalg::ridge_mode::none && static_cast<double>(n) < many &&
         (std::min)(n, t) <= cross_validated_at_most;
}

/// Rank loss is regularised and reported, never an error; the report's λ is the one used. Cost and
/// memory as `linalg::least_squares`, with a copy of X and Y for relative weighting, and those of
/// `linalg::cross_validated_ridge` where queries are few.
inline result<values_fit> fit_values(const values::least_squares& policy,
                                     const values_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  linalg::least_squares_options options{
      .method = policy.method, .mode = policy.ridge_scaling, .ridge = policy.ridge};
  const matrix& x = *problem.weights;
  const matrix& y = *problem.output;
  const auto solve = [&](const linalg::least_squares_options& how, const matrix& left,
                         const matrix& right) {
    return policy.toward_original
               ? linalg::least_squares(left, right, how, *problem.original, problem.threads)
               : linalg::least_squares(left, right, how, problem.threads);
  };
  const bool is_relative = policy.weighting == output_weighting::relative;
  vector factors;
  if (is_relative) {
    factors = output_weights(y, output_weighting::relative);
  } else {
    factors.resize(y.rows());
    std::fill_n(factors.data(), y.rows(), 1.0F);
  }
  if (cross_validates(policy, x.rows(), x.cols())) {
    const matrix left = scaled_rows(x, factors);
    matrix right = scaled_rows(y, factors);
    if (policy.toward_original) subtract_product(right, left, *problem.original);
    options.mode = linalg::ridge_mode::fixed;
    options.ridge = linalg::cross_validated_ridge(left, right, problem.threads);
  }
  if (policy.reweightings > 0) {
    const vector given = factors;
    linalg::least_squares_options quick = options;  // its errors alone are used
    quick.method = linalg::least_squares_method::cholesky;
    for (int k = 0; k < policy.reweightings; ++k) {
      const matrix trial =
          solve(quick, scaled_rows(x, factors), scaled_rows(y, factors)).coefficients;
      matrix missing = y;
      subtract_product(missing, x, trial);
      if (!reweight(given, y, missing, factors)) break;
    }
  }
  linalg::least_squares_fit fit =
      is_relative || policy.reweightings > 0
          ? solve(options, scaled_rows(x, factors), scaled_rows(y, factors))
          : solve(options, x, y);
  return values_fit{std::move(fit.coefficients), fit.report, true};
}

/// What `fit_values` holds, its result included.
inline void declare(workspace& space, const values::least_squares& policy,
                    const head_sizes& sizes) {
  const index_t n = sizes.queries;
  const index_t t = sizes.budget;
  const index_t d = sizes.width;
  const bool is_plain = policy.weighting == output_weighting::absolute && policy.reweightings == 0;
  const bool validates = cross_validates(policy, n, t);
  const bool may_have_ridge = validates || policy.ridge_scaling != linalg::ridge_mode::none;
  space.count(float_bytes(3, n) + double_bytes(3, n));  // factors, and what they are made of
  const auto fit = [&](linalg::least_squares_method method) {
    const workspace::phase solving(space);
    if (!is_plain) space.count(float_bytes(n, t + d));
    linalg::declare_least_squares(space, n, t, d, method, may_have_ridge);
  };
  fit(policy.method);
  if (policy.reweightings > 0) {
    fit(linalg::least_squares_method::cholesky);
    const workspace::phase reweighting(space);
    space.count(float_bytes(n + t, d) + float_bytes(n));
  }
  if (!validates) return;
  space.count(float_bytes(n, t + d));
  linalg::declare_cross_validated_ridge(space, n, t, d);
}

static_assert(values_policy<values::least_squares>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::values
