// SPDX-License-Identifier: MIT
/// Minimises a smooth function of many variables by limited-memory BFGS.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <deque>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

struct lbfgs_options {
  int memory = 10;        ///< pairs of steps and gradient changes kept, ≥ 1
  double first_step = 1;  ///< length of the very first trial step, > 0
};

struct lbfgs_report {
  int steps = 0;        ///< steps taken
  int evaluations = 0;  ///< of the function, line searches included
  double start = 0;     ///< value before the first step
  double end = 0;       ///< value after the last one: never above `start`
};

/// L-BFGS (Nocedal & Wright 2006, algorithms 7.4 and 7.5) with Armijo backtracking. What it learned
/// of the curvature outlives a run, so that a slightly different function (another batch of data)
/// can be gone on with.
///
/// The function is `double f(const Eigen::VectorXd& x, Eigen::VectorXd& gradient)`. A value that
/// isn't finite counts as too high. Every step descends: f(x_{k+1}) ≤ f(x_k) + 1e-4 gᵀs.
class lbfgs {
 public:
  explicit lbfgs(const lbfgs_options& options) : options_(options) {}

  /// Moves `x` by at most `steps` steps; ends early where no step descends. Cost a step: one or two
  /// evaluations and 4 · memory · |x| multiply-adds. Allocates 2 · (memory + 2) vectors like x.
  template <class Function>
  lbfgs_report minimise(Function&& f, Eigen::VectorXd& x, int steps) {
    lbfgs_report report;
    Eigen::VectorXd gradient(x.size());
    double value = f(x, gradient);
    ++report.evaluations;
    report.start = report.end = value;
    if (!std::isfinite(value)) return report;
    Eigen::VectorXd next(x.size());
    Eigen::VectorXd next_gradient(x.size());
    for (int k = 0; k < steps; ++k) {
      Eigen::VectorXd direction = -apply_inverse(gradient);
      double slope = gradient.dot(direction);
      if (!(slope < 0)) {  // curvature of another batch, or the minimum
        pairs_.clear();
        direction = -apply_inverse(gradient);
        slope = gradient.dot(direction);
        if (!(slope < 0)) break;
      }
      double length = 1;
      bool descends = false;
      for (int halving = 0; halving < 20 && !descends; ++halving) {
        next = x + length * direction;
        const double trial = f(next, next_gradient);
        ++report.evaluations;
        descends = std::isfinite(trial) && trial <= value + 1e-4 * length * slope;
        if (descends) {
          remember(next - x, next_gradient - gradient);
          value = trial;
        } else {
          length *= halving < 3 ? 0.5 : 0.2;
        }
      }
      if (!descends) break;
      x.swap(next);
      gradient.swap(next_gradient);
      ++report.steps;
    }
    report.end = value;
    return report;
  }

 private:
  struct pair {
    Eigen::VectorXd step;
    Eigen::VectorXd change;  // of the gradient
    double product;          // stepᵀ change > 0
  };

  void remember(Eigen::VectorXd step, Eigen::VectorXd change) {
    const double product = step.dot(change);
    if (!(product > 1e-12 * step.norm() * change.norm())) return;  // no curvature along it
    pairs_.push_back({std::move(step), std::move(change), product});
    if (pairs_.size() > static_cast<std::size_t>(options_.memory)) pairs_.pop_front();
  }

  /// H g, H the approximate inverse Hessian: the two-loop recursion.
  [[nodiscard]] Eigen::VectorXd apply_inverse(const Eigen::VectorXd& gradient) const {
    Eigen::VectorXd q = gradient;
    if (pairs_.empty()) {
      const double norm = q.norm();
      if (norm > 0) q *= options_.first_step / norm;
      return q;
    }
    std::vector<double> along(pairs_.size());
    for (std::size_t k = pairs_.size(); k-- > 0;) {
      along[k] = pairs_[k].step.dot(q) / pairs_[k].product;
      q -= along[k] * pairs_[k].change;
    }
    q *= pairs_.back().product / pairs_.back().change.squaredNorm();
    for (std::size_t k = 0; k < pairs_.size(); ++k) {
      const double back = pairs_[k].change.dot(q) / pairs_[k].product;
      q += (along[k] - back) * pairs_[k].step;
    }
    return q;
  }

  lbfgs_options options_;
  std::deque<pair> pairs_;
};

/// Bytes of an `lbfgs` with the vectors that a run of at most `steps` steps on `size` variables
/// holds besides, x aside.
inline double lbfgs_bytes(const lbfgs_options& options, int steps, Eigen::Index size) noexcept {
  const int pairs = std::min(options.memory, steps) + 1;
  return double_bytes(2 * pairs + 8, size);
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
