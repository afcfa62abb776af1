// SPDX-License-Identifier: MIT
/// The stages of `compact()` for one head, in the order in which it runs them: score, select,
/// weigh, refine, fit values, judge.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/attention/score_by.hpp"
#include "kvfit/compact/all_importance.hpp"
#include "kvfit/compact/check.hpp"
#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/decided_refinement.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/move_keys.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/compact/value_fit.hpp"
#include "kvfit/compact/weight_fit.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/refine/refiner.hpp"
#include "kvfit/view/check.hpp"
#include "kvfit/view/load.hpp"

/// Each stage is a function of values: it changes none that it does not get, and what it gets by
/// value is moved into what it gives. `compact()` runs them as this does (compact/run.hpp):
///
///     namespace stages = kvfit::stages;
///     const stages::problem head{.cache = block, .queries = queries, .options = options};
///     if (auto ok = stages::check(head); !ok) return ok.error();
///     auto full = stages::score(head);
///     auto chosen = stages::select(head, *full);
///     auto rows = stages::weigh(head, *full, std::move(*chosen));
///     const auto wanted = stages::score_held_out(head, std::move(*full));
///     auto moved = stages::refine(head, *wanted, std::move(*rows));
///     auto fitted = stages::fit_values(head, *wanted, std::move(*moved));
///     auto small = stages::judge(head, *wanted, std::move(*fitted));
///
/// (each result tested before its use). `compact()` besides keeps protected rows, plans memory,
/// measures seconds, and begins again from `refined::start` where moved keys judge worse at the
/// end. With kvfit::compiled, stages are compiled in the calling file, and policies are the
/// library's.
namespace kvfit::stages {
inline namespace KVFIT_ISA {

/// Refuses what the stages can't do: all that `compact()` refuses; `budget_out_of_range` where the
/// budget holds every visible row; `invalid_option` for protected rows, for a memory cap, and for a
/// gradient method that another file's code would run. The other stages take this for granted.
/// Cost: one read of all inputs; allocates a few rows.
[[nodiscard]] inline result<void> check(const problem& of) {
  if (const auto ok = detail::check_compaction(of.cache, of.queries, of.options); !ok) return ok;
  const index_t visible = of.cache.keys.rows() - order_of(of.cache).hidden();
  if (of.options.budget >= visible) {
    return error{errc::budget_out_of_range, "budget", of.options.budget, visible - 1,
                 "holds every visible row: nothing is to be fitted"};
  }
  const auto refuse = [](const char* option, const char* why) -> result<void> {
    return error{errc::invalid_option, option, error::none, error::none, why};
  };
  if (!of.options.protect.is_empty()) return refuse("protect", "stages fit rows and keep none");
  if (of.options.memory.cap) return refuse("memory.cap", "stages plan no memory");
  const auto* joint = of.options.selection.get_if<selection::joint>();
  if (joint != nullptr && !joint->prior.empty() && of.first_row != 0) {
    return refuse("joint.prior", "counts rows from 0, and `first_row` is not 0");
  }
  if (isa_tag::links_library && !of.options.gradient.holds<no_gradient>()) {
    return refuse("gradient", "its matrices can't be handed to kvfit::compiled");
  }
  return {};
}

/// Full attention of the queries that are fitted on (a share of those not held out, `query_use`):
/// y_i = Σ_j exp(s_ij), o_i = Σ_j exp(s_ij) v_j / y_i, and what the selection wants of it. Where
/// none of them sees a key, of all queries. Importance is that under all queries given.
///
/// Errors: `all_masked` where no query sees a key; those of `score_pass`. Cost: n T (d_k + d_v),
/// and where rows are ranked the same for the queries held out and left out (`rank_by_all`); holds
/// what `score_pass` does, n × T exponentials within `memory.selection` where wanted.
[[nodiscard]] inline result<scored> score(const problem& of) {
  const compact_options& options = of.options;
  const double share = detail::fitted_share(options, of.queries.rows(), options.budget);
  scored out{split_queries(of.queries, of.cache.masks, options.queries.held_out, share), {}, 0};
  for (bool is_first = true;; is_first = false) {
    const query_part& part = out.parts.fit;
    const index_t n = part.set().rows();
    const index_t width = of.cache.values.cols();
    if (of.known != nullptr && n == of.queries.rows() && of.known->are_of(n, width)) {
      out.fitted = detail::scores_from(*of.known, width);
    } else {
      auto scores = detail::score_by(
          options.score_by, part.beside(of.cache), part.set(), options.rule,
          detail::fit_scores(options, of.cache.keys.rows(), options.budget, of.threads.threads()),
          part.origins, of.stop, of.threads);
      if (!scores) return scores.error();
      out.fitted = std::move(*scores);
    }
    const vector& max = out.fitted.max;
    out.masked_queries =
        std::count(max.data(), max.data() + n, -std::numeric_limits<float>::infinity());
    if (out.masked_queries < n) {
      if (const auto ok = detail::rank_by_all(of, out); !ok) return ok.error();
      return out;
    }
    if (!is_first || n == of.queries.rows()) {
      return error{errc::all_masked, "queries", 0, n, "no query sees any key"};
    }
    out.fitted = {};
    out.parts = split_queries(of.queries, of.cache.masks, 0, of.may_fit_all ? 1 : share);
  }
}

/// The rows to keep, in the order of choice, by `options.selection`: 1 … t distinct visible ones.
///
/// Errors: those of the selection; `budget_out_of_range`, `shape_mismatch` and `invalid_position`
/// where a policy of the caller's returns other rows, or weights for some of them. Cost: the
/// selection's own.
[[nodiscard]] inline result<selected_rows> select(const problem& of, const scored& full) {
  const selection_problem asked = detail::selection_problem_of(of, full);
  auto chosen = kvfit::select(of.options.selection, asked);
  if (!chosen) return chosen;
  const auto kept = static_cast<index_t>(chosen->positions.size());
  if (kept < 1 || kept > asked.budget) {
    return error{errc::budget_out_of_range, "selection policy's positions", kept,
                 kept < 1 ? 1 : asked.budget, "must be at least 1, and within the budget"};
  }
  if (!chosen->weights.empty() && chosen->weights.size() != chosen->positions.size()) {
    return error{errc::shape_mismatch, "selection policy's weights",
                 static_cast<index_t>(chosen->weights.size()), kept, "one for each position"};
  }
  const index_t by_attention = chosen->report.by_attention;
  if (by_attention < 0 || by_attention > kept) {
    return error{errc::shape_mismatch, "selection policy's report.by_attention", by_attention, kept,
                 "rows chosen by attention, of all"};
  }
  std::vector<index_t> ascending = chosen->positions;
  std::sort(ascending.begin(), ascending.end());
  index_t last = -1;
  for (const index_t row : ascending) {
    if (row <= last || row >= of.cache.keys.rows() || !asked.may_keep(row)) {
      return error{errc::invalid_position, "selection policy's positions", row,
                   of.cache.keys.rows(), "out of range, repeated or hidden"};
    }
    last = row;
  }
  return chosen;
}

/// Weights of the chosen rows by `options.bias`, so that Σ_j exp(s_ij) w_j ≈ y_i with keys as they
/// will be stored; rows whose weight ends on its floor give way to others (`replace_dead_keys`).
/// Gives positions (ascending), keys (not rounded) and bias = own bias + ln w.
///
/// Errors: those of the policy, `shape_mismatch` and `invalid_option` for its weights,
/// `storage_overflow` for keys, `cancelled`. Cost: n t d_k and the policy's own, up to four times;
/// holds n × t numbers besides.
[[nodiscard]] inline result<compacted> weigh(const problem& of, const scored& full,
                                             selected_rows chosen) {
  detail::sort_by_position(chosen.positions, chosen.weights);
  auto fit = detail::weight_fit(of, full).run(std::move(chosen));
  if (!fit) return fit.error();
  compacted rows;
  rows.positions = std::move(fit->rows.positions);
  rows.keys = gather_rows(of.cache.keys, rows.positions);
  rows.bias.resize(static_cast<index_t>(fit->weights.size()));
  for (std::size_t j = 0; j < fit->weights.size(); ++j) {
    const auto row = static_cast<std::size_t>(rows.positions[j]);
    const double own = of.cache.bias.empty() ? 0.0 : static_cast<double>(of.cache.bias[row]);
    rows.bias[static_cast<index_t>(j)] = static_cast<float>(own + std::log(fit->weights[j]));
  }
  rows.report.masked_queries = full.masked_queries;
  rows.report.selection = fit->rows.report;
  rows.report.is_bias_fitted = fit->is_fitted;
  rows.report.bias = fit->report;
  rows.report.dead_keys = fit->dead;
  rows.report.dead_keys_replaced = fit->replaced;
  return rows;
}

/// Full attention of the queries held out, beside that of those fitted on, whose exponentials are
/// freed: no stage after this reads all keys.
///
/// Errors: those of `score_pass`. Cost: n T (d_k + d_v) for n held-out queries.
[[nodiscard]] inline result<targets> score_held_out(const problem& of, scored full) {
  full.fitted.exponentials = matrix();
  targets out{std::move(full.parts), std::move(full.fitted), {}};
  const query_part& part = out.parts.judge;
  if (part.blocks.empty()) return out;
  auto scores = detail::score_by(
      of.options.score_by, part.beside(of.cache), part.set(), of.options.rule,
      {.importance = importance_kind::none, .panels_at_once = of.threads.threads()}, {}, of.stop,
      of.threads);
  if (!scores) return scores.error();
  out.held_out = std::move(*scores);
  return out;
}

/// Moves keys and biases by `options.refine` so that mass and output of the queries fitted on come
/// nearer (docs/algorithm.md, Refinement), and keeps the batch that judges best, or the rows as
/// they were. Where steps come to 0, nothing is moved. With `options.gradient` runs a published
/// method instead, which nothing judges.
///
/// Errors: those of the score pass over made queries; `cancelled`; those of `fit_values` where the
/// joint gradient method starts from fitted values. Cost: the refinement's own.
[[nodiscard]] inline result<refined> refine(const problem& of, const targets& full,
                                            compacted rows) {
  const compact_options& options = of.options;
  refined out{std::move(rows)};
  if (const auto* how = options.gradient.get_if<gradient_keys>(); how != nullptr) {
    if (const auto ok = detail::move_by_gradient(of, full, *how, out.rows); !ok) return ok.error();
    return out;
  }
  const refinement moves = detail::decided_refinement(options, out.rows.report.is_bias_fitted);
  if (*moves.steps == 0) return out;
  const matrix original = gather_rows(of.cache.values, out.rows.positions);
  refiner moving(moves, of.cache, options.rule, full.parts.fit, full.fitted, out.rows.positions,
                 original, options.tied_values_from, of.stop, of.threads);
  auto kept = detail::refine_with_rollback(moving, of, full, out.rows);
  if (!kept) return kept.error();
  out.rows.report.refinement = moving.report();
  out.rows.report.refinement.start = kept->start_errors;
  if (kept->steps == 0) return out;
  out.start = compacted{.positions = out.rows.positions,
                        .key_positions = {},
                        .keys = std::move(kept->start_keys),
                        .bias = std::move(kept->start_bias),
                        .values = {},
                        .report = out.rows.report};
  out.rows.report.refinement.kept_steps = kept->steps;
  out.sets = moving.take_sets();
  return out;
}

/// Rounds keys and biases to `options.storage`, and fits values C by `options.values` to what is
/// left of them: softmax(s + β) C ≈ o. Tied values are taken from the keys; those that a gradient
/// method has moved stay. Values are rounded, too.
///
/// Errors: `storage_overflow` at the place of the row; those of the policy, `shape_mismatch` for
/// its values; `cancelled`. Cost: n t (d_k + d_v) and the policy's own; holds n × t weights.
[[nodiscard]] inline result<valued> fit_values(const problem& of, const targets& full,
                                               refined moved) {
  if (const auto ok = check_stop(of.stop, "values"); !ok) return ok.error();
  const compact_options& options = of.options;
  valued out{std::move(moved.rows), {}, {}};
  compacted& rows = out.rows;
  const auto store = [&](auto& numbers, dtype type, const char* what) {
    return detail::round_rows(of, rows.positions, numbers, type, what);
  };
  if (const auto ok = store(rows.keys, options.storage.rows, "keys"); !ok) return ok.error();
  if (const auto ok = store(rows.bias, options.storage.bias, "bias"); !ok) return ok.error();
  out.attention = detail::attention_over(of, full.parts.fit, rows);
  if (options.tied_values_from) {
    rows.values = rows.keys.middleCols(*options.tied_values_from, of.cache.values.cols());
  } else if (rows.values.rows() == 0) {
    out.copies = gather_rows(of.cache.values, rows.positions);
    const auto ok = detail::fit_values_of(of, full, out.attention, out.copies, moved.sets, rows);
    if (!ok) return ok.error();
    const bool fits =
        detail::round_to_storage(out.copies, options.storage.rows, "values").has_value();
    // Keys that a gradient method has moved are no longer those of the rows.
    if (!fits || !options.gradient.holds<no_gradient>()) out.copies = matrix();
  }
  if (const auto ok = store(rows.values, options.storage.rows, "values"); !ok) return ok.error();
  return out;
}

/// Errors on the queries fitted on and held out; copied values instead of fitted ones where they
/// judge better (`keep_better_values`). Positions count from row 0 of `cache`, as everywhere here;
/// `key_positions` are left empty.
///
/// Errors: `non_finite` where a policy's values are no numbers and nothing replaces them. Cost:
/// n t (d_k + d_v) for all queries, once more d_v for copies; allocates outputs of the queries.
[[nodiscard]] inline result<compacted> judge(const problem& of, const targets& full,
                                             valued fitted) {
  compacted& rows = fitted.rows;
  compact_report& report = rows.report;
  report.train = detail::errors_of(of, full.fitted, fitted.attention, rows.values);
  report.mass_residual = detail::mass_residual(full.fitted.log_mass, fitted.attention.log_mass);
  const bool may_copy =
      of.options.keep_better_values && report.is_values_fitted && fitted.copies.rows() > 0;
  const detail::held_out_errors held_out = detail::judge_held_out(of, full, fitted, may_copy);
  report.held_out = held_out.copied ? held_out.copied : held_out.fitted;
  bool is_copied = held_out.copied.has_value();
  if (may_copy && (is_copied || !held_out.fitted)) {
    const fidelity copied = detail::errors_of(of, full.fitted, fitted.attention, fitted.copies);
    is_copied = is_copied || !(report.train.rms_output_error <= copied.rms_output_error);
    if (is_copied) report.train = copied;
  }
  if (is_copied) {
    rows.values = std::move(fitted.copies);
    report.is_values_fitted = false;
    report.values = {};
    report.copies_judged_better = true;
  }
  // A policy of the caller's may fit anything, and nothing better may have taken its place.
  const index_t bad = detail::first_non_finite(rows.values.data(), rows.values.size());
  if (bad == rows.values.size()) return std::move(rows);
  const auto* how = of.options.gradient.get_if<gradient_keys>();
  const bool is_moved = how != nullptr && how->loss == gradient_loss::joint;
  return error{errc::non_finite, is_moved ? "gradient method's values" : "value policy's values",
               bad / rows.values.cols(), bad % rows.values.cols()};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::stages
