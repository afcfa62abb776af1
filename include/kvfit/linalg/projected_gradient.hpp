// SPDX-License-Identifier: MIT
/// Bounded weights by plain projected gradient steps, as published.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <optional>

#include "kvfit/linalg/bounded_fit.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

struct projected_gradient_options {
  box bounds = {};
  int iterations = 2;                          ///< 0 clips the start, nothing else
  power_options power = {};                    ///< how σ is estimated
  std::optional<double> sigma = std::nullopt;  ///< σ where it is known: no power iteration then
};

/// w ← clip(start), then `iterations` times w ← clip(w − η Mᵀ(M w − y)) with η = 1/max(σ², 1e-6)
/// (docs/algorithm.md, Weights). No acceleration and no stopping test.
///
/// `m` n × t fp32; `y` n; `start` t. The weights are inside the box after every step. σ comes from
/// below, so a step may be too long: where the loss ends above its lowest value, the weights of
/// that lowest value are returned with status `diverged`. Status `optimal` is given where the KKT
/// residual happens to be ≤ 1e-8. Cost 4·n·t flops a step, and one more for the report; allocates
/// 8·t doubles.
[[nodiscard]] inline bounded_fit projected_gradient(
    const const_matrix_ref& m, const kvfit::vector& y, const Eigen::VectorXd& start,
    const projected_gradient_options& options = {}) {
  assert(y.size() == m.rows() && start.size() == m.cols());
  const box& bounds = options.bounds;
  const index_t t = m.cols();
  bounded_fit out;
  out.weights = start;
  bounds.clip(out.weights);

  Eigen::VectorXd gradient(t);
  Eigen::VectorXd moment;
  Eigen::VectorXd row_sums;
  Eigen::VectorXd ones(t);
  moment.setZero(t);
  row_sums.setZero(t);
  std::fill_n(ones.data(), t, 1.0);
  // One sweep over the rows: gradient = Mᵀ(M w − y), returns ½‖M w − y‖². The first sweep also
  // gathers what the KKT residual is measured against.
  const auto sweep = [&](const Eigen::VectorXd& w, bool is_first) {
    double objective = 0;
    gradient.setZero(t);
    detail::for_row_groups(m.data(), m.outerStride(), m.rows(), t,
                           [&](const auto& rows, index_t first) {
                             auto residuals = rows.times(w.data());
                             auto targets = residuals;
                             for (std::size_t r = 0; r < residuals.size(); ++r) {
                               targets[r] = static_cast<double>(y[first + static_cast<index_t>(r)]);
                               residuals[r] -= targets[r];
                               objective += 0.5 * residuals[r] * residuals[r];
                             }
                             rows.add_to(gradient.data(), residuals);
                             if (!is_first) return;
                             rows.add_to(moment.data(), targets);
                             rows.add_to(row_sums.data(), rows.times(ones.data()));
                           });
    return objective;
  };
  const auto is_finite = [&](double objective) {
    return std::isfinite(objective) && simd::all_finite(gradient.data(), t);
  };

  bounded_report& report = out.report;
  double objective = sweep(out.weights, true);
  report.start_objective = objective;
  report.objective = objective;
  if (!is_finite(objective)) {
    report.status = bounded_status::non_finite_input;
    count_bounds(out.weights, bounds, report);
    return out;
  }

  double sigma = options.sigma.value_or(0.0);
  if (options.iterations > 0 && !options.sigma)
    sigma = largest_singular_value(m, options.power).sigma;
  const double step = 1.0 / (std::max)(sigma * sigma, 1e-6);
  Eigen::VectorXd current = out.weights;
  Eigen::VectorXd best_gradient = gradient;
  for (; report.iterations < options.iterations; ++report.iterations) {
    simd::add_scaled(current.data(), -step, gradient.data(), t);
    bounds.clip(current);
    objective = sweep(current, false);
    if (!is_finite(objective)) break;
    if (objective <= report.objective) {
      report.objective = objective;
      out.weights = current;
      best_gradient = gradient;
    }
  }

  report.kkt_residual =
      kkt_residual(out.weights, best_gradient, bounds, kkt_scale(moment, row_sums, bounds));
  count_bounds(out.weights, bounds, report);
  if (!(objective <= report.objective)) {
    report.status = bounded_status::diverged;
  } else {
    report.status =
        report.kkt_residual <= 1e-8 ? bounded_status::optimal : bounded_status::iteration_limit;
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
