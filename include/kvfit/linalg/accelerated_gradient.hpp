// SPDX-License-Identifier: MIT
/// Bounded weights by accelerated projected gradient steps on the normal equations.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>

#include "kvfit/linalg/bounded_fit.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

struct accelerated_gradient_options {
  box bounds = {};
  int iterations = 500;      ///< at most
  double tolerance = 1e-6;   ///< on the relative KKT residual
  power_options power = {};  ///< first guess of the step length
};

/// min ½ wᵀG w − hᵀw + ½ yᵀy over the box by FISTA (Beck & Teboulle 2009, §4) with gradient restart
/// (O'Donoghue & Candès 2015, §3.2), stopping on the KKT residual.
///
/// `problem` as `form_normal_equations` makes it, t × t; `start` t weights. Steps are measured in
/// column lengths (w_j moves by g_j / (L·G_jj)), so long and short columns advance alike; L starts
/// at the power estimate and is raised whenever a step meets more curvature. The weights are inside
/// the box after every step, and the best ones met are returned. Cost 2·t² flops a step; allocates
/// 12·t doubles.
template <class = void>
[[nodiscard]] inline bounded_fit accelerated_gradient(
    const normal_equations& problem, const const_vector_ref& start,
    const accelerated_gradient_options& options = {}) {
  const Eigen::MatrixXd& gram = problem.gram;
  const Eigen::VectorXd& moment = problem.moment;
  const box& bounds = options.bounds;
  const Eigen::Index t = moment.size();
  assert(gram.rows() == t && gram.cols() == t && start.size() == t);

  bounded_fit out;
  out.weights = start;
  bounds.clip(out.weights);
  bounded_report& report = out.report;
  if (t == 0) {
    report.status = bounded_status::optimal;
    report.objective = report.start_objective = 0.5 * problem.target_sq;
    return out;
  }
  Eigen::VectorXd weights = out.weights;
  Eigen::VectorXd image = gram * weights;  // G w, carried along: one product a step
  const auto objective_of = [&](const Eigen::VectorXd& w, const Eigen::VectorXd& gw) {
    // In this order: where it is NaN it stays NaN.
    return std::max(0.5 * w.dot(gw) - moment.dot(w) + 0.5 * problem.target_sq, 0.0);
  };
  report.start_objective = report.objective = objective_of(weights, image);
  if (!std::isfinite(report.objective) || !moment.allFinite() || !gram.allFinite()) {
    report.status = bounded_status::non_finite_input;
    count_bounds(out.weights, bounds, report);
    return out;
  }
  const double scale = kkt_scale(moment, gram.rowwise().sum(), bounds);

  // The metric: squared column lengths. A zero column has no gradient and never moves.
  const Eigen::VectorXd metric = gram.diagonal().cwiseMax(0.0);
  const Eigen::VectorXd inverse_metric =
      metric.unaryExpr([](double d) { return d > 0 ? 1.0 / d : 0.0; });
  const Eigen::VectorXd scaling = inverse_metric.cwiseSqrt();
  Eigen::VectorXd scaled(t);
  const power_estimate estimate = detail::power_iterate(
      t, options.power, [&](const Eigen::VectorXd& u, Eigen::VectorXd& image_of_u) {
        scaled = scaling.cwiseProduct(u);
        image_of_u.noalias() = gram * scaled;
        image_of_u.array() *= scaling.array();
      });
  double curvature = std::max(estimate.sigma * estimate.sigma, 1.0);  // the scaled diagonal is 1

  Eigen::VectorXd previous = weights;
  Eigen::VectorXd previous_image = image;
  Eigen::VectorXd point(t);
  Eigen::VectorXd point_image(t);
  double momentum = 1;
  report.kkt_residual = kkt_residual(weights, image - moment, bounds, scale);
  while (report.kkt_residual > options.tolerance && report.iterations < options.iterations) {
    ++report.iterations;
    const double next_momentum = 0.5 * (1 + std::sqrt(1 + 4 * momentum * momentum));
    const double carry = (momentum - 1) / next_momentum;
    momentum = next_momentum;
    point = weights + carry * (weights - previous);
    point_image = image + carry * (image - previous_image);
    previous.swap(weights);
    previous_image.swap(image);
    for (;;) {
      weights = point.array() - (point_image - moment).array() * inverse_metric.array() / curvature;
      bounds.clip(weights);
      image.noalias() = gram * weights;
      // Does the step meet more curvature than allowed for? Then take it again, shorter. λ_max of
      // a matrix with unit diagonal is at most t.
      scaled = weights - point;
      const double met = scaled.dot(image - point_image);
      const double allowed = scaled.cwiseAbs2().dot(metric);
      if (!(met > 1.001 * curvature * allowed) || curvature > static_cast<double>(t)) break;
      curvature = std::max(1.02 * met / allowed, 1.1 * curvature);
    }
    // Where the step turns back against the momentum, forget the momentum.
    scaled = (point - weights).cwiseProduct(metric);
    if (scaled.dot(weights - previous) > 0) momentum = 1;

    const double objective = objective_of(weights, image);
    if (!std::isfinite(objective)) break;
    const double residual = kkt_residual(weights, image - moment, bounds, scale);
    if (objective < report.objective || residual <= options.tolerance) {
      report.objective = objective;
      report.kkt_residual = residual;
      out.weights = weights;
    }
  }
  report.status = report.kkt_residual <= options.tolerance ? bounded_status::optimal
                                                           : bounded_status::iteration_limit;
  count_bounds(out.weights, bounds, report);
  return out;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
