// SPDX-License-Identifier: MIT
/// Reference answers for linalg: slow, computed in long double, written to be read.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/box.hpp"

namespace oracle {

using real_matrix = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;

/// ½ ‖M w − y‖².
double loss(const kvfit::matrix& m, const kvfit::vector& y, const Eigen::VectorXd& w);

/// Aᵀ B.
real_matrix exact_transposed_product(const kvfit::matrix& a, const kvfit::matrix& b);
/// max |found − truth| as a share of max |truth|.
double largest_share(const Eigen::MatrixXd& found, const real_matrix& truth);

/// The KKT conditions, checked from the matrix itself: the largest violation relative to ‖Mᵀy‖_∞
/// (with a floor on the weights, to ‖MᵀM·lower‖_∞ if larger).
double worst_violation(const kvfit::matrix& m, const kvfit::vector& y, const Eigen::VectorXd& w,
                       const kvfit::linalg::box& bounds);

/// min ‖M w − y‖² over the box by trying every way to put each weight on its lower bound, on its
/// upper one, or between: 3^t linear systems. The optimum is the best of those that stay inside.
Eigen::VectorXd bounded_by_enumeration(const kvfit::matrix& m, const kvfit::vector& y,
                                       const kvfit::linalg::box& bounds);

/// The same by moving one weight at a time to its best place, until none moves.
Eigen::VectorXd bounded_by_coordinates(const kvfit::matrix& m, const kvfit::vector& y,
                                       const kvfit::linalg::box& bounds);

/// min ‖X C − Y‖² + λ‖C‖² from the normal equations; X of full column rank or λ > 0.
Eigen::MatrixXd least_squares(const kvfit::matrix& x, const kvfit::matrix& y,
                              long double lambda = 0);

kvfit::matrix gaussian(Eigen::Index rows, Eigen::Index columns, std::uint64_t seed);

/// exp(score − largest of the row), as attention makes them: all positive, columns much alike
/// where `spread` is small.
kvfit::matrix exponentials(Eigen::Index rows, Eigen::Index columns, float spread,
                           std::uint64_t seed);

}  // namespace oracle
