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
/// `r` t × t (what lies below the diagonal is not read). Infinite where a diagonal entry is 0 or
/// not finite. Cost 4·rounds·t² flops; allocates 4·t doubles.
[[nodiscard]] inline double triangular_condition(
    const Eigen::Ref<const Eigen::MatrixXd, 0, Eigen::OuterStride<>>& r, int rounds = 4) {
  const Eigen::Index t = r.cols();
  if (t == 0) return 1;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Eigen::ArrayXd pivots = r.diagonal().array().abs();
  if (!pivots.allFinite() || !(pivots.minCoeff() > 0)) return infinity;
  const auto upper = r.triangularView<Eigen::Upper>();
  const auto lower = r.transpose().triangularView<Eigen::Lower>();
  const power_options options{.rounds = rounds};
  const power_estimate largest =
      detail::power_iterate(t, options, [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) {
        const Eigen::VectorXd image = upper * u;
        out = lower * image;
      });
  const power_estimate inverse =
      detail::power_iterate(t, options, [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) {
        out = u;
        lower.solveInPlace(out);
        upper.solveInPlace(out);
      });
  if (!largest.finite || !inverse.finite) return infinity;
  return std::max(largest.sigma * inverse.sigma, pivots.maxCoeff() / pivots.minCoeff());
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
