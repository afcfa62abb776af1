// SPDX-License-Identifier: MIT
/// What every bounded least-squares solver hands back, and the measure they are judged by.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/matrix_ref.hpp"

namespace kvfit::linalg {

enum class bounded_status : std::uint8_t {
  optimal,           ///< the KKT residual is within the tolerance asked for
  iteration_limit,   ///< it is not (yet): the best weights found are returned
  diverged,          ///< the step was too long and the loss rose: the best weights are returned
  non_finite_input,  ///< NaN or infinity in the data: the clipped start (or 0) is returned
};

/// The status's name, as written above.
constexpr std::string_view name(bounded_status status) noexcept {
  switch (status) {
    case bounded_status::optimal:
      return "optimal";
    case bounded_status::iteration_limit:
      return "iteration_limit";
    case bounded_status::diverged:
      return "diverged";
    case bounded_status::non_finite_input:
      return "non_finite_input";
  }
  return "unknown";
}

struct bounded_report {
  bounded_status status = bounded_status::iteration_limit;
  int iterations = 0;      ///< gradient steps, or rounds of pivoting
  int factorizations = 0;  ///< Cholesky factors computed
  double objective = 0;    ///< ½‖M w − y‖² of the returned weights
  double start_objective =
      0;                      ///< the same of the clipped start (of clipped 0 where none was given)
  double kkt_residual = 0;    ///< see `kkt_residual()`; relative
  Eigen::Index at_lower = 0;  ///< weights that sit exactly on the lower bound
  Eigen::Index at_upper = 0;  ///< and on the upper one
  bool rank_deficient = false;  ///< a factor met dependent columns: other weights may fit as well
};

/// Weights inside the box, always finite, and how good they are.
struct bounded_fit {
  Eigen::VectorXd weights;
  bounded_report report;
};

}  // namespace kvfit::linalg

namespace kvfit::linalg::inline KVFIT_ISA {

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
template <class = void>
[[nodiscard]] inline double kkt_residual(const const_vector_ref& weights,
                                         const const_vector_ref& gradient, const box& bounds,
                                         double scale) noexcept {
  double worst = 0;
  for (Eigen::Index j = 0; j < weights.size(); ++j) {
    worst = std::max(worst, kkt_violation(weights[j], gradient[j], bounds));
  }
  return scale > 0 ? worst / scale : worst;
}

/// The scale `kkt_residual` is relative to; see there. `gram_row_sums` = G·1.
template <class = void>
[[nodiscard]] inline double kkt_scale(const const_vector_ref& moment,
                                      const const_vector_ref& gram_row_sums, const box& bounds) {
  if (moment.size() == 0) return 0;
  const double from_target = moment.cwiseAbs().maxCoeff();
  if (!std::isfinite(bounds.lower) || bounds.lower == 0) return from_target;
  return std::max(from_target, std::abs(bounds.lower) * gram_row_sums.cwiseAbs().maxCoeff());
}

/// Counts the weights on either bound into the report.
template <class = void>
inline void count_bounds(const const_vector_ref& weights, const box& bounds,
                         bounded_report& report) noexcept {
  report.at_lower = (weights.array() == bounds.lower).count();
  report.at_upper = (weights.array() == bounds.upper).count();
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
