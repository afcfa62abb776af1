// SPDX-License-Identifier: MIT
/// What every bounded least-squares solver returns, and the measure they are judged by.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "kvfit/linalg/bounded_report.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {

/// Weights inside the box, always finite, and how good they are.
struct bounded_fit {
  Eigen::VectorXd weights;
  bounded_report report;
};

}  // namespace kvfit::linalg

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// How far gradient component g may still be followed at weight w: 0 where the KKT conditions hold
/// (g ≥ 0 on the lower bound, g ≤ 0 on the upper one, g = 0 between).
[[nodiscard]] inline double kkt_violation(double w, double g, const box& bounds) noexcept {
  const bool may_fall = w > bounds.lower;
  const bool may_rise = w < bounds.upper;
  if (g > 0) return may_fall ? g : 0.0;
  return may_rise ? -g : 0.0;
}

/// max_j violation(w_j, g_j) / scale, for the gradient g = G w − h. `scale` is ‖h‖_∞, or
/// ‖G·lower‖_∞ where that is larger (weights held up by the bound make gradients of that size).
[[nodiscard]] inline double kkt_residual(const Eigen::VectorXd& weights,
                                         const Eigen::VectorXd& gradient, const box& bounds,
                                         double scale) noexcept {
  double worst = 0;
  for (index_t j = 0; j < weights.size(); ++j) {
    worst = (std::max)(worst, kkt_violation(weights[j], gradient[j], bounds));
  }
  return scale > 0 ? worst / scale : worst;
}

/// The scale `kkt_residual` is relative to; see there. `gram_row_sums` = G·1.
[[nodiscard]] inline double kkt_scale(const Eigen::VectorXd& moment,
                                      const Eigen::VectorXd& gram_row_sums, const box& bounds) {
  const double from_target = simd::largest_size(moment.data(), moment.size());
  if (!std::isfinite(bounds.lower) || bounds.lower == 0) return from_target;
  return (std::max)(from_target, std::abs(bounds.lower) * simd::largest_size(gram_row_sums.data(),
                                                                             gram_row_sums.size()));
}

/// Counts the weights on either bound into the report.
inline void count_bounds(const Eigen::VectorXd& weights, const box& bounds,
                         bounded_report& report) noexcept {
  report.at_lower = report.at_upper = 0;
  for (index_t j = 0; j < weights.size(); ++j) {
    report.at_lower += weights[j] == bounds.lower ? 1 : 0;
    report.at_upper += weights[j] == bounds.upper ? 1 : 0;
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
