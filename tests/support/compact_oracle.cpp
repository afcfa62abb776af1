// SPDX-License-Identifier: MIT
#include "support/compact_oracle.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "support/dense.hpp"

namespace kvfit_test {

namespace {

VectorXd times(const MatrixXd& m, const VectorXd& w) {
  return m * w;
}
VectorXd times_transposed(const MatrixXd& m, const VectorXd& r) {
  return m.transpose() * r;
}

}  // namespace

MatrixXd mass_equation::columns_of(std::span<const index_t> rows) const {
  MatrixXd some(columns.rows(), static_cast<index_t>(rows.size()));
  for (std::size_t j = 0; j < rows.size(); ++j) {
    some.col(static_cast<index_t>(j)) = columns.col(rows[j]);
  }
  return some;
}

mass_equation make_mass_equation(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                 const kvfit::logit_rule& rule, kvfit::mass_weighting weighting) {
  const MatrixXd logits = make_logits(cache, queries, rule).logit;
  mass_equation made{MatrixXd::Zero(logits.rows(), logits.cols()), VectorXd::Zero(logits.rows())};
  for (index_t i = 0; i < logits.rows(); ++i) {
    const double shift = logits.row(i).maxCoeff();
    if (shift == -infinity) continue;
    made.columns.row(i) = (logits.row(i).array() - shift).exp();
    made.target[i] = made.columns.row(i).sum();
    if (weighting == kvfit::mass_weighting::absolute) continue;
    made.columns.row(i) /= made.target[i];
    made.target[i] = 1;
  }
  return made;
}

double loss(const MatrixXd& m, const VectorXd& y, const VectorXd& w) {
  return 0.5 * (times(m, w) - y).squaredNorm();
}

VectorXd least_squares_weights(const MatrixXd& m, const VectorXd& y) {
  if (m.cols() == 0) return {};
  return oracle::solve_by_qr(m, y);
}

VectorXd clipped(const VectorXd& w, double lower, double upper) {
  return w.cwiseMax(lower).cwiseMin(upper);
}

double largest_square(const MatrixXd& m) {
  return oracle::eigenvalues(oracle::transposed_product(m, m)).maxCoeff();
}
double estimated_square(const MatrixXd& m, const VectorXd& start, int rounds) {
  VectorXd u = start.normalized();
  for (int round = 0; round < rounds; ++round) u = times_transposed(m, times(m, u)).normalized();
  return times(m, u).squaredNorm();
}

VectorXd projected_steps(const MatrixXd& m, const VectorXd& y, VectorXd w, double lower,
                         double upper, int steps, double sigma_sq) {
  w = clipped(w, lower, upper);
  for (int step = 0; step < steps; ++step) {
    w = clipped(w - times_transposed(m, times(m, w) - y) / std::max(sigma_sq, 1e-6), lower, upper);
  }
  return w;
}

VectorXd bounded_optimum(const MatrixXd& m, const VectorXd& y, double lower, double upper) {
  const index_t t = m.cols();
  const auto ways = static_cast<long>(std::lround(std::pow(3.0, static_cast<double>(t))));
  VectorXd best;
  double best_loss = infinity;
  for (long way = 0; way < ways; ++way) {
    VectorXd w = VectorXd::Zero(t);
    std::vector<index_t> between;
    bool is_possible = true;
    long digits = way;
    for (index_t j = 0; j < t; ++j, digits /= 3) {
      if (digits % 3 == 0) between.push_back(j);
      if (digits % 3 == 1) w[j] = lower;
      if (digits % 3 == 2) w[j] = upper;
      is_possible = is_possible && (digits % 3 != 2 || std::isfinite(upper));
    }
    if (!is_possible) continue;
    MatrixXd columns(m.rows(), static_cast<index_t>(between.size()));
    for (std::size_t k = 0; k < between.size(); ++k) {
      columns.col(static_cast<index_t>(k)) = m.col(between[k]);
    }
    const VectorXd inner = least_squares_weights(columns, y - times(m, w));
    for (std::size_t k = 0; k < between.size(); ++k) w[between[k]] = inner[static_cast<index_t>(k)];
    if (!(w.minCoeff() >= lower && w.maxCoeff() <= upper)) continue;
    const double here = loss(m, y, w);
    if (here < best_loss) {
      best_loss = here;
      best = w;
    }
  }
  return best;
}

VectorXd bounded_by_coordinates(const MatrixXd& m, const VectorXd& y, double lower, double upper) {
  const VectorXd length_sq = m.colwise().squaredNorm();
  VectorXd w = VectorXd::Constant(m.cols(), std::clamp(1.0, lower, upper));
  VectorXd residual = y - times(m, w);
  for (int sweep = 0; sweep < 100000; ++sweep) {
    double largest_move = 0;
    for (index_t j = 0; j < w.size(); ++j) {
      if (length_sq[j] == 0) continue;
      const double wished = w[j] + m.col(j).dot(residual) / length_sq[j];
      const double move = std::clamp(wished, lower, upper) - w[j];
      residual -= move * m.col(j);
      w[j] += move;
      largest_move = std::max(largest_move, std::abs(move));
    }
    if (largest_move < 1e-11 * w.cwiseAbs().maxCoeff()) break;
  }
  return w;
}

double kkt_violation_of(const MatrixXd& m, const VectorXd& y, const VectorXd& w, double lower,
                        double upper) {
  const VectorXd gradient = times_transposed(m, times(m, w) - y);
  double worst = 0;
  for (index_t j = 0; j < w.size(); ++j) {
    const bool is_stuck = gradient[j] > 0 ? w[j] <= lower : w[j] >= upper;
    if (!is_stuck) worst = std::max(worst, std::abs(gradient[j]));
  }
  const VectorXd floor = VectorXd::Constant(m.cols(), lower);
  return worst / std::max(times_transposed(m, y).cwiseAbs().maxCoeff(),
                          times_transposed(m, times(m, floor)).cwiseAbs().maxCoeff());
}

oracle_selection omp_in_double(const mass_equation& equation, const kvfit::selection::omp& policy,
                               index_t budget, std::vector<index_t> open) {
  const VectorXd norms = equation.columns.colwise().norm();
  oracle_selection out;
  VectorXd residual = equation.target;
  bool has_weights = false;
  bool is_fitted = false;
  double first_best = 0;

  const auto size = [&] { return static_cast<index_t>(out.positions.size()); };
  const auto refit = [&] {
    const MatrixXd chosen = equation.columns_of(out.positions);
    out.weights =
        clipped(least_squares_weights(chosen, equation.target), policy.lower, policy.upper);
    residual = equation.target - times(chosen, out.weights);
    has_weights = is_fitted = true;
  };
  const auto score = [&](index_t j) {
    double c = equation.columns.col(j).dot(residual);
    if (policy.absolute) c = std::abs(c);
    return c / std::pow(norms[j] + 1e-12, policy.norm_power);
  };

  for (int passes = 0;; ++passes) {
    while (size() < budget && residual.norm() > 1e-6 * equation.target.norm() && !open.empty()) {
      index_t take = policy.keys_per_round;
      index_t interval = policy.refit_interval;
      for (const kvfit::selection::omp_step& step : policy.schedule) {
        if (size() >= step.limit) continue;
        take = step.keys_per_round;
        interval = step.refit_interval;
        break;
      }
      take = std::min({take, budget - size(), static_cast<index_t>(open.size())});
      std::vector<std::pair<double, index_t>> ranking;  // worst score last, earlier rows first
      for (const index_t j : open) ranking.emplace_back(-score(j), j);
      std::sort(ranking.begin(), ranking.end());
      if (first_best == 0) first_best = -ranking[0].first;
      for (std::size_t k = 0; k < static_cast<std::size_t>(take); ++k) {
        if (k + 1 < ranking.size()) {
          const double gap = ranking[k + 1].first - ranking[k].first;
          out.margin = std::min(out.margin, gap / first_best);
        }
        out.positions.push_back(ranking[k].second);
        std::erase(open, ranking[k].second);
      }
      if (!has_weights || out.rounds % interval == 0) {
        refit();
      } else {
        const index_t before = out.weights.size();
        out.weights.conservativeResize(size());
        out.weights.tail(size() - before).setConstant(policy.lower);
        residual = equation.target - times(equation.columns_of(out.positions), out.weights);
        is_fitted = false;
      }
      ++out.rounds;
    }
    if (!policy.drop_below || passes == policy.drop_passes) break;

    refit();
    std::vector<index_t> kept;
    for (index_t j = 0; j < size(); ++j) {
      const double bias = std::log(out.weights[j]);
      out.margin = std::min(out.margin, std::abs(bias - *policy.drop_below));
      if (bias >= *policy.drop_below) kept.push_back(out.positions[static_cast<std::size_t>(j)]);
    }
    const index_t dropped = size() - static_cast<index_t>(kept.size());
    if (dropped == 0) break;
    out.dropped += dropped;
    out.positions = kept;
    refit();
    has_weights = false;
    ++out.rounds;  // the pass counts for the refit interval
  }
  const bool as_published = !policy.drop_below && policy.refit_interval > 1;
  if (!is_fitted && (policy.final_refit || as_published)) refit();
  return out;
}

MatrixXd softmax(const MatrixXd& logits) {
  MatrixXd weights(logits.rows(), logits.cols());
  for (index_t i = 0; i < logits.rows(); ++i) {
    weights.row(i) = (logits.row(i).array() - logits.row(i).maxCoeff()).exp();
    weights.row(i) /= weights.row(i).sum();
  }
  return weights;
}

MatrixXd fitted_values(const MatrixXd& x, const MatrixXd& y, const MatrixXd& toward,
                       double lambda) {
  MatrixXd left = MatrixXd::Zero(x.rows() + x.cols(), x.cols());
  left.topRows(x.rows()) = x;
  left.bottomRows(x.cols()).diagonal().setConstant(std::sqrt(lambda));
  MatrixXd right = MatrixXd::Zero(left.rows(), y.cols());
  right.topRows(x.rows()) = y - oracle::product(x, toward);
  return toward + oracle::solve_by_orthogonal(left, right, 1e-7);  // below, all is fp32 noise
}

oracle_compacted compact_in_double(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                   const kvfit::logit_rule& rule, std::vector<index_t> positions,
                                   double lower) {
  std::sort(positions.begin(), positions.end());
  const mass_equation equation =
      make_mass_equation(cache, queries, rule, kvfit::mass_weighting::relative);
  const oracle_logits made = make_logits(cache, queries, rule);
  const MatrixXd keys_values = to_double(cache.values);
  const index_t t = static_cast<index_t>(positions.size());

  oracle_compacted out{positions, VectorXd(t), MatrixXd(t, keys_values.cols())};
  const VectorXd weights =
      bounded_by_coordinates(equation.columns_of(positions), equation.target, lower, infinity);
  MatrixXd logits(queries.rows(), t);
  MatrixXd own(t, keys_values.cols());
  for (index_t j = 0; j < t; ++j) {
    const index_t row = positions[static_cast<std::size_t>(j)];
    out.bias[j] = std::log(weights[j]);
    if (!cache.bias.empty())
      out.bias[j] += static_cast<double>(cache.bias[static_cast<std::size_t>(row)]);
    logits.col(j) = made.logit.col(row).array() + std::log(weights[j]);
    own.row(j) = keys_values.row(row);
  }
  out.values =
      fitted_values(softmax(logits), oracle::product(softmax(made.logit), keys_values), own);
  return out;
}

}  // namespace kvfit_test
