// SPDX-License-Identifier: MIT
/// The whole method in double precision, written for reading: mass equation, greedy selection
/// refitted from scratch, bounded weights, values. Slow on purpose; what kvfit computes is held
/// against this.
#pragma once

#include <Eigen/Core>
#include <span>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/selection/omp.hpp"
#include "support/attention_oracle.hpp"

namespace kvfit_test {

// ---- Mass

/// Σ_j columns_ij w_j = target_i, where columns_ij = f_i exp(s_ij − m_i) and w = 1 is the solution.
/// f_i = 1, or 1/y_i. A query that sees nothing has a row of zeros.
struct mass_equation {
  MatrixXd columns;  ///< n × T
  VectorXd target;   ///< n

  [[nodiscard]] MatrixXd columns_of(std::span<const index_t> rows) const;
};

mass_equation make_mass_equation(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                 const kvfit::logit_rule& rule, kvfit::mass_weighting weighting);

// ---- Weights

/// ½ ‖M w − y‖².
double loss(const MatrixXd& m, const VectorXd& y, const VectorXd& w);

/// argmin ‖M w − y‖, M of full column rank, from scratch.
VectorXd least_squares_weights(const MatrixXd& m, const VectorXd& y);

VectorXd clipped(const VectorXd& w, double lower, double upper);

/// ‖M‖₂², and what so many rounds of power iteration from `start` take for it.
double largest_square(const MatrixXd& m);
double estimated_square(const MatrixXd& m, const VectorXd& start, int rounds);

/// w ← clip(w − Mᵀ(M w − y)/max(σ², 1e-6)), so many times.
VectorXd projected_steps(const MatrixXd& m, const VectorXd& y, VectorXd w, double lower,
                         double upper, int steps, double sigma_sq);

/// The optimum of ½‖M w − y‖² over the box, for at most eight weights: every way to put each of
/// them on a bound or between is tried, and the best that stays inside is it.
VectorXd bounded_optimum(const MatrixXd& m, const VectorXd& y, double lower, double upper);

/// The same for any number of weights: one at a time goes to its best place, until none moves.
VectorXd bounded_by_coordinates(const MatrixXd& m, const VectorXd& y, double lower, double upper);

/// How far the gradient may still be followed inside the box, the worst weight's share of the
/// largest |Mᵀy| (or of the gradient that the lower bound alone makes): 0 at the optimum.
double kkt_violation_of(const MatrixXd& m, const VectorXd& y, const VectorXd& w, double lower,
                        double upper);

// ---- Selection

struct oracle_selection {
  std::vector<index_t> positions;  ///< in the order of choice
  VectorXd weights;
  int rounds = 0;
  index_t dropped = 0;
  /// How clearly the decisions fell: the narrowest gap between a taken row and the next one in the
  /// ranking, as a share of the largest score of the first round (rounding errors are a multiple of
  /// that), or, at a cutoff, the narrowest |ln w − cutoff| as a share of 1.
  double margin = infinity;
};

/// Orthogonal matching pursuit as attention-matching describes it, refitting from scratch. Rows are
/// taken from `open` alone. Ends early where nothing is left to explain.
oracle_selection omp_in_double(const mass_equation& equation, const kvfit::selection::omp& policy,
                               index_t budget, std::vector<index_t> open);

// ---- Values

/// softmax of each row of logits.
MatrixXd softmax(const MatrixXd& logits);

/// argmin ‖X C − Y‖² + λ‖C − C₀‖²: the ridge is t more equations; of minimum ‖C − C₀‖ where the
/// data leave a choice.
MatrixXd fitted_values(const MatrixXd& x, const MatrixXd& y, const MatrixXd& toward,
                       double lambda = 0);

// ---- The whole method

struct oracle_compacted {
  std::vector<index_t> positions;  ///< ascending
  VectorXd bias;
  MatrixXd values;
};

/// Selection by OMP, weights to the optimum of the relative mass error in [lower, ∞), values by
/// least squares toward the rows' own.
oracle_compacted compact_in_double(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                   const kvfit::logit_rule& rule, std::vector<index_t> positions,
                                   double lower);

}  // namespace kvfit_test
