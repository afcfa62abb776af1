// SPDX-License-Identifier: MIT
/// Least squares by the Cholesky factor of the smaller Gram matrix.
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>

#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"
#include "kvfit/linalg/triangular_condition.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// Factors square + λI in double; false where it is not positive definite.
inline bool factor_shifted(const Eigen::MatrixXd& square, double lambda, Eigen::MatrixXd& shifted,
                           Eigen::LLT<Eigen::MatrixXd>& factor) {
  shifted = square;
  shifted.diagonal().array() += lambda;
  factor.compute(shifted);
  return factor.info() == Eigen::Success && factor.matrixLLT().diagonal().allFinite();
}

/// (XᵀX + λI)⁻¹XᵀB, or Xᵀ(XXᵀ + λI)⁻¹B where X is wide (attention-matching §5), in double.
///
/// A λ > 0 that was asked for stays as it is unless the factorization fails. Without one, a factor
/// worse conditioned than 1/tolerance counts as failed too: its inverse would multiply noise.
/// Then λ becomes tolerance·σ²_max, and ten times more as often as needed: a direction of
/// noise, some tolerance·σ_max long, is then inverted to no more than 1/σ_max. Sets tier, rank,
/// lambda, escalated and condition.
inline Eigen::MatrixXd solve_by_cholesky(const const_matrix_ref& x, const Eigen::MatrixXd& b,
                                         double lambda, double tolerance,
                                         least_squares_report& report) {
  const bool is_wide = x.rows() < x.cols();
  report.tier = is_wide ? least_squares_tier::cholesky_dual : least_squares_tier::cholesky;
  const Eigen::MatrixXd square = is_wide ? row_gram(x) : gram(x);
  const Eigen::Index size = square.rows();
  Eigen::LLT<Eigen::MatrixXd> factor;
  Eigen::MatrixXd shifted;
  const auto pivots = [&] { return factor.matrixLLT().diagonal().array().abs(); };

  bool factored = factor_shifted(square, lambda, shifted, factor);
  if (factored) {
    report.condition = triangular_condition(factor.matrixLLT().transpose());
    report.rank = (pivots() > tolerance * pivots().maxCoeff()).count();
    const bool trusted = report.condition * tolerance <= 1;
    if (!trusted) report.rank = std::min(report.rank, size - 1);
    factored = trusted || lambda > 0;
  }
  if (!factored) {
    report.escalated = true;
    const double sigma =
        largest_singular_value_of_gram(square, {.rounds = 20, .tolerance = 1e-3}).sigma;
    // The rank shows with a shift just above rounding: what depends on earlier columns keeps a
    // squared pivot of about the shift.
    const double probe = tolerance * tolerance * sigma * sigma;
    if (report.rank == 0 && probe > 0 && factor_shifted(square, probe, shifted, factor)) {
      report.rank = (pivots().square() > 10 * probe).count();
    }
    // A zero matrix has no scale: any λ will do.
    lambda = std::max(10 * lambda, sigma > 0 ? tolerance * sigma * sigma : 1.0);
    for (int attempt = 0; attempt < 20; ++attempt, lambda *= 10) {
      if (factor_shifted(square, lambda, shifted, factor)) break;
    }
    report.condition = triangular_condition(factor.matrixLLT().transpose());
  }
  report.lambda = lambda;
  if (!is_wide) return factor.solve(moment(x, b));
  return moment(x, factor.solve(b).eval());
}

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
