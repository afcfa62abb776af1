// SPDX-License-Identifier: MIT
/// Least squares by Householder QR, and by eigenvectors where columns depend on each other.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include "kvfit/linalg/detail/float_qr.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/least_squares_truncated.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/triangular_condition.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// Rows that `residual_of` takes together.
inline constexpr index_t residual_rows = 32;
/// A part of them in double.
using residual_block = std::array<double, static_cast<std::size_t>(residual_rows* strip_depth)>;

/// B − X C in double.
template <class = void>
inline double_matrix residual_of(const const_matrix_ref& x, const double_matrix& c,
                                 const double_matrix& b, const executor_ref& executor = {}) {
  double_matrix out = b;
  const index_t t = x.cols();
  const index_t d = c.cols();
  const executor_ref threads = executor.for_work(2.0 * static_cast<double>(x.rows()) *
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
inline bool refine(const const_matrix_ref& x, const double_matrix& b, const float_qr<>& qr,
                   double_matrix& c, const executor_ref& threads) {
  double before = 1;
  for (int step = 0; step < 5; ++step) {
    const double_matrix slope = moment(x, residual_of(x, c, b, threads), {}, threads);
    const double_matrix change = qr.solve_normal(slope);
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

/// The normal equations of the smaller side, in double: XᵀX C = XᵀB, or XXᵀ Z = B with C = XᵀZ.
struct gram_system {
  Eigen::MatrixXd gram;  // both triangles
  double_matrix right;

  gram_system(const const_matrix_ref& x, const double_matrix& b, const executor_ref& threads)
      : gram(x.rows() < x.cols() ? row_gram(x, threads) : linalg::gram(x, {}, threads)),
        right(x.rows() < x.cols() ? b : double_matrix(moment(x, b, {}, threads))) {}

  /// C of the solution of the smaller side.
  [[nodiscard]] static double_matrix unreduced(const const_matrix_ref& x, double_matrix solution,
                                               const executor_ref& threads) {
    if (x.rows() >= x.cols()) return solution;
    return moment(x, solution, {}, threads);
  }
};

/// As published: fp32, full rank assumed. An exact zero on R's diagonal leaves `solve_dependent`
/// only. `b` in fp32 or in double.
template <class Rhs>
double_matrix solve_unpivoted(const const_matrix_ref& x, const Eigen::MatrixBase<Rhs>& b,
                              double lambda, double tolerance, least_squares_report& report,
                              const executor_ref& threads) {
  {
    float_qr<> qr(x, lambda, threads);
    double_matrix out = qr.solve(b);
    if (out.allFinite()) {
      report.tier = least_squares_tier::qr_unpivoted;
      report.condition = qr.condition();
      report.rank = lambda > 0 ? x.cols() : std::min(x.rows(), x.cols());
      return out;
    }
  }
  const gram_system system(x, b.template cast<double>(), threads);
  return system.unreduced(
      x, solve_dependent(system.gram, lambda, tolerance, system.right, report, threads), threads);
}

/// min ‖X C − B‖² + λ‖C‖², as exact as double arithmetic on the fp32 data, the rank looked at.
///
/// A condition number κ up to 1/tolerance (some 2e5) leaves the Gram matrix in double exact enough:
/// its rounding is worth ε₆₄·κ² < 1e-5 in C in the worst case, and ε₆₄·κ in X C. Matrices that are
/// nearly square are cheaper by fp32 QR, corrected until double is reached. Beyond that κ
/// `solve_dependent` answers.
template <class = void>
inline double_matrix solve_ranked(const const_matrix_ref& x, const double_matrix& b, double lambda,
                                  double tolerance, least_squares_report& report,
                                  const executor_ref& threads) {
  const bool is_wide = x.rows() < x.cols();
  const bool has_ridge = lambda > 0;
  const index_t size = std::min(x.rows(), x.cols());
  double_matrix out;
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
  const gram_system system(x, b, threads);
  report.tier = is_wide ? least_squares_tier::cholesky_dual : least_squares_tier::cholesky;
  report.rank = 0;
  const bool solved =
      solve_gram<double>(system.gram, lambda, tolerance, system.right, out, report, threads) &&
      report.condition * tolerance <= 1;
  if (!solved) out = solve_dependent(system.gram, lambda, tolerance, system.right, report, threads);
  return system.unreduced(x, std::move(out), threads);
}

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
