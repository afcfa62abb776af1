// SPDX-License-Identifier: MIT
/// The refinement of one head: batches of queries, steps in the queries' own metric.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "kvfit/attention/score_panels.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "kvfit/linalg/lbfgs.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/objective.hpp"
#include "kvfit/refine/query_sets.hpp"
#include "kvfit/refine/refinement.hpp"
#include "kvfit/simd/double_vectors.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Queries of which one is in a batch, at most `batch` of n.
constexpr index_t batch_stride(index_t n, index_t batch) noexcept {
  return std::max<index_t>(n - 1, 0) / batch + 1;
}

/// What a `refiner` keeps of points, t rows each.
class refiner_buffers {
 public:
  static constexpr int lbfgs_memory = 20;

  void declare(workspace& space, index_t t, index_t depth, bool fits_bias) {
    space.add_matrices(depth, depth, whitening_, whitening_across_);
    space.add_matrices(t, depth, moved_, start_keys_, keys_, keys_gradient_);
    space.add_vectors(t, start_bias_, bias_, bias_gradient_);
    space.add(variables_, many_times(t, depth + (fits_bias ? 1 : 0)));
  }

 protected:
  double_matrix whitening_;         // W
  double_matrix whitening_across_;  // Wᵀ
  double_matrix moved_;             // keys or their gradient, in double
  matrix start_keys_;
  vector start_bias_;
  matrix keys_;
  vector bias_;
  matrix keys_gradient_;
  vector bias_gradient_;
  Eigen::VectorXd variables_;
};

/// Moves keys and biases batch by batch; the caller judges in between.
///
/// Steps are taken in Z = K' L, L Lᵀ = Qᵀ Q / n + δ I with Q scaled as in the logits and δ a tenth
/// of the mean diagonal: a step of one length then changes logits alike whichever way it points,
/// so that L-BFGS need not learn which directions matter first. Where values are tied, ρ I is added
/// for the columns that are values (`value_metric`).
class refiner : private refiner_buffers {
 public:
  /// `settings` with steps; none: 0. `fit`: the queries fitted on and their `scores`;
  /// `rows`: the cache's rows that the keys start from. All must outlive this. Once `stop` is due,
  /// checked before every evaluation of J, `step` ends with `cancelled`. `tied_from`: the keys'
  /// first column that is a value; none: values are fitted. `threads` share what an evaluation is
  /// made of: same bytes.
  refiner(const refinement& settings, const kv_block& cache, const logit_rule& rule,
          const query_part& fit, const attention_scores& scores, const std::vector<index_t>& rows,
          const matrix& original, const std::optional<index_t>& tied_from = {},
          const stop_when& stop = {}, const executor_ref& threads = {})
      : settings_(settings),
        cache_(cache),
        rule_(rule),
        fit_(fit),
        scores_(scores),
        rows_(rows),
        tied_from_(tied_from),
        stop_(stop),
        objective_({settings.output_weight, settings.mass_weight, settings.mass_softness,
                    rule.soft_cap, tied_from},
                   original, threads) {}

  /// Puts the point where it starts.
  void start(const matrix& keys, const vector& bias) {
    allocate_buffers(static_cast<refiner_buffers&>(*this), keys.rows(), keys.cols(),
                     settings_.fits_bias);
    start_keys_ = keys_ = keys;
    start_bias_ = bias_ = bias;
    std::fill_n(variables_.data(), variables_.size(), 0.0);
  }

  [[nodiscard]] const matrix& keys() const noexcept { return keys_; }
  [[nodiscard]] const vector& bias() const noexcept { return bias_; }
  /// Values fitted by J to the batch last stepped on, for the keys and biases that stand.
  [[nodiscard]] const matrix& values() const noexcept { return objective_.values(); }
  /// The same for those it started from, on the first batch.
  [[nodiscard]] const matrix& start_values() const noexcept { return start_values_; }
  [[nodiscard]] const refinement_report& report() const noexcept { return report_; }
  [[nodiscard]] bool is_done() const noexcept {
    return report_.steps >= wanted_steps() || is_stuck_ ||
           (report_.steps > 0 && steps_within_work() < 1);
  }
  /// The sets of the batch last stepped on, beside the queries given. Nothing else of the refiner
  /// is of use afterwards.
  [[nodiscard]] std::vector<scored_set> take_sets() noexcept { return std::move(sets_); }

  /// Makes the next batch and steps on it. Errors are those of the score pass over made queries.
  result<void> step() {
    if (const auto ok = next_batch(); !ok) return ok;
    if (!descent_) measure_metric();
    objective_.use(batch_);
    const int left = (std::min)(wanted_steps() - report_.steps, (std::max)(steps_within_work(), 1));
    // Tied values are moved, not fitted, and may leave queries held out behind long before the
    // last step: they are judged on the way where there is one batch, too.
    const bool takes_all = is_one_batch() && !tied_from_;
    const int steps = takes_all ? left : (std::min)(settings_.steps_a_batch, left);
    const auto value_at = [this](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
      return evaluate(x, gradient);
    };
    const linalg::lbfgs_report done = descent_->minimise(value_at, variables_, steps);
    if (const auto ok = check_stop(stop_, "refinement"); !ok) return ok;
    report_.steps += done.steps;
    report_.evaluations += done.evaluations;
    is_stuck_ = done.steps == 0;
    place(variables_);
    // The last trial may have been rejected; and without outputs no values were fitted.
    if (done.steps < steps || settings_.output_weight == 0) objective_.fit(keys_, bias_);
    return {};
  }

 private:
  /// Whether every batch would be the same.
  [[nodiscard]] bool is_one_batch() const noexcept { return settings_.sets == 0 && stride() == 1; }
  [[nodiscard]] index_t stride() const noexcept {
    return batch_stride(scores_.max.size(), settings_.batch);
  }

  [[nodiscard]] int wanted_steps() const noexcept { return settings_.steps.value_or(0); }

  /// Steps of one evaluation each, and one to begin with, that the work allowed still covers.
  [[nodiscard]] int steps_within_work() const {
    if (settings_.work == 0) return wanted_steps();
    const auto depth = static_cast<double>(cache_.keys.cols());
    const auto width = static_cast<double>(cache_.values.cols());
    const auto kept = static_cast<double>(rows_.size());
    const double pass = static_cast<double>(cache_.keys.rows()) * (depth + width);
    double evaluation = kept * 2 * depth;
    if (settings_.output_weight > 0) {
      evaluation += kept * (3 * width + (tied_from_ ? 0 : kept / 2));
    }
    const double sets = 1 + (std::min)(settings_.sets, settings_.sets_at_once);
    const double affordable =
        settings_.work * pass * static_cast<double>(stride()) / (evaluation * sets);
    return static_cast<int>((std::min)(affordable, 1e6)) - report_.evaluations - 1;
  }

  result<void> next_batch() {
    if (is_one_batch() && batch_.queries.size() > 0) return {};
    sets_.clear();
    batch_ = {};  // before the next one is made beside it
    const int count = (std::min)(settings_.sets_at_once, settings_.sets);
    sets_.reserve(static_cast<std::size_t>(count));
    for (int k = 0; k < count; ++k) {
      scored_set made{.queries = make_query_set(fit_, settings_, next_set_), .scores = {}};
      next_set_ = (next_set_ + 1) % settings_.sets;
      auto scored = detail::score_checked(made.queries.part.beside(cache_), made.queries.part.set(),
                                          rule_, {.importance = importance_kind::none}, {}, stop_);
      if (!scored) return scored.error();
      made.scores = std::move(*scored);
      sets_.push_back(std::move(made));
    }
    std::vector<scored_part> parts{{&fit_, &scores_}};
    for (const scored_set& set : sets_) parts.push_back({&set.queries.part, &set.scores});
    batch_ = make_batch(parts, {.first = batches_++ % stride(), .stride = stride()}, cache_, rule_,
                        rows_, settings_.weighting);
    return {};
  }

  /// L⁻¹, and L-BFGS with a first step of a fiftieth of where it stands. Any W with W S Wᵀ = I
  /// does for L⁻¹, for L-BFGS takes the same steps in every rotation of Z.
  void measure_metric() {
    const index_t depth = batch_.queries.cols();
    const index_t t = start_keys_.rows();
    double_matrix square = square_of_queries();
    double trace = 0;
    for (index_t k = 0; k < depth; ++k) trace += square(k, k);
    const double mean = (std::max)(trace / static_cast<double>(depth), 1e-30);
    const double values = tied_from_ ? value_metric() : 0;
    for (index_t k = 0; k < depth; ++k) {
      const bool is_value =
          tied_from_ && k >= *tied_from_ && k < *tied_from_ + cache_.values.cols();
      square(k, k) += 0.1 * mean + (is_value ? values : 0);
    }
    std::fill_n(whitening_.data(), whitening_.size(), 0.0);
    for (index_t k = 0; k < depth; ++k) whitening_(k, k) = 1;
    double length = 0;
    if (linalg::detail::factor_upper(square.data(), depth, depth)) {  // U = Lᵀ
      linalg::detail::solve_transposed(square.data(), depth, depth, whitening_.data(), depth,
                                       depth);
      std::copy_n(start_keys_.data(), start_keys_.size(), moved_.data());
      for (index_t k = 0; k < depth; ++k) {
        for (index_t j = 0; j < depth; ++j) whitening_across_(k, j) = j <= k ? square(j, k) : 0;
      }
      double_matrix start(t, depth);
      simd::multiply({moved_.data(), depth, 1}, {whitening_across_.data(), depth},
                     {start.data(), depth}, t, depth, depth);
      length = simd::squared_norm(start.data(), start.size());
    }
    for (index_t k = 0; k < depth; ++k) {
      for (index_t j = 0; j < depth; ++j) whitening_across_(k, j) = whitening_(j, k);
    }
    const double size =
        std::sqrt(length + simd::squared_norm(start_bias_.data(), start_bias_.size()));
    descent_.emplace(
        linalg::lbfgs_options{.memory = lbfgs_memory, .first_step = (std::max)(0.02 * size, 1e-6)});
  }

  /// Qᵀ Q / n.
  [[nodiscard]] double_matrix square_of_queries() const {
    const index_t n = batch_.queries.rows();
    const index_t depth = batch_.queries.cols();
    double_matrix square(depth, depth);
    std::fill_n(square.data(), square.size(), 0.0);
    matrix part(depth, depth);
    constexpr index_t block = 256;  // sums in fp32 no longer than that
    for (index_t first = 0; first < n; first += block) {
      const float* const rows = batch_.queries.data() + first * depth;
      simd::multiply({rows, 1, depth}, {rows, depth}, {part.data(), depth}, depth, depth,
                     (std::min)(block, n - first));
      linalg::detail::add_widened(part.data(), part.size(), square.data());
    }
    const double share = 1 / static_cast<double>(std::max<index_t>(n, 1));
    simd::scale(square.data(), share, square.size());
    return square;
  }

  /// ρ: how much a tied value's own step counts beside what it does to logits as part of a key.
  /// With x the weight of a row, J bends by 2 ω f² x² along a value, and along a logit by
  /// 2 ω f² x² ‖c − ô‖² + (μ / s) x² (see `attention_objective`): ρ is their ratio, in the mean.
  [[nodiscard]] double value_metric() const {
    if (settings_.output_weight == 0) return 0;
    const index_t width = cache_.values.cols();
    const auto rows = static_cast<double>(start_keys_.rows());
    double length = 0;  // mean ‖c‖², and its part about the mean c
    double spread = 0;
    for (index_t k = *tied_from_; k < *tied_from_ + width; ++k) {
      double sum = 0;
      double squares = 0;
      for (index_t l = 0; l < start_keys_.rows(); ++l) {
        const auto value = static_cast<double>(start_keys_(l, k));
        sum += value;
        squares += value * value;
      }
      length += squares / rows;
      spread += (std::max)(0.0, squares / rows - sum / rows * (sum / rows));
    }
    double output = 0;  // mean ‖o_i‖² of queries that have one
    index_t seen = 0;
    for (index_t i = 0; i < batch_.inverse_length.size(); ++i) {
      const auto inverse = static_cast<double>(batch_.inverse_length[i]);
      if (!(inverse > 0)) continue;
      output += 1 / (inverse * inverse);
      ++seen;
    }
    output /= static_cast<double>(std::max<index_t>(seen, 1));
    const double logit = spread + settings_.mass_weight * output /
                                      (2 * settings_.output_weight * settings_.mass_softness);
    return 1 / (std::max)(logit, 1e-6 * length + (std::numeric_limits<double>::min)());
  }

  /// The point that variables stand for.
  void place(const Eigen::VectorXd& x) {
    const index_t depth = start_keys_.cols();
    const index_t numbers = start_keys_.size();
    simd::multiply({x.data(), depth, 1}, {whitening_.data(), depth}, {moved_.data(), depth},
                   start_keys_.rows(), depth, depth);
    const double* const moved = moved_.data();
    for (index_t k = 0; k < numbers; ++k) {
      keys_.data()[k] = start_keys_.data()[k] + static_cast<float>(moved[k]);
    }
    if (!settings_.fits_bias) return;
    for (index_t l = 0; l < start_bias_.size(); ++l) {
      bias_[l] = start_bias_[l] + static_cast<float>(x[numbers + l]);
    }
  }

  double evaluate(const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    if (stop_.is_due()) return std::numeric_limits<double>::infinity();  // ends the descent
    place(x);
    const objective_value value = objective_(keys_, bias_, keys_gradient_, bias_gradient_);
    if (start_values_.size() == 0) {  // the first point is where it starts
      if (settings_.output_weight == 0) objective_.fit(keys_, bias_);
      start_values_ = objective_.values();
    }
    if (!std::isfinite(value.total)) return value.total;
    const index_t depth = start_keys_.cols();
    const index_t numbers = start_keys_.size();
    std::copy_n(keys_gradient_.data(), numbers, moved_.data());
    simd::multiply({moved_.data(), depth, 1}, {whitening_across_.data(), depth},
                   {gradient.data(), depth}, start_keys_.rows(), depth, depth);
    if (settings_.fits_bias) {
      std::copy_n(bias_gradient_.data(), bias_gradient_.size(), gradient.data() + numbers);
    }
    return value.total;
  }

  refinement settings_;
  kv_block cache_;
  logit_rule rule_;
  const query_part& fit_;
  const attention_scores& scores_;
  const std::vector<index_t>& rows_;
  std::optional<index_t> tied_from_;
  stop_when stop_;
  attention_objective objective_;
  std::vector<scored_set> sets_;
  int next_set_ = 0;
  index_t batches_ = 0;
  refine_batch batch_;
  std::optional<linalg::lbfgs> descent_;
  matrix start_values_;
  bool is_stuck_ = false;
  refinement_report report_;
};

/// The sets of queries that a refinement made, with their full attention.
inline void declare_sets(workspace& space, const refinement& settings, const head_sizes& sizes) {
  workspace one;
  declare_query_set(one, sizes);
  declare_scores(one, sizes, {.importance = importance_kind::none});
  space.count((std::min)(settings.sets, settings.sets_at_once) * one.most());
}

/// What a `refiner` holds for the sizes of the queries fitted on, between steps and within one.
/// `adds` as for `declare_batch`; `is_tied`: values are tied to keys.
inline void declare_refiner(workspace& space, const refinement& settings, const head_sizes& sizes,
                            bool adds, bool is_capped, bool is_tied) {
  const index_t t = sizes.budget;
  const index_t depth = sizes.depth;
  const index_t stride = batch_stride(sizes.queries, settings.batch);
  const index_t sets = (std::min)(settings.sets, settings.sets_at_once);
  const index_t taken = many_times(1 + sets, every{0, stride}.count(sizes.queries));
  declare_sets(space, settings, sizes);
  refiner_buffers().declare(space, t, depth, settings.fits_bias);
  space.count(float_bytes(t, sizes.width));  // the values it started from
  linalg::lbfgs_buffers().declare(space, many_times(t, depth + 1), refiner_buffers::lbfgs_memory,
                                  settings.steps.value_or(0));
  objective_buffers().declare(space, t, sizes.width, taken, is_capped, is_tied);
  {
    const workspace::phase scoring(space);  // a made set, before the batch is there
    detail::declare_score_checked(space, sizes, {.importance = importance_kind::none});
  }
  declare_batch(space, sizes, taken, adds);
  {
    const workspace::phase measuring(space);
    space.count(double_bytes(t, depth) + 1.5 * double_bytes(depth, depth));
    linalg::detail::declare_triangular(space, depth, depth);
  }
  const workspace::phase solving(space);
  if (!is_tied) linalg::detail::declare_triangular(space, t, (std::max)(t, sizes.width));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
