// SPDX-License-Identifier: MIT
/// Values of kept rows by the policy of the options, and how fitted ones compare with copies.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/refine/query_sets.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What values are fitted to: weights over the kept rows and full outputs of several query sets.
struct stacked_queries {
  matrix weights;
  matrix output;
};

/// The queries fitted on, whose attention over `rows` is `attention`, and those of `sets`.
inline stacked_queries stack(const stages::problem& of, const stages::targets& full,
                             const compacted& rows, const stages::compact_attention& attention,
                             const std::vector<scored_set>& sets) {
  index_t n = attention.weights.rows();
  for (const scored_set& set : sets) n += set.scores.output.rows();
  stacked_queries all;
  all.weights.resize(n, attention.weights.cols());
  all.output.resize(n, full.fitted.output.cols());
  index_t at = 0;
  const auto append = [&](const matrix& weights, const matrix& output) {
    std::copy_n(weights.data(), weights.size(), all.weights.data() + at * weights.cols());
    std::copy_n(output.data(), output.size(), all.output.data() + at * output.cols());
    at += weights.rows();
  };
  append(attention.weights, full.fitted.output);
  for (const scored_set& set : sets) {
    append(attention_over(of, set.queries.part, rows).weights, set.scores.output);
  }
  return all;
}

/// Sets the values of `rows` and what the report says of them. `original`: the rows' own values.
inline result<void> fit_values_of(const stages::problem& of, const stages::targets& full,
                                  const stages::compact_attention& attention,
                                  const matrix& original, const std::vector<scored_set>& sets,
                                  compacted& rows) {
  stacked_queries all;
  if (!sets.empty()) all = stack(of, full, rows, attention, sets);
  auto fit =
      fit_values(of.options.values, values_problem{sets.empty() ? &attention.weights : &all.weights,
                                                   sets.empty() ? &full.fitted.output : &all.output,
                                                   &original, of.threads});
  if (!fit) return fit.error();
  const bool is_short = fit->values.rows() != original.rows();
  if (is_short || fit->values.cols() != original.cols()) {
    return error{errc::shape_mismatch, "value policy's values",
                 is_short ? fit->values.rows() : fit->values.cols(),
                 is_short ? original.rows() : original.cols(), is_short ? "rows" : "columns"};
  }
  rows.values = std::move(fit->values);
  rows.report.is_values_fitted = fit->is_fitted;
  rows.report.values = fit->report;
  return {};
}

/// √(Σ_i (ŷ_i / y_i − 1)² / n) over the queries that see a key.
inline double mass_residual(const vector& log_mass, const vector& found) {
  double squares = 0;
  index_t seen = 0;
  for (index_t i = 0; i < log_mass.size(); ++i) {
    if (std::isinf(log_mass[i])) continue;
    const double relative =
        std::expm1(static_cast<double>(found[i]) - static_cast<double>(log_mass[i]));
    squares += relative * relative;
    ++seen;
  }
  return std::sqrt(squares / static_cast<double>(std::max<index_t>(seen, 1)));
}

/// Whether `fitted` is closer to `output` than `copied` is for more than half of the rows: a mean
/// over few queries may hang on one of them, which alone shall not decide.
inline bool mostly_closer(const matrix& output, const matrix& fitted, const matrix& copied) {
  index_t closer = 0;
  for (index_t i = 0; i < output.rows(); ++i) {
    // In double: squares of small numbers vanish in fp32.
    const double error = (output.row(i) - fitted.row(i)).cast<double>().squaredNorm();
    closer += error < (output.row(i) - copied.row(i)).cast<double>().squaredNorm() ? 1 : 0;
  }
  return 2 * closer > output.rows();
}

/// Errors on the queries held out; none where no query there sees a key.
struct held_out_errors {
  std::optional<fidelity> fitted;
  std::optional<fidelity> copied;  ///< those of copied values where these judge better
};

inline held_out_errors judge_held_out(const stages::problem& of, const stages::targets& full,
                                      const stages::valued& found, bool may_copy) {
  held_out_errors out;
  if (full.parts.judge.blocks.empty()) return out;
  const attention_scores& wanted = full.held_out;
  const stages::compact_attention attention = attention_over(of, full.parts.judge, found.rows);
  const auto errors = [&](const matrix& output) {
    return compare(wanted.output, wanted.log_mass, output, attention.log_mass);
  };
  const matrix output = weighted_values(attention.weights, found.rows.values, of.threads);
  const fidelity fitted = errors(output);
  if (fitted.queries == 0) return out;
  out.fitted = fitted;
  if (!may_copy) return out;
  const matrix of_copies = weighted_values(attention.weights, found.copies, of.threads);
  const fidelity copied = errors(of_copies);
  if (!(fitted.rms_output_error <= copied.rms_output_error) &&  // true for NaN, too
      !mostly_closer(wanted.output, output, of_copies)) {
    out.copied = copied;
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
