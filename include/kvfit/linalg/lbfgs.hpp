// SPDX-License-Identifier: MIT
/// Minimises a smooth function of many variables by limited-memory BFGS.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/simd/double_vectors.hpp"

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
    const index_t size = x.size();
    Eigen::VectorXd gradient(size);
    double value = f(x, gradient);
    ++report.evaluations;
    report.start = report.end = value;
    if (!std::isfinite(value)) return report;
    Eigen::VectorXd direction(size);
    Eigen::VectorXd next(size);
    Eigen::VectorXd next_gradient(size);
    for (int k = 0; k < steps; ++k) {
      const double slope = find_direction(gradient, direction);
      if (!(slope < 0)) break;
      double length = 1;
      bool descends = false;
      for (int halving = 0; halving < 20 && !descends; ++halving) {
        for (index_t j = 0; j < size; ++j) next[j] = x[j] + length * direction[j];
        const double trial = f(next, next_gradient);
        ++report.evaluations;
        descends = std::isfinite(trial) && trial <= value + 1e-4 * length * slope;
        if (descends) {
          remember(x, next, gradient, next_gradient);
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

  /// direction = −H gradient, its slope returned: not below 0 at the minimum alone.
  double find_direction(const Eigen::VectorXd& gradient, Eigen::VectorXd& direction) {
    apply_inverse(gradient, direction);
    double slope = simd::dot(gradient.data(), direction.data(), gradient.size());
    if (slope < 0) return slope;
    pairs_.clear();  // curvature of another batch
    apply_inverse(gradient, direction);
    slope = simd::dot(gradient.data(), direction.data(), gradient.size());
    return slope;
  }

  void remember(const Eigen::VectorXd& x, const Eigen::VectorXd& next,
                const Eigen::VectorXd& gradient, const Eigen::VectorXd& next_gradient) {
    const index_t size = x.size();
    pair made{Eigen::VectorXd(size), Eigen::VectorXd(size), 0};
    double* step = made.step.data();
    double* change = made.change.data();
    for (index_t j = 0; j < size; ++j) {
      step[j] = next[j] - x[j];
      change[j] = next_gradient[j] - gradient[j];
    }
    made.product = simd::dot(step, change, size);
    const double lengths =
        std::sqrt(simd::squared_norm(step, size)) * std::sqrt(simd::squared_norm(change, size));
    if (!(made.product > 1e-12 * lengths)) return;  // no curvature along it
    if (pairs_.size() == static_cast<std::size_t>(options_.memory)) pairs_.erase(pairs_.begin());
    pairs_.push_back(std::move(made));
  }

  /// out = −H g, H the approximate inverse Hessian: the two-loop recursion.
  void apply_inverse(const Eigen::VectorXd& gradient, Eigen::VectorXd& out) const {
    const index_t size = gradient.size();
    double* q = out.data();
    for (index_t j = 0; j < size; ++j) q[j] = -gradient[j];
    if (pairs_.empty()) {
      const double norm = std::sqrt(simd::squared_norm(q, size));
      if (norm > 0) simd::scale(q, options_.first_step / norm, size);
      return;
    }
    std::vector<double> along(pairs_.size());
    for (std::size_t k = pairs_.size(); k-- > 0;) {
      const pair& past = pairs_[k];
      along[k] = simd::dot(past.step.data(), q, size) / past.product;
      simd::add_scaled(q, -along[k], past.change.data(), size);
    }
    const pair& last = pairs_.back();
    simd::scale(q, last.product / simd::squared_norm(last.change.data(), size), size);
    for (std::size_t k = 0; k < pairs_.size(); ++k) {
      const pair& past = pairs_[k];
      const double back = simd::dot(past.change.data(), q, size) / past.product;
      simd::add_scaled(q, along[k] - back, past.step.data(), size);
    }
  }

  lbfgs_options options_;
  std::vector<pair> pairs_;  // the oldest first
};

/// Bytes of an `lbfgs` with the vectors that a run of at most `steps` steps on `size` variables
/// holds besides, x aside.
inline double lbfgs_bytes(const lbfgs_options& options, int steps, index_t size) noexcept {
  const int pairs = std::min(options.memory, steps) + 1;
  return double_bytes(2 * pairs + 8, size);
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
