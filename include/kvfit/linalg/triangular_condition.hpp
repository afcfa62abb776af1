// SPDX-License-Identifier: MIT
/// The condition number of a triangular factor, estimated.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

/// σ_max/σ_min of the upper triangle of `r`, from below: a few rounds of power iteration on RᵀR and
/// on its inverse, and never less than the ratio of the largest to the smallest diagonal entry.
/// R of A = Q R gives the condition of A; Lᵀ of A = L Lᵀ gives its square root.
///
/// `r` t × t, float or double, by rows or by columns (what lies below the diagonal is not read);
/// `column_scale`, empty or t factors, stands for multiplying its columns. Infinite where a
/// diagonal entry is 0 or not finite. Cost 4·rounds·t² flops; allocates 6·t numbers.
template <class Derived>
[[nodiscard]] double triangular_condition(const Eigen::MatrixBase<Derived>& r,
                                          const const_vector_ref& column_scale, int rounds = 4) {
  using scalar = typename Derived::Scalar;
  using scalars = Eigen::Matrix<scalar, Eigen::Dynamic, 1>;
  const Eigen::Index t = r.cols();
  if (t == 0) return 1;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Eigen::VectorXd scale = column_scale;
  if (scale.size() == 0) scale.setOnes(t);
  const Eigen::ArrayXd pivots = r.diagonal().array().abs().template cast<double>() * scale.array();
  if (!pivots.allFinite() || !(pivots.minCoeff() > 0)) return infinity;
  const auto upper = r.derived().template triangularView<Eigen::Upper>();
  const auto lower = r.derived().transpose().template triangularView<Eigen::Lower>();
  const power_options options{.rounds = rounds};
  // Scaled so that no entry and no image leaves the scalar's range.
  const double largest_pivot = pivots.maxCoeff();
  const Eigen::ArrayXd relative = scale.array() / largest_pivot;
  scalars image(t);
  const power_estimate largest =
      detail::power_iterate(t, options, [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) {
        const scalars given = (u.array() * relative).template cast<scalar>();
        image.noalias() = upper * given;
        const scalars back = lower * image;
        out = back.template cast<double>().array() * relative;
      });
  const power_estimate inverse =
      detail::power_iterate(t, options, [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) {
        const Eigen::ArrayXd given = u.array() / relative;
        const double norm = given.abs().maxCoeff();
        image = (given / norm).template cast<scalar>();
        lower.solveInPlace(image);
        upper.solveInPlace(image);
        out = norm * (image.template cast<double>().array() / relative);
      });
  if (!largest.finite || !inverse.finite) return infinity;
  return std::max(largest.sigma * inverse.sigma, largest_pivot / pivots.minCoeff());
}

template <class Derived>
[[nodiscard]] double triangular_condition(const Eigen::MatrixBase<Derived>& r) {
  return triangular_condition(r.derived().eval(), Eigen::VectorXd());
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
