// SPDX-License-Identifier: MIT
/// The published gradient methods: keys, biases and values moved down a loss.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "kvfit/core/config.hpp"
#include "kvfit/linalg/adam.hpp"
#include "kvfit/linalg/lbfgs.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/compact_point.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "kvfit/refine/matching_loss.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace refine_detail {

/// Pairs that L-BFGS keeps.
inline int lbfgs_memory(const gradient_keys& settings) noexcept {
  return settings.loss == gradient_loss::log_mass ? 100 : 10;
}

/// L-BFGS in runs as long as the patience, ended by one that improves too little.
template <class Loss>
gradient_report descend_lbfgs(const gradient_keys& settings, const Loss& loss, Eigen::VectorXd& x) {
  const double length = std::sqrt(simd::squared_norm(x.data(), x.size()));
  linalg::lbfgs descent(
      {.memory = lbfgs_memory(settings), .first_step = (std::max)(0.02 * length, 1e-6)});
  gradient_report report;
  do {
    const int left = settings.steps - report.steps;
    const linalg::lbfgs_report run = descent.minimise(loss, x, (std::min)(settings.patience, left));
    if (report.evaluations == 0) report.start_loss = run.start;
    report.loss = run.end;
    report.steps += run.steps;
    report.evaluations += run.evaluations;
    if (run.steps < settings.patience || !(run.start - run.end > settings.improvement)) break;
  } while (report.steps < settings.steps);
  report.kept_steps = report.steps;
  return report;
}

template <class Loss>
gradient_report descend_adam(const gradient_keys& settings, const Loss& loss, Eigen::VectorXd& x) {
  const linalg::adam descent({.learning_rate = settings.learning_rate,
                              .least_share = settings.least_share,
                              .patience = settings.patience,
                              .improvement = settings.improvement});
  const linalg::adam_report run = descent.minimise(loss, x, settings.steps);
  return {.steps = run.steps,
          .evaluations = run.evaluations,
          .kept_steps = run.best_step,
          .start_loss = run.start,
          .loss = run.end};
}

}  // namespace refine_detail

/// Moves `point` to the least loss that the optimiser meets on its way over `batch`, its start
/// included; where the loss isn't finite there, the point stays. What is left is finite and has the
/// loss reported, to the bit. `soft_cap`: of the logits, 0 for none. The settings are not checked.
///
/// Once `stop` is due, checked before every evaluation, the descent ends as where the loss isn't
/// finite; the caller asks it whether it was.
///
/// The same bytes for the same input. Cost: an evaluation of `matching_loss` a step, with L-BFGS
/// one or two. Memory: that loss and, in vectors like the point but of doubles, five for Adam, and
/// for L-BFGS two for each of the pairs it keeps (100 for `log_mass`, 10 for `joint`).
inline gradient_report descend(const gradient_keys& settings, const refine_batch& batch,
                               float soft_cap, compact_point& point, const stop_when& stop = {}) {
  matching_loss whole(settings, batch, point.keys.rows(), soft_cap);
  const auto loss = [&](const Eigen::VectorXd& at, Eigen::VectorXd& gradient) {
    return stop.is_due() ? std::numeric_limits<double>::infinity() : whole(at, gradient);
  };
  const point_layout& at = whole.layout();
  Eigen::VectorXd x(at.size());
  std::copy_n(point.keys.data(), at.bias(), x.data());
  std::copy_n(point.bias.data(), at.rows, x.data() + at.bias());
  std::copy_n(point.values.data(), at.rows * at.width, x.data() + at.values());

  const gradient_report report = settings.optimiser == gradient_optimiser::adam
                                     ? refine_detail::descend_adam(settings, loss, x)
                                     : refine_detail::descend_lbfgs(settings, loss, x);
  const auto place = [&x](index_t from, index_t count, float* to) {
    for (index_t k = 0; k < count; ++k) to[k] = static_cast<float>(x[from + k]);
  };
  place(0, at.bias(), point.keys.data());
  place(at.bias(), at.rows, point.bias.data());
  place(at.values(), at.rows * at.width, point.values.data());
  return report;
}

/// What `descend` holds for t = `sizes.budget` rows, batch and point aside.
inline void declare(workspace& space, const gradient_keys& settings, const head_sizes& sizes,
                    bool is_capped) {
  const bool has_values = settings.loss == gradient_loss::joint;
  const point_layout layout{sizes.budget, sizes.depth, has_values ? sizes.width : 0};
  matching_buffers().declare(space, layout, is_capped);
  space.count(double_bytes(layout.size()));
  if (settings.optimiser == gradient_optimiser::adam) {
    linalg::adam_buffers().declare(space, layout.size());
  } else {
    linalg::lbfgs_buffers().declare(space, layout.size(), refine_detail::lbfgs_memory(settings),
                                    settings.steps);
  }
}

/// What `any_gradient` calls.
inline gradient_report descend_gradient(const gradient_keys& settings, const void* batch,
                                        float soft_cap, void* point, const stop_when& stop) {
  return descend(settings, *static_cast<const refine_batch*>(batch), soft_cap,
                 *static_cast<compact_point*>(point), stop);
}
}  // namespace KVFIT_ISA
}  // namespace kvfit
