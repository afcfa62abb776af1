// SPDX-License-Identifier: MIT
/// One head through the stages: score, select, weigh, store, fit values, judge.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/split.hpp"
#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/guarded_refinement.hpp"
#include "kvfit/compact/head_judge.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/stopwatch.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/compact/weight_fit.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/gradient_descent.hpp"
#include "kvfit/refine/refiner.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// One head on its way through the stages.
template <class Selection, class Bias, class Values>
class pipeline {
 public:
  using options_type = compaction<Selection, Bias, Values>;

  /// `first_row`: the caller's number of the cache's row 0.
  pipeline(const kv_block& cache, const query_set& queries, const options_type& options,
           index first_row, const stop_when& stop)
      : options_(options),
        cache_(cache),
        queries_(queries),
        budget_(options.budget),
        first_row_(first_row),
        stop_(stop),
        parts_(split_queries(queries, cache.masks, options.held_out, fitted_share())) {}

  result<compacted> run() {
    if (const auto ok = score(); !ok) return ok.error();
    if (const auto ok = choose(); !ok) return ok.error();
    if (const auto ok = weigh(); !ok) return ok.error();
    place_chosen();
    if (options_.gradient) {
      if (const auto ok = descend_gradient(*options_.gradient); !ok) return ok.error();
      return std::move(out_);
    }
    refinement moves = with_steps(
        options_.refine, refines_by_default(options_.selection) && fits_values(options_.values));
    if (*moves.steps > 0) {
      if (!out_.report.is_bias_fitted && !options_.refine.steps) moves.fits_bias = false;
      if (const auto ok = refine(moves); !ok) return ok.error();
    } else if (const auto ok = complete({}); !ok) {
      return ok.error();
    }
    return std::move(out_);
  }

 private:
  /// The share of the queries not held out that is fitted on.
  [[nodiscard]] double fitted_share() const {
    if (options_.queries_per_row == 0) return 1;
    const double wanted =
        std::max(static_cast<double>(options_.queries_per_row) * static_cast<double>(budget_),
                 static_cast<double>(options_.queries_at_least));
    const double given = static_cast<double>(queries_.rows()) * (1 - options_.held_out);
    return std::min(1.0, wanted / std::max(given, 1.0));
  }

  result<void> score() {
    score_options wanted = wanted_scores(options_.selection);
    wanted.keep_exponentials = std::min(wanted.keep_exponentials, options_.selection_memory);
    auto scores = score_checked(parts_.fit.beside(cache_), parts_.fit.set(), options_.rule, wanted,
                                parts_.fit.origins, stop_);
    if (!scores) return scores.error();
    scores_ = std::move(*scores);
    for (index i = 0; i < scores_.max.size(); ++i) {
      out_.report.masked_queries +=
          scores_.max[i] == -std::numeric_limits<float>::infinity() ? 1 : 0;
    }
    if (out_.report.masked_queries == scores_.max.size()) {
      if (scores_.max.size() < queries_.rows()) {  // those left out may see some: fit on all
        parts_ = split_queries(queries_, cache_.masks, 0);
        out_.report.masked_queries = 0;
        return score();
      }
      return error{errc::all_masked, "queries", 0, scores_.max.size(), "no query sees any key"};
    }
    judge_.emplace(cache_, options_.rule, parts_, scores_, stop_);
    out_.report.seconds.score = clock_.lap();
    return {};
  }

  [[nodiscard]] selection_problem problem() const {
    return {.cache = parts_.fit.beside(cache_),
            .queries = parts_.fit.set(),
            .rule = options_.rule,
            .scores = &scores_,
            .budget = budget_,
            .memory_cap = options_.selection_memory,
            .first_row = first_row_,
            .origins = parts_.fit.origins,
            .stop = stop_};
  }

  result<void> choose() {
    auto chosen = select(options_.selection, problem());
    if (!chosen) return chosen.error();
    chosen_ = std::move(*chosen);
    out_.report.selection = chosen_.report;
    const auto kept = static_cast<index>(chosen_.positions.size());
    if (kept < 1 || kept > budget_) {
      return error{errc::budget_out_of_range, "selection policy's positions", kept, budget_};
    }
    if (!chosen_.weights.empty() && chosen_.weights.size() != chosen_.positions.size()) {
      return error{errc::shape_mismatch, "selection policy's weights",
                   static_cast<index>(chosen_.weights.size()), kept};
    }
    sort_by_position(chosen_);
    if (const auto ok = check_positions(); !ok) return ok;
    out_.report.seconds.select = clock_.lap();
    return {};
  }

  /// A caller's own policy may hand back anything.
  [[nodiscard]] result<void> check_positions() const {
    index last = -1;
    for (const index row : chosen_.positions) {
      if (row <= last || row >= cache_.keys.rows() || !problem().may_keep(row)) {
        return error{errc::invalid_position, "selection policy's positions", row,
                     cache_.keys.rows(), "out of range, repeated or hidden"};
      }
      last = row;
    }
    return {};
  }

  result<void> weigh() {
    auto fitted = weight_fit(options_.selection, options_.bias, problem(), options_.storage,
                             options_.replace_dead_keys)
                      .run(std::move(chosen_));
    if (!fitted) return fitted.error();
    scores_.exponentials = matrix();  // nothing after this looks at all keys
    chosen_ = std::move(fitted->rows);
    weights_ = std::move(fitted->weights);
    out_.report.is_bias_fitted = fitted->is_fitted;
    out_.report.bias = fitted->report;
    out_.report.dead_keys = fitted->dead;
    out_.report.dead_keys_replaced = fitted->replaced;
    out_.report.seconds.bias = clock_.lap();
    return {};
  }

  /// The chosen rows' keys, and their biases: their own and the logarithms of the weights.
  void place_chosen() {
    out_.positions = chosen_.positions;
    out_.keys = gather_rows(cache_.keys, out_.positions);
    original_ = gather_rows(cache_.values, out_.positions);
    out_.bias.resize(weights_.size());
    for (index j = 0; j < weights_.size(); ++j) {
      const auto row = static_cast<std::size_t>(out_.positions[static_cast<std::size_t>(j)]);
      const double own = cache_.bias.empty() ? 0.0 : static_cast<double>(cache_.bias[row]);
      out_.bias[j] = static_cast<float>(own + std::log(weights_[j]));
    }
  }

  /// Rounds keys and biases to what will be stored, fits values to what is left of them (on the
  /// `sets` besides the queries given) and judges.
  result<void> complete(const std::vector<scored_set>& sets) {
    if (const auto ok = check_stop(stop_, "values"); !ok) return ok;
    if (const auto ok = store_keys(); !ok) return ok;
    if (const auto ok = fit_outputs(sets); !ok) return ok;
    if (const auto ok = store_values(); !ok) return ok;
    return judge();
  }

  /// Rounds keys and biases, and attends to them.
  result<void> store_keys() {
    if (const auto ok = round_to_storage(out_.keys, options_.storage, "keys"); !ok) return ok;
    if (const auto ok = round_to_storage(out_.bias, options_.bias_storage, "bias"); !ok) return ok;
    train_ = attend_compact(parts_.fit, cache_, options_.rule, out_);
    return {};
  }

  result<void> fit_outputs(const std::vector<scored_set>& sets) {
    matrix all_weights;  // of the queries given and of the sets
    matrix all_output;
    if (!sets.empty()) {
      index n = train_.weights.rows();
      for (const scored_set& set : sets) n += set.scores.output.rows();
      all_weights.resize(n, train_.weights.cols());
      all_output.resize(n, scores_.output.cols());
      index at = 0;
      const auto append = [&](const matrix& weights, const matrix& output) {
        all_weights.middleRows(at, weights.rows()) = weights;
        all_output.middleRows(at, weights.rows()) = output;
        at += weights.rows();
      };
      append(train_.weights, scores_.output);
      for (const scored_set& set : sets) {
        append(attend_compact(set.queries.part, cache_, options_.rule, out_).weights,
               set.scores.output);
      }
    }
    auto fit = fit_values(options_.values,
                          values_problem{sets.empty() ? &train_.weights : &all_weights,
                                         sets.empty() ? &scores_.output : &all_output, &original_});
    if (!fit) return fit.error();
    out_.values = std::move(fit->values);
    out_.report.is_values_fitted = fit->is_fitted;
    out_.report.values = fit->report;
    if (out_.values.rows() != original_.rows() || out_.values.cols() != original_.cols()) {
      return error{errc::shape_mismatch, "value policy's values", out_.values.rows(),
                   original_.rows()};
    }
    return {};
  }

  result<void> store_values() {
    copies_fit_ = round_to_storage(original_, options_.storage, "values").has_value();
    if (const auto ok = round_to_storage(out_.values, options_.storage, "values"); !ok) return ok;
    out_.report.seconds.values += clock_.lap();
    return {};
  }

  result<void> judge() {
    matrix train_output = train_.weights * out_.values;
    out_.report.train = compare(scores_.output, scores_.log_mass, train_output, train_.log_mass);
    double squares = 0;
    index seen = 0;
    for (index i = 0; i < scores_.log_mass.size(); ++i) {
      if (std::isinf(scores_.log_mass[i])) continue;
      const double relative = std::expm1(static_cast<double>(train_.log_mass[i]) -
                                         static_cast<double>(scores_.log_mass[i]));
      squares += relative * relative;
      ++seen;
    }
    out_.report.mass_residual = std::sqrt(squares / static_cast<double>(std::max<index>(seen, 1)));

    const bool may_copy =
        options_.keep_better_values && out_.report.is_values_fitted && copies_fit_ &&
        !options_.gradient;  // whose keys have left their rows, and which nothing guards
    const auto train_with_copies = [&] {
      train_output.noalias() = train_.weights * original_;
      return compare(scores_.output, scores_.log_mass, train_output, train_.log_mass);
    };
    bool is_judged = false;
    if (judge_->has_held_out()) {
      const auto full = judge_->held_out_scores();
      if (!full) return full.error();
      const compact_attention found = judge_->held_out_attention(out_);
      const matrix& weights = found.weights;
      const fidelity fitted =
          compare((*full)->output, (*full)->log_mass, weights * out_.values, found.log_mass);
      is_judged = fitted.queries > 0;  // queries that see nothing judge nothing
      if (is_judged) out_.report.held_out = fitted;
      if (is_judged && may_copy) {
        const fidelity copied =
            compare((*full)->output, (*full)->log_mass, weights * original_, found.log_mass);
        if (!(fitted.output_error <= copied.output_error) &&  // true for NaN, too
            !mostly_closer((*full)->output, weights * out_.values, weights * original_)) {
          out_.report.held_out = copied;
          take_copies(train_with_copies());
        }
      }
    }
    if (!is_judged && may_copy) {
      const fidelity copied = train_with_copies();
      if (!(out_.report.train.output_error <= copied.output_error)) take_copies(copied);
    }
    out_.report.seconds.judge += clock_.lap();
    return {};
  }

  /// Whether `fitted` is closer to `output` than `copied` is for more than half of the rows: a mean
  /// over few queries may hang on one of them, which alone shall not decide.
  static bool mostly_closer(const matrix& output, const matrix& fitted, const matrix& copied) {
    index closer = 0;
    for (index i = 0; i < output.rows(); ++i) {
      const float error = (output.row(i) - fitted.row(i)).squaredNorm();
      closer += error < (output.row(i) - copied.row(i)).squaredNorm() ? 1 : 0;
    }
    return 2 * closer > output.rows();
  }

  /// Moves keys and biases where that judges better; else the rows are completed as if there had
  /// been no refinement.
  result<void> refine(const refinement& moves) {
    refiner moving(moves, cache_, options_.rule, parts_.fit, scores_, out_.positions, original_,
                   stop_);
    const auto start_keys = out_.keys;
    const auto start_bias = out_.bias;
    const auto steps =
        refine_guarded(moving, *judge_, {options_.storage, options_.bias_storage}, out_);
    if (!steps) return steps.error();
    out_.report.refinement = moving.report();
    out_.report.refinement.start = steps->start;
    out_.report.refinement.kept_steps = steps->kept;
    out_.report.seconds.refine = clock_.lap();
    if (steps->kept > 0) {
      // The last fit of values may lose what refinement gained, or not fit the storage.
      const auto done = complete(moving.sets());
      if (done && !is_worse(steps->start)) return {};
      if (!done && done.error().code == errc::cancelled) return done;
      out_.report.refinement.kept_steps = 0;
      out_.report.copies_judged_better = false;
      original_ = gather_rows(cache_.values, out_.positions);  // not rounded
      out_.keys = start_keys;
      out_.bias = start_bias;
    }
    return complete({});
  }

  /// Whether the completed result is worse than `start` on the queries that judge.
  [[nodiscard]] bool is_worse(const fidelity& start) const {
    const fidelity& now = out_.report.held_out ? *out_.report.held_out : out_.report.train;
    return !(now.output_error <= start.output_error && now.mass_error <= start.mass_error);
  }

  /// Moves keys and biases, and with the joint loss values, by a published gradient method.
  result<void> descend_gradient(const gradient_keys& how) {
    const bool moves_values = how.loss == gradient_loss::joint;
    if (moves_values) {
      train_ = attend_compact(parts_.fit, cache_, options_.rule, out_);
      if (const auto ok = fit_outputs({}); !ok) return ok;
    }
    const scored_part all{&parts_.fit, &scores_};
    const refine_batch batch =
        make_batch(std::span(&all, 1), {}, cache_, options_.rule, out_.positions);
    compact_point point{std::move(out_.keys), std::move(out_.bias), std::move(out_.values)};
    out_.report.gradient = descend(how, batch, options_.rule.soft_cap, point, stop_);
    if (const auto ok = check_stop(stop_, "gradient"); !ok) return ok;
    out_.keys = std::move(point.keys);
    out_.bias = std::move(point.bias);
    out_.values = std::move(point.values);
    out_.report.seconds.refine = clock_.lap();
    if (!moves_values) return complete({});
    out_.report.values = {};  // of the start
    if (const auto ok = store_keys(); !ok) return ok;
    if (const auto ok = store_values(); !ok) return ok;
    return judge();
  }

  void take_copies(const fidelity& train) {
    out_.values = original_;
    out_.report.train = train;
    out_.report.is_values_fitted = false;
    out_.report.values = {};
    out_.report.copies_judged_better = true;
  }

  const options_type& options_;
  kv_block cache_;
  query_set queries_;
  index budget_;
  index first_row_;
  stop_when stop_;
  query_split parts_;
  attention_scores scores_;
  selected_rows chosen_;
  Eigen::VectorXd weights_;
  matrix original_;
  bool copies_fit_ = true;  // the kept rows' own values fit their storage type
  std::optional<head_judge> judge_;
  compact_attention train_;  // of the queries fitted on, over the result
  compacted out_;
  stopwatch clock_;
};

}  // namespace kvfit::detail::inline KVFIT_ISA
