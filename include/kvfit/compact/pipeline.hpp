// SPDX-License-Identifier: MIT
/// One head through the stages: score, select, weigh, refine; `value_stage` does the rest.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/split.hpp"
#include "kvfit/compact/all_importance.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/head_judge.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/refine_with_rollback.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/compact/stopwatch.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/compact/tied_values.hpp"
#include "kvfit/compact/value_stage.hpp"
#include "kvfit/compact/weight_fit.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/compact_point.hpp"
#include "kvfit/refine/refiner.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// One head on its way through the stages.
class pipeline {
 public:
  /// `first_row`: the caller's number of the cache's row 0. `plan`: what memory allows.
  pipeline(const kv_block& cache, const query_set& queries, const compact_options& options,
           index_t first_row, const memory_report& plan, const stop_when& stop,
           const executor_ref& threads)
      : options_(options),
        cache_(cache),
        queries_(queries),
        budget_(options.budget),
        first_row_(first_row),
        is_limited_(plan.lowers_queries),
        panels_at_once_(plan.panels_at_once),
        stop_(stop),
        threads_(threads.at_most(plan.panels_at_once)),
        parts_(split_queries(queries, cache.masks, options.queries.held_out, share())) {}

  result<compacted> run() {
    if (const auto ok = score(); !ok) return ok.error();
    if (const auto ok = choose(); !ok) return ok.error();
    if (const auto ok = weigh(); !ok) return ok.error();
    place_chosen();
    value_stage_.emplace(options_, scored_head{cache_, parts_, scores_}, *judge_, stop_, threads_,
                         clock_, out_, chosen_.is_exact);
    if (!options_.gradient.holds<no_gradient>()) {
      if (const auto ok = descend(*options_.gradient.get_if<gradient_keys>()); !ok) {
        return ok.error();
      }
      return std::move(out_);
    }
    refinement moves = decided_refinement(options_);
    if (*moves.steps > 0) {
      if (!out_.report.is_bias_fitted && !options_.refine.steps) moves.fits_bias = false;
      if (const auto ok = refine(moves); !ok) return ok.error();
    } else if (const auto ok = value_stage_->run({}); !ok) {
      return ok.error();
    }
    return std::move(out_);
  }

  /// The rows chosen last, ascending by their numbers in the cache: where a run ended with an
  /// error, those whose places it counts.
  [[nodiscard]] const std::vector<index_t>& chosen_rows() const noexcept { return out_.positions; }

 private:
  [[nodiscard]] double share() const { return fitted_share(options_, queries_.rows(), budget_); }

  result<void> score() {
    auto scores =
        score_checked(parts_.fit.beside(cache_), parts_.fit.set(), options_.rule,
                      fit_scores(options_, panels_at_once_), parts_.fit.origins, stop_, threads_);
    if (!scores) return scores.error();
    scores_ = std::move(*scores);
    for (index_t i = 0; i < scores_.max.size(); ++i) {
      out_.report.masked_queries +=
          scores_.max[i] == -std::numeric_limits<float>::infinity() ? 1 : 0;
    }
    if (out_.report.masked_queries == scores_.max.size()) {
      // Those left out may see some: fit on all, or as many of them as memory allows.
      if (!fits_again_ && scores_.max.size() < queries_.rows()) {
        fits_again_ = true;
        scores_ = {};
        parts_ = split_queries(queries_, cache_.masks, 0, is_limited_ ? share() : 1);
        out_.report.masked_queries = 0;
        return score();
      }
      return error{errc::all_masked, "queries", 0, scores_.max.size(), "no query sees any key"};
    }
    judge_.emplace(cache_, options_.rule, parts_, scores_, stop_, threads_);
    const auto ranked =
        rank_by_all(cache_, queries_, options_.rule, fit_scores(options_, panels_at_once_),
                    share() >= 1, *judge_, scores_, stop_, threads_);
    if (!ranked) return ranked;
    out_.report.seconds.score = clock_.lap();
    return {};
  }

  [[nodiscard]] selection_problem problem() const {
    return {.cache = parts_.fit.beside(cache_),
            .queries = parts_.fit.set(),
            .rule = options_.rule,
            .scores = &scores_,
            .budget = budget_,
            .memory_cap = options_.memory.selection,
            .first_row = first_row_,
            .origins = parts_.fit.origins,
            .stop = stop_,
            .threads = threads_};
  }

  result<void> choose() {
    auto chosen = select(options_.selection, problem());
    if (!chosen) return chosen.error();
    chosen_ = std::move(*chosen);
    out_.report.selection = chosen_.report;
    const auto kept = static_cast<index_t>(chosen_.positions.size());
    if (kept < 1 || kept > budget_) {
      return error{errc::budget_out_of_range, "selection policy's positions", kept,
                   kept < 1 ? 1 : budget_, "must be at least 1, and within the budget"};
    }
    if (!chosen_.weights.empty() && chosen_.weights.size() != chosen_.positions.size()) {
      return error{errc::shape_mismatch, "selection policy's weights",
                   static_cast<index_t>(chosen_.weights.size()), kept, "one for each position"};
    }
    if (!chosen_.is_exact.empty() && chosen_.is_exact.size() != chosen_.positions.size()) {
      return error{errc::shape_mismatch, "selection policy's is_exact",
                   static_cast<index_t>(chosen_.is_exact.size()), kept, "one for each position"};
    }
    sort_by_position(chosen_);
    if (const auto ok = check_positions(); !ok) return ok;
    out_.report.seconds.select = clock_.lap();
    return {};
  }

  /// A caller's own policy may return anything.
  [[nodiscard]] result<void> check_positions() const {
    index_t last = -1;
    for (const index_t row : chosen_.positions) {
      if (row <= last || row >= cache_.keys.rows() || !problem().may_keep(row)) {
        return error{errc::invalid_position, "selection policy's positions", row,
                     cache_.keys.rows(), "out of range, repeated or hidden"};
      }
      last = row;
    }
    return {};
  }

  result<void> weigh() {
    weight_fit fit(options_.selection, options_.bias, problem(), options_.storage.rows,
                   options_.replace_dead_keys);
    auto fitted = fit.run(std::move(chosen_));
    if (!fitted) {
      out_.positions = fit.rows();
      return fitted.error();
    }
    scores_.exponentials = matrix();  // nothing after this reads all keys
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
    out_.bias.resize(static_cast<index_t>(weights_.size()));
    for (std::size_t j = 0; j < weights_.size(); ++j) {
      const auto row = static_cast<std::size_t>(out_.positions[j]);
      const double own = cache_.bias.empty() ? 0.0 : static_cast<double>(cache_.bias[row]);
      out_.bias[static_cast<index_t>(j)] = static_cast<float>(own + std::log(weights_[j]));
    }
  }

  /// Moves keys and biases where that judges better; else the rows are completed as if there had
  /// been no refinement.
  result<void> refine(const refinement& moves) {
    const auto start_keys = out_.keys;
    const auto start_bias = out_.bias;
    std::vector<scored_set> sets;
    const auto steps = move_keys(moves, sets);
    if (!steps) return steps.error();
    if (steps->kept > 0) {
      // The last fit of values may lose what refinement gained, or not fit the storage.
      const auto done = value_stage_->run(sets);
      if (done && !is_worse(steps->start)) return {};
      if (!done && done.error().code == errc::cancelled) return done;
      out_.report.refinement.kept_steps = 0;
      out_.report.copies_judged_better = false;
      value_stage_->gather_original();
      out_.keys = start_keys;
      out_.bias = start_bias;
    }
    sets.clear();
    return value_stage_->run({});
  }

  /// Refinement with rollback; `sets`: those its last batch was stepped on with.
  result<kept_refinement> move_keys(const refinement& moves, std::vector<scored_set>& sets) {
    refiner moving(moves, cache_, options_.rule, parts_.fit, scores_, out_.positions,
                   value_stage_->original(), options_.tied_values_from, stop_, chosen_.is_exact);
    const auto steps =
        refine_with_rollback(moving, *judge_, {options_.storage.rows, options_.storage.bias},
                             options_.tied_values_from, out_);
    if (!steps) return steps.error();
    out_.report.refinement = moving.report();
    out_.report.refinement.start = steps->start;
    out_.report.refinement.kept_steps = steps->kept;
    out_.report.seconds.refine = clock_.lap();
    sets = moving.take_sets();
    return *steps;
  }

  /// Whether the completed result is worse than `start` on the queries that judge.
  [[nodiscard]] bool is_worse(const fidelity& start) const {
    const fidelity& now = out_.report.held_out ? *out_.report.held_out : out_.report.train;
    return !(now.output_error <= start.output_error && now.mass_error <= start.mass_error);
  }

  /// Moves keys and biases, and with the joint loss values, by a published gradient method.
  result<void> descend(const gradient_keys& how) {
    const bool moves_values = how.loss == gradient_loss::joint;
    if (moves_values) {
      if (const auto ok = value_stage_->fit_unstored(); !ok) return ok;
    }
    compact_point point{std::move(out_.keys), std::move(out_.bias), std::move(out_.values)};
    {
      const scored_part all{&parts_.fit, &scores_};
      const refine_batch batch =
          make_batch(std::span(&all, 1), {}, cache_, options_.rule, out_.positions);
      out_.report.gradient = functions_of(options_.gradient)
                                 .descend(&how, &batch, options_.rule.soft_cap, &point, stop_);
    }
    if (const auto ok = check_stop(stop_, "gradient"); !ok) return ok;
    out_.keys = std::move(point.keys);
    out_.bias = std::move(point.bias);
    out_.values = std::move(point.values);
    out_.report.seconds.refine = clock_.lap();
    if (!moves_values) return value_stage_->run({});
    out_.report.values = {};  // of the start
    return value_stage_->run_with_values();
  }

  const compact_options& options_;
  kv_block cache_;
  query_set queries_;
  index_t budget_;
  index_t first_row_;
  bool is_limited_;  // no more queries may be fitted on than the options ask for
  index_t panels_at_once_;
  bool fits_again_ = false;
  stop_when stop_;
  executor_ref threads_;
  query_split parts_;
  attention_scores scores_;
  selected_rows chosen_;
  std::vector<double> weights_;
  std::optional<head_judge> judge_;
  compacted out_;
  stopwatch clock_;
  std::optional<value_stage> value_stage_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
