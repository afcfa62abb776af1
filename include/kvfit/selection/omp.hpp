// SPDX-License-Identifier: MIT
/// Greedy selection on attention mass: orthogonal matching pursuit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/box.hpp"
#include "kvfit/linalg/growing_cholesky.hpp"
#include "kvfit/selection/fill.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/residual_ranking.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What is done with `size` keys chosen.
inline selection::omp_step step_at(const selection::omp& policy, index_t size) noexcept {
  for (const selection::omp_step& s : policy.schedule) {
    if (size < s.limit) return s;
  }
  return {.keys_per_round = policy.keys_per_round, .refit_interval = policy.refit_interval};
}

/// Rounds until `budget` keys are chosen.
inline index_t rounds_of(const selection::omp& policy, index_t budget) noexcept {
  index_t rounds = 0;
  index_t size = 0;
  const auto grow_to = [&](index_t limit, index_t keys_per_round) {
    const index_t missing = (std::min)(limit, budget) - size;
    if (missing <= 0) return;
    const index_t keys = std::clamp<index_t>(keys_per_round, 1, missing);
    const index_t more = missing / keys + (missing % keys != 0 ? 1 : 0);
    rounds += more;
    size += more * keys;
  };
  for (const selection::omp_step& s : policy.schedule) grow_to(s.limit, s.keys_per_round);
  grow_to(budget, policy.keys_per_round);
  return rounds;
}

/// What an `omp_search` keeps beside columns, their ranking and their fit.
class omp_buffers {
 public:
  void declare(workspace& space, index_t keys, index_t queries, index_t budget) {
    space.add(is_open_, keys, 1, char{1});
    space.add_vectors(queries, residual_float_, residual_);
    space.add(solution_, budget);
    space.reserve(weights_, budget);
  }

 protected:
  std::vector<char> is_open_;  // neither chosen nor banned
  vector residual_float_;
  Eigen::VectorXd residual_;
  Eigen::VectorXd solution_;
  std::vector<double> weights_;
};

/// The columns of the mass equation and their ranking, by the CPU: what `omp_search` asks.
class omp_columns {
 public:
  omp_columns(const selection::omp& policy, const selection_problem& problem)
      : columns_(problem, policy.weighting),
        ranking_(columns_, policy.norm_power, policy.absolute, rounds_of(policy, problem.budget)) {}

  omp_columns(const omp_columns&) = delete;  // its ranking refers to its columns
  omp_columns& operator=(const omp_columns&) = delete;
  ~omp_columns() = default;

  [[nodiscard]] index_t queries() const noexcept { return columns_.queries(); }
  [[nodiscard]] index_t keys() const noexcept { return columns_.keys(); }
  /// n: the right-hand side.
  [[nodiscard]] const vector& target() const noexcept { return columns_.target(); }
  /// Whether columns are stored, so that no round makes them anew.
  [[nodiscard]] bool is_at_hand() const noexcept { return ranking_.is_at_hand(); }
  /// The `count` best open rows, best first; until the next call.
  result<std::span<const index_t>> best(const vector& residual, std::span<const char> open,
                                        index_t count) {
    return ranking_.best(residual, open, count);
  }
  /// Columns of these rows, a row each.
  [[nodiscard]] result<matrix> columns(std::span<const index_t> rows) const {
    return columns_.columns(rows);
  }

 private:
  mass_columns columns_;
  residual_ranking ranking_;
};

/// One run of OMP; see `selection::omp`. `Columns`: who has the columns and ranks them, with the
/// members of `omp_columns`.
template <class Columns>
class omp_search : private omp_buffers {
 public:
  omp_search(const selection::omp& policy, const selection_problem& problem, Columns& columns)
      : policy_(policy),
        problem_(problem),
        columns_(columns),
        fit_(columns_.queries(), problem.budget, linalg::growing_cholesky::default_rank_tolerance,
             problem.threads) {
    const vector& target = columns_.target();
    allocate_buffers(static_cast<omp_buffers&>(*this), columns_.keys(), target.size(),
                     problem.budget);
    for (index_t i = 0; i < target.size(); ++i) residual_[i] = static_cast<double>(target[i]);
    fit_.set_target(residual_);
    target_norm_ = residual_norm();
    for (index_t j = 0; j < columns_.keys(); ++j) {
      if (!problem.may_keep(j)) is_open_[static_cast<std::size_t>(j)] = 0;
    }
    out_.report.recomputed = !columns_.is_at_hand();
  }

  result<selected_rows> run() {
    int passes = 0;
    for (;;) {
      if (const auto ok = grow(); !ok) return ok.error();
      if (!policy_.drop_below || passes == policy_.drop_passes) break;
      ++passes;
      refit();
      if (drop_weak() == 0) break;
    }
    if (!is_fitted_ && (policy_.final_refit || (!policy_.drop_below && policy_.refit_interval > 1)))
      refit();
    if (size() < problem_.budget) fill();
    out_.weights.assign(weights_.begin(), weights_.end());
    return std::move(out_);
  }

 private:
  [[nodiscard]] index_t size() const noexcept {
    return static_cast<index_t>(out_.positions.size());
  }

  [[nodiscard]] double residual_norm() const noexcept {
    return std::sqrt(simd::squared_norm(residual_.data(), residual_.size()));
  }

  [[nodiscard]] bool is_explained() const noexcept {
    return residual_norm() <= 1e-6 * target_norm_ || fit_.rank() >= columns_.queries();
  }

  /// Rounds until the budget is used, mass is explained or keys run out.
  result<void> grow() {
    while (size() < problem_.budget && !is_explained()) {
      if (const auto ok = check_stop(problem_.stop, "selection"); !ok) return ok;
      const selection::omp_step now = step_at(policy_, size());
      for (index_t i = 0; i < residual_.size(); ++i) {
        residual_float_[i] = static_cast<float>(residual_[i]);
      }
      const auto rows = columns_.best(residual_float_, is_open_,
                                      (std::min)(now.keys_per_round, problem_.budget - size()));
      if (!rows) return rows.error();
      if (rows->empty()) break;
      if (const auto ok = add(*rows); !ok) return ok;
      if (!has_weights_ || out_.report.rounds % now.refit_interval == 0) {
        refit();
      } else {
        weights_.resize(static_cast<std::size_t>(size()), policy_.lower);
        is_fitted_ = false;
        update_residual();
      }
      ++out_.report.rounds;
    }
    return {};
  }

  result<void> add(std::span<const index_t> rows) {
    const auto added = columns_.columns(rows);
    if (!added) return added.error();
    fit_.append(added->data(), added->rows());
    for (const index_t row : rows) {
      out_.positions.push_back(row);
      is_open_[static_cast<std::size_t>(row)] = 0;
    }
    return {};
  }

  /// w = clip(argmin ‖Φ_S w − y‖).
  void refit() {
    ++out_.report.refits;
    const linalg::box bounds{policy_.lower, policy_.upper};
    fit_.solve_into(solution_);
    bounds.clip(solution_);
    weights_.assign(solution_.begin(), solution_.end());
    has_weights_ = true;
    is_fitted_ = true;
    update_residual();
  }

  void update_residual() {
    solution_.resize(size());
    std::copy(weights_.begin(), weights_.end(), solution_.data());
    fit_.residual_into(solution_, residual_);
  }

  /// Takes out keys whose weight is under the cutoff, for good; refits the others. Returns how
  /// many.
  index_t drop_weak() {
    std::vector<index_t> kept;
    std::vector<index_t> positions;
    for (index_t j = 0; j < size(); ++j) {
      if (std::log(weights_[static_cast<std::size_t>(j)]) < *policy_.drop_below) continue;
      kept.push_back(j);
      positions.push_back(out_.positions[static_cast<std::size_t>(j)]);
    }
    const index_t dropped = size() - static_cast<index_t>(kept.size());
    if (dropped == 0) return 0;
    out_.report.dropped += dropped;
    fit_.keep(kept);
    out_.positions = std::move(positions);
    refit();
    has_weights_ = false;
    ++out_.report.rounds;
    return dropped;
  }

  /// Uses up the budget with the most attended rows left, when the mass needs no more keys.
  void fill() {
    out_.report.filled = selection::fill_by_importance(problem_, problem_.scores->importance,
                                                       is_open_, out_.positions);
    weights_.resize(out_.positions.size(), policy_.lower);
  }

  selection::omp policy_;
  selection_problem problem_;
  Columns& columns_;
  linalg::growing_cholesky fit_;
  double target_norm_ = 0;
  bool has_weights_ = false;  // false: the next round refits whatever the interval
  bool is_fitted_ = false;    // weights are those of exactly this set
  selected_rows out_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit::selection {
inline namespace KVFIT_ISA {

inline score_options wanted_scores(const selection::omp&) {
  return {.importance = importance_kind::rms,
          .keep_exponentials = (std::numeric_limits<index_t>::max)()};
}

inline result<void> check_settings(const selection::omp& policy) {
  const auto positive = [](index_t value, const char* field) -> result<void> {
    if (value >= 1) return {};
    return error{errc::invalid_option, field, value, 1, "must be at least 1"};
  };
  if (const auto ok = positive(policy.keys_per_round, "omp.keys_per_round"); !ok) return ok;
  if (const auto ok = positive(policy.refit_interval, "omp.refit_interval"); !ok) return ok;
  for (const selection::omp_step& step : policy.schedule) {
    if (const auto ok = positive(step.keys_per_round, "omp.schedule.keys_per_round"); !ok)
      return ok;
    if (const auto ok = positive(step.refit_interval, "omp.schedule.refit_interval"); !ok)
      return ok;
  }
  if (!(policy.lower > 0 && policy.lower < 1e30)) {
    return kvfit::detail::refuse_number("omp.lower", policy.lower,
                                        "must be above 0 and below 1e30");
  }
  if (!(policy.upper >= policy.lower)) {
    return kvfit::detail::refuse_number(
        "omp.upper", policy.upper,
        "must be at least lower, " + kvfit::detail::number_text(policy.lower));
  }
  if (!(policy.norm_power >= 0 && policy.norm_power <= 2)) {
    return kvfit::detail::refuse_number("omp.norm_power", policy.norm_power, "must be in [0, 2]");
  }
  if (policy.drop_below && !(*policy.drop_below < std::numeric_limits<double>::infinity())) {
    return kvfit::detail::refuse_number("omp.drop_below", *policy.drop_below,
                                        "must be less than infinity");
  }
  if (policy.drop_passes < 0) {
    return error{errc::invalid_option, "omp.drop_passes", policy.drop_passes, 0,
                 "must not be negative"};
  }
  return {};
}

/// Runs OMP. Cost a pick: at most n · T multiply-adds for the correlations (only of keys that can
/// still be the best, and in bf16 where that decides, see `residual_ranking`) and O(n · |S|) for
/// the refit (a growing Cholesky factor, never a fit from scratch).
///
/// Memory: 4 t (n + t) bytes, and what `memory_cap` allows of
/// * 4 n · T for the columns in fp32, those of the score pass where it kept them,
/// * 2 n · T for them in bf16; without the former, a round's candidates are made anew.
/// With neither, all are made anew every round, panel by panel. The choice is the same but for
/// rounding (columns made anew are fp32 whatever the score pass was).
inline result<selected_rows> select(const selection::omp& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_ranked_problem(problem); !ok) return ok.error();
  detail::omp_columns columns(policy, problem);
  return detail::omp_search(policy, problem, columns).run();
}

/// What `select` holds, its result included.
inline void declare(workspace& space, const selection::omp& policy, const head_sizes& sizes) {
  index_t most = policy.keys_per_round;
  for (const selection::omp_step& step : policy.schedule) {
    most = (std::max)(most, step.keys_per_round);
  }
  most = (std::min)(most, sizes.budget);
  mass_columns::declare(space, sizes);
  residual_ranking::declare(space, sizes, most, detail::rounds_of(policy, sizes.budget));
  linalg::growing_cholesky().declare(space, sizes.queries, sizes.budget);
  detail::omp_buffers().declare(space, sizes.keys, sizes.queries, sizes.budget);
  space.count(grown_bytes(double_bytes(3, sizes.budget)));  // positions, weights and their copies
  {
    const workspace::phase adding(space);
    mass_columns::declare_columns(space, sizes, most);
  }
  fill_buffers().declare(space, sizes.keys, sizes.budget);
}

constexpr bool may_replace(const selection::omp&) {
  return true;
}

static_assert(selection_policy<selection::omp>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
