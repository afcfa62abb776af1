// SPDX-License-Identifier: MIT
/// Minimises a function of many variables by Adam.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

struct adam_options {
  double learning_rate = 0.001;  ///< η > 0
  double least_share = 1;        ///< of η, which the cosine decay ends at, in [0, 1]; 1: no decay
  double mean_decay = 0.9;       ///< β₁ in [0, 1)
  double square_decay = 0.999;   ///< β₂ in [0, 1)
  double epsilon = 1e-8;         ///< ε > 0
  /// A run ends after this many values in a row that were not below the mark by more than
  /// `improvement`, ≥ 1. The mark is the last value that was.
  int patience = (std::numeric_limits<int>::max)();
  double improvement = 0;  ///< ≥ 0
};

struct adam_report {
  int steps = 0;        ///< taken
  int evaluations = 0;  ///< of the function: one more than steps
  int best_step = 0;    ///< steps after which x stood where it is left
  double start = 0;     ///< value before the first step
  double end = 0;       ///< least value seen, that of x: never above `start`
};

/// What a run of Adam on `size` variables works in, x aside.
struct adam_buffers {
  Eigen::VectorXd gradient;
  Eigen::VectorXd best;
  std::vector<double> mean;
  std::vector<double> square;

  void declare(workspace& space, index_t size) {
    space.add_vectors(size, gradient, best, mean, square);
  }
};

/// Adam (Kingma & Ba 2015, algorithm 1) with cosine decay (Loshchilov & Hutter 2017, equation 5,
/// without restarts). With g the gradient and all operations element by element, step k = 0, 1, …
/// of `steps` is
///
///     m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
///     η_k = η (s + (1 − s) (1 + cos(π k / steps)) / 2),   s = least_share
///     x ← x − η_k m / (1 − β₁^{k+1}) / (√(v / (1 − β₂^{k+1})) + ε)
///
/// The function is `double f(const Eigen::VectorXd& x, Eigen::VectorXd& gradient)`; the gradient
/// comes with the size of x.
class adam {
 public:
  explicit adam(const adam_options& options) : options_(options) {}

  /// Takes at most `steps` steps and leaves in `x` the point of the least value seen, the start
  /// included: steps need not descend. Ends early at patience's end, and where a value or a
  /// gradient isn't finite. Every run starts anew, with m = v = 0. Cost a step: one evaluation and
  /// a few passes over x. Allocates four vectors like x, none of them in the loop.
  template <class Function>
  adam_report minimise(Function&& f, Eigen::VectorXd& x, int steps) const {
    adam_report report;
    const Eigen::Index size = x.size();
    adam_buffers own;
    allocate_buffers(own, size);
    auto& [gradient, best, mean, square] = own;
    best = x;
    double mark = std::numeric_limits<double>::infinity();
    int in_vain = 0;
    double mean_left = 1;  // β₁ᵏ
    double square_left = 1;
    for (;;) {
      const double value = f(x, gradient);
      ++report.evaluations;
      if (report.steps == 0) report.start = report.end = value;
      if (!std::isfinite(value)) break;
      if (value < report.end) {
        report.end = value;
        report.best_step = report.steps;
        best = x;
      }
      if (value < mark - options_.improvement) {
        mark = value;
        in_vain = 0;
      } else if (++in_vain >= options_.patience) {
        break;
      }
      if (report.steps >= steps || !is_finite(gradient)) break;
      mean_left *= options_.mean_decay;
      square_left *= options_.square_decay;
      const double length = rate(report.steps, steps) / (1 - mean_left);
      for (Eigen::Index i = 0; i < size; ++i) {
        double& m = mean[static_cast<std::size_t>(i)];
        double& v = square[static_cast<std::size_t>(i)];
        const double g = gradient[i];
        m = options_.mean_decay * m + (1 - options_.mean_decay) * g;
        v = options_.square_decay * v + (1 - options_.square_decay) * (g * g);
        x[i] -= length * m / (std::sqrt(v / (1 - square_left)) + options_.epsilon);
      }
      ++report.steps;
    }
    x = best;
    return report;
  }

 private:
  static bool is_finite(const Eigen::VectorXd& x) {
    for (Eigen::Index i = 0; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) return false;
    }
    return true;
  }

  /// η_k.
  [[nodiscard]] double rate(int step, int steps) const {
    const double share = options_.least_share;
    const double turn = std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps);
    return options_.learning_rate * (share + (1 - share) * 0.5 * (1 + std::cos(turn)));
  }

  adam_options options_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
