// SPDX-License-Identifier: MIT
/// Least squares by Householder QR, with a pivoted second look where columns depend on each other.
#pragma once

#include <Eigen/Core>
#include <Eigen/QR>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include "kvfit/linalg/detail/float_qr.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/triangular_condition.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// Rows that `residual_of` takes together.
inline constexpr index_t residual_rows = 32;
/// A part of them in double.
using residual_block = std::array<double, static_cast<std::size_t>(residual_rows* strip_depth)>;

/// B − X C in double.
template <class = void>
inline rows_of<double> residual_of(const const_matrix_ref& x, const rows_of<double>& c,
                                   const rows_of<double>& b, const loop& executor = {}) {
  rows_of<double> out = b;
  const index_t t = x.cols();
  const index_t d = c.cols();
  const loop threads = executor.for_work(2.0 * static_cast<double>(x.rows()) *
                                         static_cast<double>(t) * static_cast<double>(d));
  over_pieces(threads, x.rows(), residual_rows, [&](index_t top, index_t count) noexcept {
    residual_block rows;
    for (index_t k = 0; k < t; k += strip_depth) {
      const index_t depth = std::min(strip_depth, t - k);
      for (index_t i = 0; i < count; ++i) {
        const float* from = x.data() + (top + i) * x.outerStride() + k;
        std::copy_n(from, depth, rows.data() + i * strip_depth);
      }
      simd::multiply({rows.data(), strip_depth, 1}, {c.data() + k * d, d},
                     {out.data() + top * d, d}, count, d, depth, simd::product_mode::subtract);
    }
  });
  return out;
}

/// Brings C from fp32 to double by correcting it with R⁻¹R⁻ᵀXᵀ(B − X C), the residual in double
/// (Björck 1987): each step leaves some ε₃₂·κ of the error. False where it does not get there.
template <class = void>
inline bool refine(const const_matrix_ref& x, const rows_of<double>& b, const float_qr<>& qr,
                   rows_of<double>& c, const loop& threads) {
  double before = 1;
  for (int step = 0; step < 5; ++step) {
    const rows_of<double> slope = moment(x, residual_of(x, c, b, threads), {}, threads);
    const rows_of<double> change = qr.solve_normal(slope);
    c += change;
    const double weight = qr.weight(c);
    const double share = weight > 0 ? qr.weight(change) / weight : 0;
    if (!(share < 0.25 * before)) return false;
    // The first step's share is about what one step leaves of an error.
    if (share < (step == 0 ? 3e-4 : 1e-6)) return true;
    before = share;
  }
  return false;
}

/// The complete orthogonal decomposition of R from a double QR of [X; √λ I], or of Xᵀ: finds the
/// rank and the answer of smallest norm. Sets tier, rank and condition.
template <class = void>
inline rows_of<double> solve_by_pivoted_qr(const const_matrix_ref& x, const rows_of<double>& b,
                                           double lambda, double tolerance,
                                           least_squares_report& report) {
  const bool has_ridge = lambda > 0;
  const Eigen::Index n = x.rows();
  const Eigen::Index t = x.cols();
  const bool is_wide = !has_ridge && n < t;
  Eigen::MatrixXd a = Eigen::MatrixXd::Zero(has_ridge ? n + t : std::max(n, t), std::min(n, t));
  Eigen::MatrixXd right = b;
  if (is_wide) {
    a = x.transpose().cast<double>();
  } else {
    a.resize(has_ridge ? n + t : n, t);
    a.topRows(n) = x.cast<double>();
  }
  if (has_ridge) {  // t more equations, √λ·D = 0
    a.bottomRows(t).setZero();
    a.bottomRows(t).diagonal().setConstant(std::sqrt(lambda));
    right.conservativeResize(n + t, Eigen::NoChange);
    right.bottomRows(t).setZero();
  }
  const Eigen::Index small = a.cols();
  const Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXd>> qr(a);
  if (!is_wide) {
    right.applyOnTheLeft(qr.householderQ().adjoint());
    right.conservativeResize(small, Eigen::NoChange);
  }
  report.tier = least_squares_tier::qr_pivoted;
  Eigen::MatrixXd square = Eigen::MatrixXd::Zero(small, small);
  square.triangularView<Eigen::Upper>() = a.topRows(small).triangularView<Eigen::Upper>();
  if (is_wide) square.transposeInPlace();
  Eigen::CompleteOrthogonalDecomposition<Eigen::MatrixXd> pivoted;
  pivoted.setThreshold(tolerance);
  pivoted.compute(square);
  report.rank = pivoted.rank();
  right = pivoted.solve(right).eval();
  const auto& kept = pivoted.matrixQTZ();
  report.condition = report.rank == 0
                         ? 1
                         : std::abs(kept(0, 0)) / std::abs(kept(report.rank - 1, report.rank - 1));
  if (!is_wide) return right;
  Eigen::MatrixXd out = Eigen::MatrixXd::Zero(a.rows(), right.cols());
  out.topRows(small) = right;
  out.applyOnTheLeft(qr.householderQ());
  return out;
}

/// As published: fp32, full rank assumed. An exact zero on R's diagonal leaves the pivoted way
/// only. `b` in fp32 or in double.
template <class Rhs>
rows_of<double> solve_unpivoted(const const_matrix_ref& x, const Eigen::MatrixBase<Rhs>& b,
                                double lambda, double tolerance, least_squares_report& report,
                                const loop& threads) {
  {
    float_qr<> qr(x, lambda, threads);
    rows_of<double> out = qr.solve(b);
    if (out.allFinite()) {
      report.tier = least_squares_tier::qr_unpivoted;
      report.condition = qr.condition();
      report.rank = lambda > 0 ? x.cols() : std::min(x.rows(), x.cols());
      return out;
    }
  }
  return solve_by_pivoted_qr(x, b.template cast<double>(), lambda, tolerance, report);
}

/// Up to this size a system found ill-conditioned is pivoted; larger ones get a ridge.
inline constexpr index_t largest_pivoted_system = 256;
/// min ‖X C − B‖² + λ‖C‖², as exact as double arithmetic on the fp32 data, the rank looked at.
///
/// A condition number κ up to 1/tolerance (some 2e5) leaves the Gram matrix in double exact enough:
/// its rounding is worth ε₆₄·κ² < 1e-5 in C in the worst case, and ε₆₄·κ in X C. Matrices that are
/// nearly square are cheaper by fp32 QR, corrected until double is reached. Beyond that κ small
/// systems get the pivoted decomposition's minimum-norm answer, larger ones the ridge of
/// `solve_with_ridge`.
template <class = void>
inline rows_of<double> solve_ranked(const const_matrix_ref& x, const rows_of<double>& b,
                                    double lambda, double tolerance, least_squares_report& report,
                                    const loop& threads) {
  const bool is_wide = x.rows() < x.cols();
  const bool has_ridge = lambda > 0;
  const index_t size = std::min(x.rows(), x.cols());
  rows_of<double> out;
  if (!has_ridge && is_nearly_square(x)) {  // a double Gram matrix and its factor cost more
    float_qr<> qr(x, 0, threads);
    report.condition = qr.condition();
    report.rank = size;
    report.tier = least_squares_tier::qr;
    if (report.condition * tolerance > 1) {
      report.rank = 0;
      report.tier = least_squares_tier::cholesky;
      const kvfit::matrix triangle = qr.triangle();
      Eigen::MatrixXd square;
      float_gram_into(
          size, size,
          [&](index_t i, index_t first, index_t width, float* to) {
            std::copy_n(triangle.data() + i * size + first, width, to);
          },
          [](index_t row) { return row; }, square, threads);
      const double unit = qr.unit();
      square.triangularView<Eigen::Lower>() *= unit * unit;
      return solve_with_ridge<float>(square, 0, tolerance,
                                     float_moment(triangle, qr.project(b), threads) * unit, report,
                                     threads);
    }
    out = qr.solve(b);
    if (out.allFinite() && refine(x, b, qr, out, threads)) return out;
  }
  const Eigen::MatrixXd square = is_wide ? row_gram(x, threads) : gram(x, {}, threads);
  const rows_of<double> right = is_wide ? b : rows_of<double>(moment(x, b, {}, threads));
  report.tier = is_wide ? least_squares_tier::cholesky_dual : least_squares_tier::cholesky;
  report.rank = 0;
  const bool solved = solve_gram<double>(square, lambda, tolerance, right, out, report, threads) &&
                      report.condition * tolerance <= 1;
  if (!solved) {
    if (has_ridge || size <= largest_pivoted_system) {
      return solve_by_pivoted_qr(x, b, lambda, tolerance, report);
    }
    out = solve_with_ridge<double>(square, lambda, tolerance, right, report, threads);
  }
  if (is_wide) out = rows_of<double>(moment(x, out, {}, threads));
  return out;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
