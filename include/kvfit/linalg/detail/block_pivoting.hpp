// SPDX-License-Identifier: MIT
/// Block principal pivoting: exchange every weight that is on the wrong side, all at once.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvfit/linalg/detail/bounded_point.hpp"
#include "kvfit/linalg/detail/free_block.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

enum class pivoting_end : std::uint8_t { solved, cycling, out_of_iterations };

/// Minimises loss(w) + ½ proximity·Σ_j G_jj (w_j − c_j)² over the box, c = `center`.
///
/// Solves for the free weights, then moves to a bound each one found beyond it and frees each bound
/// weight whose slope pulls inside, until nothing needs exchange (Júdice & Pires 1994; Kim & Park
/// 2011, algorithm 2, here with two bounds). A handful of factors suffices where it works. It
/// may cycle where columns nearly coincide, so it gives up after `patience` rounds without fewer
/// exchanges than ever before. `free`: the free set to begin with, and the last one; `best` is
/// replaced by each clipped point of a lower loss (at a solution: of no higher one).
inline pivoting_end block_pivoting(const bounded_problem& problem, free_block& block,
                                   double proximity, const bounded_point& center,
                                   std::vector<index_t>& free, bounded_point& best,
                                   int max_iterations, int& iterations) {
  constexpr int patience = 3;
  const box& bounds = problem.bounds;
  const double* gram = problem.data.gram.data();
  const index_t t = center.weights.size();
  bounded_point point;
  Eigen::VectorXd step(t);  // from the center
  Eigen::VectorXd slope(t);
  Eigen::VectorXd target = center.weights;
  std::vector<char> is_free(static_cast<std::size_t>(t));

  auto fewest = static_cast<std::size_t>(t) + 1;
  int rounds_left = patience;
  while (iterations < max_iterations) {
    ++iterations;
    // Weights sit on the bound they were last found beyond or on; free ones start from the center.
    std::fill(is_free.begin(), is_free.end(), char{0});
    for (const index_t j : free) is_free[static_cast<std::size_t>(j)] = 1;
    bounds.clip(target);
    for (index_t j = 0; j < t; ++j) {
      step[j] = is_free[static_cast<std::size_t>(j)] != 0 ? 0.0 : target[j] - center.weights[j];
    }
    multiply_symmetric(gram, t, t, step.data(), slope.data());
    for (index_t j = 0; j < t; ++j) slope[j] += center.gradient[j];
    if (!block.factor(free, proximity)) return pivoting_end::cycling;
    block.newton_step(slope, step);
    multiply_symmetric(gram, t, t, step.data(), slope.data());
    for (index_t j = 0; j < t; ++j) {
      slope[j] += center.gradient[j] + proximity * gram[j * (t + 1)] * step[j];
    }
    for (const index_t j : free) target[j] = center.weights[j] + step[j];

    free.clear();
    std::size_t exchanges = 0;
    for (index_t j = 0; j < t; ++j) {
      bool stays = false;
      if (is_free[static_cast<std::size_t>(j)] != 0) {
        stays = bounds.contains(target[j]);
        exchanges += stays ? 0 : 1;
      } else if (problem.movable(j)) {
        stays = kkt_violation(target[j], slope[j], bounds) > problem.slack[j];
        exchanges += stays ? 1 : 0;
      }
      if (stays) free.push_back(j);
    }
    point.move_to(problem, target);
    if (point.objective < best.objective || (exchanges == 0 && point.objective <= best.objective)) {
      best = point;
    }
    if (exchanges == 0) return pivoting_end::solved;
    if (exchanges < fewest) {
      fewest = exchanges;
      rounds_left = patience;
    } else if (--rounds_left < 0) {
      return pivoting_end::cycling;
    }
  }
  return pivoting_end::out_of_iterations;
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
