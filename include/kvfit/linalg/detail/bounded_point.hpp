// SPDX-License-Identifier: MIT
/// A point inside the box with all that a bounded solver asks about it.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <vector>

#include "kvfit/linalg/bounded_fit.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// min ½ wᵀG w − hᵀw + ½ yᵀy over a box, and the gradients too small to act on.
struct bounded_problem {
  const normal_equations& data;
  const box& bounds;
  double scale = 0;       ///< of the reported KKT residual
  Eigen::VectorXd slack;  ///< per weight: a gradient below this asks for nothing

  bounded_problem(const normal_equations& equations, const box& limits, double tolerance)
      : data(equations), bounds(limits), slack(equations.moment.size()) {
    const index_t t = slack.size();
    Eigen::VectorXd ones(t);
    Eigen::VectorXd row_sums(t);
    for (index_t j = 0; j < t; ++j) ones[j] = 1;
    multiply_symmetric(data.gram.data(), t, t, ones.data(), row_sums.data());
    scale = kkt_scale(data.moment, row_sums, bounds);
    // The same scale measured in column lengths, so that a short column's gradient counts too.
    double scaled = 0;
    const bool has_floor = std::isfinite(bounds.lower) && bounds.lower != 0;
    for (index_t j = 0; j < slack.size(); ++j) {
      const double length_sq = data.gram(j, j);
      if (!(length_sq > 0)) continue;
      const double from_floor = has_floor ? std::abs(bounds.lower * row_sums[j]) : 0.0;
      scaled = (std::max)(scaled,
                          (std::max)(std::abs(data.moment[j]), from_floor) / std::sqrt(length_sq));
    }
    for (index_t j = 0; j < slack.size(); ++j) {
      const double length = std::sqrt((std::max)(data.gram(j, j), 0.0));
      slack[j] = 0.1 * tolerance * (std::min)(scale, scaled * length);
    }
  }

  /// Whether weight j can be anything but what it is: its column is not 0, its bounds differ.
  [[nodiscard]] bool movable(index_t j) const {
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
    const index_t t = target.size();
    const normal_equations& data = problem.data;
    weights = target;
    problem.bounds.clip(weights);
    gradient.resize(t);
    multiply_symmetric(data.gram.data(), t, t, weights.data(), gradient.data());
    // In this order: where it is NaN it stays NaN, and is no better than any other.
    objective =
        (std::max)(0.5 * simd::dot(weights.data(), gradient.data(), t) -
                       simd::dot(data.moment.data(), weights.data(), t) + 0.5 * data.target_sq,
                   0.0);
    for (index_t j = 0; j < t; ++j) gradient[j] -= data.moment[j];
  }

  [[nodiscard]] double residual(const bounded_problem& problem) const {
    return kkt_residual(weights, gradient, problem.bounds, problem.scale);
  }

  /// The weights between the bounds, or on a bound with a gradient that pulls them inside.
  [[nodiscard]] std::vector<index_t> free_set(const bounded_problem& problem) const {
    std::vector<index_t> out;
    const box& bounds = problem.bounds;
    for (index_t j = 0; j < weights.size(); ++j) {
      if (!problem.movable(j)) continue;
      const bool between = weights[j] > bounds.lower && weights[j] < bounds.upper;
      if (between || kkt_violation(weights[j], gradient[j], bounds) > problem.slack[j]) {
        out.push_back(j);
      }
    }
    return out;
  }
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
