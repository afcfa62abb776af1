// SPDX-License-Identifier: MIT
/// Least squares where columns depend on each other: by the eigenvectors of a Gram matrix.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "kvfit/core/config.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/symmetric_eigen.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/solve_positive_definite.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// Up to this size a system found ill-conditioned loses the directions that are noise, and at any
/// size where a λ was asked for, which must stay as it is; larger ones get a ridge.
inline constexpr index_t largest_truncated_system = 256;

/// Whether `solve_dependent` truncates a system of that size.
constexpr bool may_truncate(index_t size, bool has_ridge) noexcept {
  return has_ridge || size <= largest_truncated_system;
}

/// Σ_k v_k v_kᵀ right / (σ_k² + λ) over the eigenvectors of G = XᵀX (or XXᵀ) with σ_k² + λ above
/// tolerance² (σ_max² + λ): of all answers that the other directions leave, the smallest.
///
/// Rounding of G in double is worth some ε₆₄/τ² in a direction whose σ is τ σ_max: at the default
/// tolerance that is 1e-3 for one just kept among 16 rows, and 1e-5 among 2,000. Directions under
/// 2⁻²⁴ √m σ_max can't be told from rounding and are never kept. `gram` m × m, both triangles;
/// `right` m × d. Sets tier, rank and condition. False, with `x` as it was, where the eigenvectors
/// can't be found. Cost some 9 m³ + 4 m² d flops; allocates 2 m² + 2 m d doubles.
[[nodiscard]] inline bool solve_truncated(const Eigen::MatrixXd& gram, double lambda,
                                          double tolerance, const double_matrix& right,
                                          double_matrix& x, least_squares_report& report) {
  const index_t size = gram.rows();
  const index_t d = right.cols();
  Eigen::MatrixXd square = gram;
  double_matrix vectors;  // a row each
  vectors.setZero(size, size);
  for (index_t k = 0; k < size; ++k) vectors(k, k) = 1;
  Eigen::VectorXd squares;
  if (!diagonalise(square, squares, vectors)) return false;
  double largest = 0;
  for (index_t k = 0; k < size; ++k) largest = (std::max)(largest, squares[k]);
  largest += lambda;
  // What rounding adds to an eigenvalue is no direction, whatever the tolerance.
  const double noise = 0x1p-48 * static_cast<double>(size);
  const double least = largest * (std::max)(tolerance * tolerance, noise);
  double_matrix along = product(vectors, false, right);
  report.tier = least_squares_tier::truncated;
  report.rank = 0;
  double smallest = largest;
  for (index_t k = 0; k < size; ++k) {
    const double kept = (std::max)(squares[k], 0.0) + lambda;
    const bool is_kept = kept > least && kept > 0;
    if (is_kept) {
      ++report.rank;
      smallest = (std::min)(smallest, kept);
    }
    for (index_t j = 0; j < d; ++j) along(k, j) = is_kept ? along(k, j) / kept : 0;
  }
  report.condition = report.rank > 0 ? std::sqrt(largest / smallest) : 1;
  x = product(vectors, true, along);
  return true;
}

/// (G + λI)⁻¹ right for a G that Cholesky can't do as it is: truncated where it is small, else by
/// `solve_with_ridge`.
[[nodiscard]] inline double_matrix solve_dependent(const Eigen::MatrixXd& gram, double lambda,
                                                   double tolerance, const double_matrix& right,
                                                   least_squares_report& report,
                                                   const executor_ref& threads) {
  double_matrix out;
  if (may_truncate(gram.rows(), lambda > 0) &&
      solve_truncated(gram, lambda, tolerance, right, out, report)) {
    return out;
  }
  return solve_with_ridge(gram, lambda, tolerance, right, report, threads);
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
