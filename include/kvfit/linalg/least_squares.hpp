// SPDX-License-Identifier: MIT
/// Linear least squares with many right-hand sides.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/least_squares_qr.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

/// λ for a ridge: ridge·‖X‖₂², ridge·‖X‖_F²/t, or ridge itself (attention-matching §5). ‖X‖₂ comes
/// from seeded power iteration to about four digits. Cost at most 160·n·t flops.
[[nodiscard]] inline double ridge_lambda(const const_matrix_ref& x, ridge_mode mode, double ridge) {
  switch (mode) {
    case ridge_mode::none:
      return 0;
    case ridge_mode::fixed:
      return ridge;
    case ridge_mode::frobenius: {
      double norm_sq = 0;
      for (Eigen::Index i = 0; i < x.rows(); ++i) {
        norm_sq += x.row(i).cast<double>().squaredNorm();
      }
      return x.cols() == 0 ? 0 : ridge * norm_sq / static_cast<double>(x.cols());
    }
    case ridge_mode::spectral: {
      const double sigma = largest_singular_value(x, {.rounds = 40, .tolerance = 1e-6}).sigma;
      return ridge * sigma * sigma;
    }
  }
  return 0;
}

namespace detail {

/// fp32 of `exact`, clamped to what fp32 holds; false where something had to be.
inline bool round_to_float(const Eigen::MatrixXd& exact, kvfit::matrix& out) {
  constexpr double largest = std::numeric_limits<float>::max();
  bool fits = true;
  out.resize(exact.rows(), exact.cols());
  for (Eigen::Index i = 0; i < exact.rows(); ++i) {
    for (Eigen::Index j = 0; j < exact.cols(); ++j) {
      const double value = exact(i, j);
      fits = fits && std::abs(value) <= largest;
      out(i, j) = static_cast<float>(value != value ? 0.0 : std::clamp(value, -largest, largest));
    }
  }
  return fits;
}

/// C₀ + argmin_D ‖X D − (Y − X C₀)‖² + λ‖D‖²; `toward` null stands for C₀ = 0.
inline least_squares_fit solve_toward(const const_matrix_ref& x, const const_matrix_ref& y,
                                      const least_squares_options& options,
                                      const const_matrix_ref* toward) {
  assert(x.rows() == y.rows());
  assert(toward == nullptr || (toward->rows() == x.cols() && toward->cols() == y.cols()));
  const Eigen::Index n = x.rows();
  const Eigen::Index t = x.cols();
  least_squares_fit out;
  least_squares_report& report = out.report;
  out.coefficients = kvfit::matrix::Zero(t, y.cols());
  if (!x.allFinite() || !y.allFinite() || (toward != nullptr && !toward->allFinite())) {
    report.status = least_squares_status::non_finite_input;
    report.finite = false;
    return out;
  }
  if (toward != nullptr) out.coefficients = *toward;
  if (n == 0 || t == 0 || y.cols() == 0) return out;

  const double tolerance = options.rank_tolerance > 0
                               ? options.rank_tolerance
                               : static_cast<double>(std::numeric_limits<float>::epsilon()) *
                                     std::sqrt(static_cast<double>(std::max(n, t)));
  report.lambda = ridge_lambda(x, options.mode, options.ridge);
  const bool has_ridge = report.lambda > 0;

  Eigen::MatrixXd right = y.cast<double>();
  if (toward != nullptr) right.noalias() -= x.cast<double>() * toward->cast<double>();
  Eigen::MatrixXd solution;
  if (options.method == least_squares_method::cholesky) {
    solution = solve_by_cholesky(x, right, report.lambda, tolerance, report);
  } else {
    // The ridge is t more equations, √λ·D = 0.
    Eigen::MatrixXd left = Eigen::MatrixXd::Zero(has_ridge ? n + t : n, t);
    left.topRows(n) = x.cast<double>();
    if (has_ridge) {
      left.bottomRows(t).diagonal().setConstant(std::sqrt(report.lambda));
      right.conservativeResize(n + t, Eigen::NoChange);
      right.bottomRows(t).setZero();
    }
    solution =
        solve_by_qr(left, std::move(right), options.method == least_squares_method::qr, tolerance,
                    report);
  }
  const bool is_unique = has_ridge || n >= t;
  if (!is_unique || report.rank < std::min(n, t) || report.escalated ||
      report.condition * tolerance > 1) {
    report.status = least_squares_status::rank_deficient;
  }
  if (toward != nullptr) solution += toward->cast<double>();
  report.finite = round_to_float(solution, out.coefficients);
  if (!report.finite) report.status = least_squares_status::overflow;
  return out;
}

}  // namespace detail

/// min_C ‖X C − Y‖²_F + λ‖C‖²_F.
///
/// `x` n × t, `y` n × d, fp32; C is t × d. All arithmetic in double, rounded to fp32 at the end.
/// Where the data leave a choice (n < t, dependent columns) C is the smallest such matrix under
/// `qr`, and held small by a tiny ridge under `cholesky`; the report says which, and with what λ.
/// Never NaN. `qr` costs 2·n·t² flops and allocates (n + d)·t doubles and more (n + t rows with a
/// ridge); `cholesky` costs n·t² + t³/3 and allocates 2·t² doubles (n for t where n < t).
[[nodiscard]] inline least_squares_fit least_squares(const const_matrix_ref& x,
                                                     const const_matrix_ref& y,
                                                     const least_squares_options& options = {}) {
  return detail::solve_toward(x, y, options, nullptr);
}

/// min_C ‖X C − Y‖²_F + λ‖C − C₀‖²_F: the ridge pulls toward `toward` (t × d), and where the data
/// leave a choice C is the nearest to it.
[[nodiscard]] inline least_squares_fit least_squares(const const_matrix_ref& x,
                                                     const const_matrix_ref& y,
                                                     const least_squares_options& options,
                                                     const const_matrix_ref& toward) {
  return detail::solve_toward(x, y, options, &toward);
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
