// SPDX-License-Identifier: MIT
/// Least squares inside a box, solved to its optimality conditions.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kvfit/linalg/bounded_fit.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/detail/block_pivoting.hpp"
#include "kvfit/linalg/detail/bounded_point.hpp"
#include "kvfit/linalg/detail/free_block.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

struct bounded_nnls_options {
  box bounds = {};
  double tolerance = 1e-8;   ///< on the relative KKT residual, > 0
  int max_iterations = 300;  ///< each costs one Cholesky factor; 5 to 20 suffice unless n < t
};

/// Solves min ½ wᵀG w − hᵀw + ½ yᵀy, which is ½‖M w − y‖², subject to lower ≤ w ≤ upper, until
/// g = G w − h is ≥ 0 on the lower bound, ≤ 0 on the upper one and 0 between them.
///
/// Block principal pivoting finds the free weights in a handful of Cholesky factors (in double, of
/// G_FF plus a 1e-12 of its diagonal). Where columns nearly coincide it may cycle; then a proximal
/// term (Rockafellar 1976) ½ p·Σ_j G_jj (w_j − c_j)² ties it to the best weights c so far, with p
/// large enough for pivoting to end and lowered again as it does. Each such round lowers the loss,
/// and none ends anywhere but at an optimum of the problem without it.
///
/// `problem` as `form_normal_equations` makes it, t × t, of any rank; `start` t weights (clipped),
/// or empty: then clipped least squares is the first point tried. Dependent columns and n < t give
/// one of the many optima and `rank_deficient`; a zero column keeps its clipped start, or 0. The
/// answer is never worse than the clipped start or any point tried. Cost |F|³/3 + O(t²) flops an
/// iteration, the factors shared by `threads` (same bytes); allocates t² + O(t) doubles.
[[nodiscard]] inline bounded_fit bounded_nnls(const normal_equations& problem,
                                              const bounded_nnls_options& options = {},
                                              const Eigen::VectorXd& start = {},
                                              const executor_ref& threads = {}) {
  const index_t t = problem.moment.size();
  assert(problem.gram.rows() == t && problem.gram.cols() == t);
  assert(start.size() == 0 || start.size() == t);
  const box& bounds = options.bounds;
  bounded_fit out;
  bounded_report& report = out.report;
  out.weights = start;
  if (start.size() != t) out.weights.setZero(t);
  bounds.clip(out.weights);

  detail::bounded_point best;
  if (!simd::all_finite(problem.gram.data(), t * t) ||
      !simd::all_finite(problem.moment.data(), t) || !std::isfinite(problem.target_sq)) {
    report.status = bounded_status::non_finite_input;
    count_bounds(out.weights, bounds, report);
    return out;
  }
  if (t == 0) {
    report.status = bounded_status::optimal;
    report.objective = report.start_objective = 0.5 * problem.target_sq;
    return out;
  }
  const detail::bounded_problem bounded(problem, bounds, options.tolerance);
  detail::free_block block(problem.gram, threads);
  best.move_to(bounded, out.weights);
  report.start_objective = best.objective;

  bool optimal = best.residual(bounded) <= options.tolerance;
  std::vector<index_t> free = best.free_set(bounded);
  if (start.size() == 0) {
    free.clear();
    for (index_t j = 0; j < t; ++j) {
      if (bounded.movable(j)) free.push_back(j);
    }
  }
  constexpr double least = 1e-12;  // above the rounding of a Gram matrix in double
  double proximity = least;
  while (!optimal && report.iterations < options.max_iterations) {
    const detail::bounded_point center = best;
    const int before = report.iterations;
    const auto end = detail::block_pivoting(bounded, block, proximity, center, free, best,
                                            options.max_iterations, report.iterations);
    optimal = best.residual(bounded) <= options.tolerance;
    if (end == detail::pivoting_end::cycling) {
      if (proximity > 1e6) break;  // the term is all there is: nothing left to tame
      proximity = (std::max)(1e-4, 10 * proximity);
      free = best.free_set(bounded);
    } else if (proximity == least && !(best.objective < center.objective)) {
      break;  // as good as the arithmetic gets
    } else if (report.iterations - before <= 3) {
      proximity = (std::max)(least, 0.2 * proximity);
    }
  }

  out.weights = best.weights;
  report.status = optimal ? bounded_status::optimal : bounded_status::iteration_limit;
  report.objective = best.objective;
  report.kkt_residual = best.residual(bounded);
  report.factorizations = block.factorizations();
  report.rank_deficient = block.deficient();
  count_bounds(out.weights, bounds, report);
  return out;
}

/// What `bounded_nnls` of t weights holds, its result included.
inline void declare_bounded_nnls(workspace& space, index_t t) {
  detail::free_block_buffers().declare(space, t);
  detail::declare_triangular(space, t, t);
  space.count(double_bytes(29, t));  // points, their gradients and sets of weights
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
