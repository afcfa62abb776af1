// SPDX-License-Identifier: MIT
/// Least squares by Householder QR, with a pivoted second look where columns depend on each other.
#pragma once

#include <Eigen/Core>
#include <Eigen/QR>
#include <cmath>

#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/triangular_condition.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// min ‖A C − B‖_F by QR of A, or of Aᵀ where A is wide (then of minimum norm).
///
/// Pivoting every column of a tall matrix runs at memory speed, so the blocked QR goes first; only
/// where its triangle R is worse conditioned than 1/tolerance, the pivoted complete orthogonal
/// decomposition of R itself (small and square, same singular values) finds the rank and the
/// minimum-norm answer. In double: fp32 would add noise of the very size the rank test looks for.
/// `a` is overwritten. Sets tier, rank and condition.
inline Eigen::MatrixXd solve_by_qr(Eigen::MatrixXd& a, Eigen::MatrixXd right, bool may_pivot,
                                   double tolerance, least_squares_report& report) {
  const bool is_wide = a.rows() < a.cols();
  if (is_wide) a = a.transpose().eval();
  const Eigen::Index small = a.cols();
  const Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXd>> qr(a);
  const auto triangle = a.topRows(small);
  const auto upper = triangle.triangularView<Eigen::Upper>();
  report.condition = triangular_condition(triangle);
  report.rank = small;

  if (!is_wide) {
    right.applyOnTheLeft(qr.householderQ().adjoint());
    right.conservativeResize(small, Eigen::NoChange);
  }

  bool solved = false;
  if (report.condition * tolerance <= 1 || !may_pivot) {
    report.tier = may_pivot ? least_squares_tier::qr : least_squares_tier::qr_unpivoted;
    Eigen::MatrixXd direct = right;
    if (is_wide)
      upper.transpose().solveInPlace(direct);
    else
      upper.solveInPlace(direct);
    solved = direct.allFinite();  // an exact zero on R's diagonal leaves the pivoted way only
    if (solved) right.swap(direct);
  }
  if (!solved) {
    report.tier = least_squares_tier::qr_pivoted;
    Eigen::MatrixXd square = Eigen::MatrixXd::Zero(small, small);
    square.triangularView<Eigen::Upper>() = upper;
    if (is_wide) square.transposeInPlace();
    Eigen::CompleteOrthogonalDecomposition<Eigen::MatrixXd> pivoted;
    pivoted.setThreshold(tolerance);
    pivoted.compute(square);
    report.rank = pivoted.rank();
    right = pivoted.solve(right).eval();
    const auto& kept = pivoted.matrixQTZ();
    report.condition =
        report.rank == 0 ? 1
                         : std::abs(kept(0, 0)) / std::abs(kept(report.rank - 1, report.rank - 1));
  }
  if (!is_wide) return right;
  Eigen::MatrixXd out = Eigen::MatrixXd::Zero(a.rows(), right.cols());
  out.topRows(small) = right;
  out.applyOnTheLeft(qr.householderQ());
  return out;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
