// SPDX-License-Identifier: MIT
/// Dense matrices in double, as tests compare them. The functions are compiled once, in dense.cpp:
/// Eigen's products and decompositions cost a compiler far more than the tests that use them.
#pragma once

#include <Eigen/Core>

#include "kvfit/core/matrix.hpp"

namespace oracle {

Eigen::MatrixXd to_double(const kvfit::matrix& a);
kvfit::matrix to_float(const Eigen::MatrixXd& a);

// ---- Products

Eigen::MatrixXd product(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b);
/// Aᵀ B.
Eigen::MatrixXd transposed_product(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b);
/// A diag(scale) Bᵀ.
Eigen::MatrixXd scaled_product(const Eigen::MatrixXd& a, const Eigen::VectorXd& scale,
                               const Eigen::MatrixXd& b);
/// A B in fp32.
kvfit::matrix product_in_float(const kvfit::matrix& a, const kvfit::matrix& b);

// ---- Distances, by the Frobenius norm unless said otherwise

double norm(const Eigen::MatrixXd& a);
/// ‖A − B‖.
double distance(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b);
/// ‖found − truth‖ / ‖truth‖; of a truth of zeros, beyond all tolerances unless found is zeros too.
double relative_error(const Eigen::MatrixXd& found, const Eigen::MatrixXd& truth);
/// max_ij |A_ij − B_ij|.
double largest_difference(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b);
/// ‖X C − Y‖.
double residual_norm(const Eigen::MatrixXd& x, const Eigen::MatrixXd& c, const Eigen::MatrixXd& y);

// ---- Decompositions

/// Descending.
Eigen::VectorXd singular_values(const Eigen::MatrixXd& a);
/// Of a symmetric A, ascending.
Eigen::VectorXd eigenvalues(const Eigen::MatrixXd& a);
/// Q of A = Q R, as many columns as A has.
Eigen::MatrixXd orthonormal_columns(const Eigen::MatrixXd& a);
/// Zeros below the diagonal.
Eigen::MatrixXd upper_triangle(const Eigen::MatrixXd& a);

// ---- Systems

/// argmin ‖X C − Y‖, X of full column rank, by Householder QR.
Eigen::MatrixXd solve_by_qr(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y);
/// The same with columns pivoted.
Eigen::MatrixXd solve_by_pivoted_qr(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y);
/// The smallest of all argmin ‖X C − Y‖, by a complete orthogonal decomposition; pivots of at most
/// `threshold` times the largest are zeros (0: what Eigen takes for rounding).
Eigen::MatrixXd solve_by_orthogonal(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y,
                                    double threshold = 0);
/// The same by a Jacobi SVD without the singular values below `tolerance` of the largest.
Eigen::MatrixXd solve_by_svd(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, double tolerance);
/// A C = B for a symmetric positive definite A, by Cholesky.
Eigen::MatrixXd solve_by_cholesky(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b);
/// A C = B for a symmetric positive semidefinite A, by L D Lᵀ.
Eigen::MatrixXd solve_by_ldlt(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b);
/// U C = B, and Uᵀ C = B, for an upper triangle U.
Eigen::MatrixXd solve_upper(const Eigen::MatrixXd& u, const Eigen::MatrixXd& b);
Eigen::MatrixXd solve_upper_transposed(const Eigen::MatrixXd& u, const Eigen::MatrixXd& b);

}  // namespace oracle
