// SPDX-License-Identifier: MIT
/// The condition number of a triangular factor, estimated.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"
#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// σ_max/σ_min of the upper triangle of `r`, from below: a few rounds of power iteration on RᵀR and
/// on its inverse, and never less than the ratio of the largest to the smallest diagonal entry.
/// R of A = Q R gives the condition of A; U of A = UᵀU gives its square root.
///
/// `r` t × t by rows, float or double (what lies below the diagonal is not read); `column_scale`,
/// empty or t factors, stands for multiplying its columns. Infinite where a diagonal entry is 0 or
/// not finite. Cost 4·rounds·t² flops; allocates 8·t numbers.
template <class Scalar>
[[nodiscard]] double triangular_condition(const matrix_of<Scalar>& r,
                                          const Eigen::VectorXd& column_scale = {},
                                          int rounds = 4) {
  using scalars = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
  const index_t t = r.cols();
  if (t == 0) return 1;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Eigen::VectorXd scale(t);
  for (index_t j = 0; j < t; ++j) scale[j] = column_scale.size() == 0 ? 1.0 : column_scale[j];
  double largest_pivot = 0;
  double smallest_pivot = infinity;
  for (index_t j = 0; j < t; ++j) {
    const double pivot = std::abs(static_cast<double>(r(j, j))) * scale[j];
    if (!std::isfinite(pivot) || !(pivot > 0)) return infinity;
    largest_pivot = (std::max)(largest_pivot, pivot);
    smallest_pivot = (std::min)(smallest_pivot, pivot);
  }
  const power_options options{.rounds = rounds};
  // Scaled so that no entry and no image leaves the scalar's range.
  for (index_t j = 0; j < t; ++j) scale[j] /= largest_pivot;
  scalars given(t);
  scalars image(t);
  scalars back(t);
  auto square = [&](const double* u, double* out) {
    for (index_t j = 0; j < t; ++j) given[j] = static_cast<Scalar>(u[j] * scale[j]);
    detail::multiply_square(r.data(), t, t, given.data(), back.data(), image.data());
    for (index_t j = 0; j < t; ++j) out[j] = static_cast<double>(back[j]) * scale[j];
  };
  auto inverse_square = [&](const double* u, double* out) {
    double norm = 0;
    for (index_t j = 0; j < t; ++j) norm = (std::max)(norm, std::abs(u[j] / scale[j]));
    for (index_t j = 0; j < t; ++j) given[j] = static_cast<Scalar>(u[j] / scale[j] / norm);
    detail::solve_transposed(r.data(), t, t, given.data());
    detail::solve_upper(r.data(), t, t, given.data());
    for (index_t j = 0; j < t; ++j) out[j] = norm * static_cast<double>(given[j]) / scale[j];
  };
  const power_estimate largest = detail::power_iterate(t, options, square);
  const power_estimate inverse = detail::power_iterate(t, options, inverse_square);
  if (!largest.finite || !inverse.finite) return infinity;
  return (std::max)(largest.sigma * inverse.sigma, largest_pivot / smallest_pivot);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
