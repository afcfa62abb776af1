// SPDX-License-Identifier: MIT
/// Minimises a smooth function of many variables by limited-memory BFGS.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

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

/// What a run of L-BFGS on `size` variables works in, x aside.
struct lbfgs_buffers {
  Eigen::VectorXd gradient;
  Eigen::VectorXd next;
  Eigen::VectorXd next_gradient;
  Eigen::VectorXd direction;

  void declare(workspace& space, index_t size) {
    space.add_vectors(size, gradient, next, next_gradient, direction);
  }
  /// The same with the pairs that at most `steps` steps leave.
  void declare(workspace& space, index_t size, int memory, int steps) {
    declare(space, size);
    space.count(double_bytes(2 * ((std::min)(memory, steps) + 1), size));
  }
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
  /// evaluations and 4 · memory · |x| multiply-adds. Allocates 2 · (memory + 3) vectors like x at
  /// most.
  template <class Function>
  lbfgs_report minimise(Function&& f, Eigen::VectorXd& x, int steps) {
    const index_t size = x.size();
    lbfgs_report report;
    lbfgs_buffers own;
    allocate_buffers(own, size);
    auto& [gradient, next, next_gradient, direction] = own;
    double value = f(x, gradient);
    ++report.evaluations;
    report.start = report.end = value;
    if (!std::isfinite(value)) return report;
    for (int k = 0; k < steps; ++k) {
      double slope = find_direction(gradient, direction);
      if (!(slope < 0)) {  // curvature of another batch, or the minimum
        pairs_.clear();
        slope = find_direction(gradient, direction);
        if (!(slope < 0)) break;
      }
      double length = 1;
      bool descends = false;
      for (int halving = 0; halving < 20 && !descends; ++halving) {
        for (index_t i = 0; i < size; ++i) next[i] = x[i] + length * direction[i];
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

  void remember(const Eigen::VectorXd& x, const Eigen::VectorXd& next,
                const Eigen::VectorXd& gradient, const Eigen::VectorXd& next_gradient) {
    const index_t size = x.size();
    pair made{Eigen::VectorXd(size), Eigen::VectorXd(size), 0};
    for (index_t i = 0; i < size; ++i) {
      made.step[i] = next[i] - x[i];
      made.change[i] = next_gradient[i] - gradient[i];
    }
    made.product = simd::dot(made.step.data(), made.change.data(), size);
    const double lengths = std::sqrt(simd::squared_norm(made.step.data(), size)) *
                           std::sqrt(simd::squared_norm(made.change.data(), size));
    if (!(made.product > 1e-12 * lengths)) return;  // no curvature along it
    if (pairs_.size() == static_cast<std::size_t>(options_.memory)) pairs_.erase(pairs_.begin());
    pairs_.push_back(std::move(made));
  }

  /// direction ← −H g, H the approximate inverse Hessian: the two-loop recursion. Returns the slope
  /// gᵀ direction.
  double find_direction(const Eigen::VectorXd& gradient, Eigen::VectorXd& direction) const {
    const index_t size = gradient.size();
    double* const q = direction.data();
    std::copy_n(gradient.data(), size, q);
    if (pairs_.empty()) {
      const double norm = std::sqrt(simd::squared_norm(q, size));
      simd::scale(q, norm > 0 ? -options_.first_step / norm : -1, size);
      return simd::dot(gradient.data(), q, size);
    }
    std::vector<double> along(pairs_.size());
    for (std::size_t k = pairs_.size(); k-- > 0;) {
      along[k] = simd::dot(pairs_[k].step.data(), q, size) / pairs_[k].product;
      simd::add_scaled(q, -along[k], pairs_[k].change.data(), size);
    }
    const pair& last = pairs_.back();
    simd::scale(q, last.product / simd::squared_norm(last.change.data(), size), size);
    for (std::size_t k = 0; k < pairs_.size(); ++k) {
      const double back = simd::dot(pairs_[k].change.data(), q, size) / pairs_[k].product;
      simd::add_scaled(q, along[k] - back, pairs_[k].step.data(), size);
    }
    simd::scale(q, -1, size);
    return simd::dot(gradient.data(), q, size);
  }

  lbfgs_options options_;
  std::vector<pair> pairs_;  // the oldest first
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
