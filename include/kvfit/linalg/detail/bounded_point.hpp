// SPDX-License-Identifier: MIT
/// A point inside the box with all that a bounded solver asks about it.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <vector>

#include "kvfit/linalg/bounded_fit.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/gram.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// min ½ wᵀG w − hᵀw + ½ yᵀy over a box, and the gradients too small to act on.
struct bounded_problem {
  const normal_equations& data;
  const box& bounds;
  double scale = 0;       ///< of the reported KKT residual
  Eigen::VectorXd slack;  ///< per weight: a gradient below this asks for nothing

  bounded_problem(const normal_equations& equations, const box& limits, double tolerance)
      : data(equations), bounds(limits), slack(equations.moment.size()) {
    const Eigen::VectorXd row_sums = data.gram.rowwise().sum();
    scale = kkt_scale(data.moment, row_sums, bounds);
    // The same scale measured in column lengths, so that a short column's gradient counts too.
    double scaled = 0;
    const bool has_floor = std::isfinite(bounds.lower) && bounds.lower != 0;
    for (Eigen::Index j = 0; j < slack.size(); ++j) {
      const double length_sq = data.gram(j, j);
      if (!(length_sq > 0)) continue;
      const double from_floor = has_floor ? std::abs(bounds.lower * row_sums[j]) : 0.0;
      scaled =
          std::max(scaled, std::max(std::abs(data.moment[j]), from_floor) / std::sqrt(length_sq));
    }
    for (Eigen::Index j = 0; j < slack.size(); ++j) {
      const double length = std::sqrt(std::max(data.gram(j, j), 0.0));
      slack[j] = 0.1 * tolerance * std::min(scale, scaled * length);
    }
  }

  /// Whether weight j can be anything but what it is: its column is not 0, its bounds differ.
  [[nodiscard]] bool movable(Eigen::Index j) const {
    return data.gram(j, j) > 0 && bounds.lower < bounds.upper;
  }
};

/// Weights inside the box, their gradient and loss.
struct bounded_point {
  Eigen::VectorXd weights;
  Eigen::VectorXd gradient;  ///< G w − h
  double objective = 0;

  /// Moves to `target`, clipped. Cost 2·t² flops.
  void move_to(const bounded_problem& problem, const Eigen::VectorXd& target) {
    weights = target;
    problem.bounds.clip(weights);
    gradient.noalias() = problem.data.gram * weights;
    // In this order: where it is NaN it stays NaN, and is no better than any other.
    objective = std::max(0.5 * weights.dot(gradient) - problem.data.moment.dot(weights) +
                             0.5 * problem.data.target_sq,
                         0.0);
    gradient -= problem.data.moment;
  }

  [[nodiscard]] double residual(const bounded_problem& problem) const {
    return kkt_residual(weights, gradient, problem.bounds, problem.scale);
  }

  /// The weights between the bounds, or on a bound with a gradient that pulls them inside.
  [[nodiscard]] std::vector<Eigen::Index> free_set(const bounded_problem& problem) const {
    std::vector<Eigen::Index> out;
    const box& bounds = problem.bounds;
    for (Eigen::Index j = 0; j < weights.size(); ++j) {
      if (!problem.movable(j)) continue;
      const bool between = weights[j] > bounds.lower && weights[j] < bounds.upper;
      if (between || kkt_violation(weights[j], gradient[j], bounds) > problem.slack[j]) {
        out.push_back(j);
      }
    }
    return out;
  }
};

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
