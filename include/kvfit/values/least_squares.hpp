// SPDX-License-Identifier: MIT
/// Values from attention output, by least squares (docs/algorithm.md, Values).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/linalg/cross_validated_ridge.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/linalg/published_least_squares.hpp"
#include "kvfit/values/problem.hpp"

namespace kvfit::values {

/// The most queries or keys, whichever are fewer, that a ridge is cross-validated for.
inline constexpr index_t cross_validated_at_most = 512;

/// min_C ‖F (X C − Y)‖²_F + λ‖C − C₀‖²_F, X the n × t softmax weights, Y the full outputs, F by
/// `output_weighting`.
///
/// C₀ is 0 as published, or the kept rows' own values: then whatever the queries do not determine
/// (fewer queries than keys, keys that none of them looks at) stays as it was instead of going to
/// 0.
struct least_squares {
  linalg::least_squares_method method = linalg::least_squares_method::ranked;
  linalg::ridge_mode ridge_scaling = linalg::ridge_mode::none;
  double ridge = 0;  ///< ≥ 0; λ = ridge × ‖FX‖₂², × ‖FX‖_F²/t, or × 1
  /// Where no ridge is asked for (`ridge_scaling` none) and the queries are fewer than this many
  /// times the keys, ≥ 0, λ is what generalised cross-validation calls for, on the rows as
  /// `weighting` has them. 0: never. Nor where queries and keys both are more than
  /// `cross_validated_at_most`: its cost grows with the cube of the smaller number.
  double cross_validate_below = 16;
  bool toward_original = true;
  output_weighting weighting = output_weighting::relative;
  /// Fits more, each with row i of the one before divided by the square root of its error: they
  /// tend from the least mean square to the least mean of the errors, which outliers rule less, ≥
  /// 0.
  int reweightings = 0;

  friend bool operator==(const least_squares&, const least_squares&) = default;
};

}  // namespace kvfit::values

namespace kvfit::values::inline KVFIT_ISA {

/// The ridge must be finite and not negative, nor must the reweightings be.
template <class = void>
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

/// Rank loss is regularised and reported, never an error; the report's λ is the one used. Cost and
/// memory as `linalg::least_squares`, with a copy of X and Y for relative weighting, and those of
/// `linalg::cross_validated_ridge` where queries are few.
template <class = void>
inline result<values_fit> fit_values(const values::least_squares& policy,
                                     const values_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const auto finished = [](linalg::least_squares_fit fit) {
    return values_fit{std::move(fit.coefficients), fit.report, true};
  };
  linalg::least_squares_options options{
      .method = policy.method, .mode = policy.ridge_scaling, .ridge = policy.ridge};
  const matrix& x = *problem.weights;
  const matrix& y = *problem.output;
  const auto solve = [&](const linalg::least_squares_options& how, const matrix& left,
                         const matrix& right) {
    if (how.method == linalg::least_squares_method::qr_unpivoted) {
      return policy.toward_original
                 ? linalg::published_least_squares(left, right, how, *problem.original,
                                                   problem.threads)
                 : linalg::published_least_squares(left, right, how, problem.threads);
    }
    return policy.toward_original
               ? linalg::least_squares(left, right, how, *problem.original, problem.threads)
               : linalg::least_squares(left, right, how, problem.threads);
  };
  const double many = policy.cross_validate_below * static_cast<double>(x.cols());
  const bool are_few = static_cast<double>(x.rows()) < many &&
                       std::min(x.rows(), x.cols()) <= cross_validated_at_most;
  const bool is_relative = policy.weighting == output_weighting::relative;
  const bool is_plain = !is_relative && policy.reweightings == 0;
  vector factors = is_relative ? relative_output_weights(y) : vector(vector::Ones(y.rows()));
  if (policy.ridge_scaling == linalg::ridge_mode::none && are_few) {
    const matrix left = factors.asDiagonal() * x;
    matrix right = factors.asDiagonal() * y;
    if (policy.toward_original) right -= left * *problem.original;
    options.mode = linalg::ridge_mode::fixed;
    options.ridge = linalg::cross_validated_ridge(left, right, problem.threads);
  }
  if (is_plain) return finished(solve(options, x, y));
  const vector given = factors;
  linalg::least_squares_options quick = options;  // its errors alone are looked at
  quick.method = linalg::least_squares_method::cholesky;
  for (int k = 0; k < policy.reweightings; ++k) {
    const matrix trial =
        solve(quick, factors.asDiagonal() * x, factors.asDiagonal() * y).coefficients;
    matrix missing = y;
    missing.noalias() -= x * trial;
    vector errors(y.rows());
    for (index_t i = 0; i < y.rows(); ++i) errors[i] = given[i] * missing.row(i).norm();
    // Below the noise of fp32 errors say nothing; and a row that fits well must not rule all
    // others.
    const float mean = errors.mean();
    if (!(mean > 1e-5F * given.cwiseProduct(y.rowwise().norm()).mean())) break;
    factors = given.array() * errors.array().max(0.1F * mean).rsqrt();
    factors *= given.norm() / factors.norm();  // so that a ridge stays what it was beside the rows
  }
  return finished(solve(options, factors.asDiagonal() * x, factors.asDiagonal() * y));
}

/// Bytes that `fit_values` holds at most, its result included.
template <class = void>
inline double fit_values_bytes(const values::least_squares& policy, const head_sizes& sizes) {
  const index_t n = sizes.queries;
  const index_t t = sizes.budget;
  const index_t d = sizes.width;
  const bool is_plain = policy.weighting == output_weighting::absolute && policy.reweightings == 0;
  const bool may_validate =
      policy.ridge_scaling == linalg::ridge_mode::none &&
      static_cast<double>(n) < policy.cross_validate_below * static_cast<double>(t) &&
      std::min(n, t) <= cross_validated_at_most;
  const bool may_have_ridge = may_validate || policy.ridge_scaling != linalg::ridge_mode::none;
  const auto fit = [&](linalg::least_squares_method method) {
    return method == linalg::least_squares_method::qr_unpivoted
               ? linalg::published_least_squares_bytes(n, t, d, may_have_ridge)
               : linalg::least_squares_bytes(n, t, d, method, may_have_ridge);
  };
  const double weighted = is_plain ? 0 : float_bytes(n, t + d);
  double most = weighted + fit(policy.method);
  if (may_validate) {
    const double missing = policy.toward_original ? float_bytes(n, d) + packed_bytes(n, d, t) : 0;
    most = std::max(most, float_bytes(n, t + d) +
                              std::max(missing, linalg::cross_validated_ridge_bytes(n, t, d)));
  }
  if (policy.reweightings > 0) {
    const double looking = float_bytes(n, d) + float_bytes(n) + packed_bytes(n, d, t);
    most = std::max({most, weighted + fit(linalg::least_squares_method::cholesky),
                     float_bytes(t, d) + looking});
  }
  return most + float_bytes(3, n) + double_bytes(2, n);
}

static_assert(values_policy<values::least_squares>);

}  // namespace kvfit::values::inline KVFIT_ISA
