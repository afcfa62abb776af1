// SPDX-License-Identifier: MIT
/// Values from attention output, by least squares (docs/algorithm.md, Values).
#pragma once

#include <cmath>
#include <utility>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/values/problem.hpp"

namespace kvfit::values {

/// min_C ‖F (X C − Y)‖²_F + λ‖C − C₀‖²_F, X the n × t softmax weights, Y the full outputs, F by
/// `output_weighting`.
///
/// C₀ is 0 as published, or the kept rows' own values: then whatever the queries do not determine
/// (fewer queries than keys, keys that none of them looks at) stays as it was instead of going to
/// 0.
struct least_squares {
  linalg::least_squares_method method = linalg::least_squares_method::qr;
  linalg::ridge_mode ridge_scaling = linalg::ridge_mode::none;
  double ridge = 0;  ///< ≥ 0; λ = ridge × ‖FX‖₂², × ‖FX‖_F²/t, or × 1
  bool toward_original = true;
  output_weighting weighting = output_weighting::relative;
};

}  // namespace kvfit::values

namespace kvfit::values::inline KVFIT_ISA {

/// The ridge must be finite and not negative.
inline result<void> check_settings(const values::least_squares& policy) {
  if (policy.ridge >= 0 && std::isfinite(policy.ridge)) return {};
  return error{errc::invalid_option, "least_squares.ridge", error::none, error::none,
               "must be finite and not negative"};
}

/// Rank loss is regularised and reported, never an error. Cost and memory as
/// `linalg::least_squares`, with a copy of X and Y for relative weighting.
inline result<values_fit> fit_values(const values::least_squares& policy,
                                     const values_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const linalg::least_squares_options options{
      .method = policy.method, .mode = policy.ridge_scaling, .ridge = policy.ridge};
  const matrix* x = problem.weights;
  const matrix* y = problem.output;
  matrix weighted_x;
  matrix weighted_y;
  if (policy.weighting == output_weighting::relative) {
    const vector factors = relative_output_weights(*y);
    weighted_x = factors.asDiagonal() * *x;
    weighted_y = factors.asDiagonal() * *y;
    x = &weighted_x;
    y = &weighted_y;
  }
  linalg::least_squares_fit fit = policy.toward_original
                                      ? linalg::least_squares(*x, *y, options, *problem.original)
                                      : linalg::least_squares(*x, *y, options);
  return values_fit{std::move(fit.coefficients), fit.report, true};
}

static_assert(values_policy<values::least_squares>);

}  // namespace kvfit::values::inline KVFIT_ISA
