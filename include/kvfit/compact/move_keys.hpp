// SPDX-License-Identifier: MIT
/// How keys move: refinement that never returns worse than it started from, by the queries held
/// out; or a published gradient method.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/compact/value_fit.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/compact_point.hpp"
#include "kvfit/refine/refiner.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// How a refinement with rollback ended: the steps that are kept, and where it started.
struct kept_refinement {
  int steps = 0;  ///< 0: the start is
  fidelity start_errors;
  matrix start_keys;  ///< these two where steps are kept
  vector start_bias;
};

/// Runs `moving` from the keys and biases of `compact` and leaves the best there: of the points
/// after each batch, rounded to storage, that of the least output error times root of mass error,
/// provided that it is less than that of the start and neither error is greater; else the start.
/// Values are those that J fits, or, where they are tied, those of the keys as they will be stored.
inline result<kept_refinement> refine_with_rollback(refiner& moving, const stages::problem& of,
                                                    const stages::targets& full,
                                                    compacted& compact) {
  struct point {
    matrix keys;
    vector bias;
    fidelity errors;
  };
  const compact_options& options = of.options;
  point start{compact.keys, compact.bias, {}};
  point best;
  int kept_steps = 0;
  moving.start(start.keys, start.bias);
  const auto judge_here = [&](const matrix& values) -> fidelity {
    const bool fits = round_to_storage(compact.keys, options.storage.rows, "keys").has_value() &&
                      round_to_storage(compact.bias, options.storage.bias, "bias").has_value();
    // Without values J is beyond all numbers there.
    if (!fits || values.rows() != compact.keys.rows()) {
      return {.rms_output_error = std::numeric_limits<double>::infinity()};
    }
    if (options.tied_values_from) {
      const matrix tied = compact.keys.middleCols(*options.tied_values_from, values.cols());
      return judged_errors(of, full, compact, tied);
    }
    return judged_errors(of, full, compact, values);
  };
  const auto both = [](const fidelity& errors) {
    return errors.rms_output_error * std::sqrt(errors.mass_error);
  };
  while (!moving.is_done()) {
    if (const auto ok = moving.step(); !ok) return ok.error();
    if (best.keys.size() == 0) {
      start.errors = judge_here(moving.start_values());
      best = start;
    }
    compact.keys = moving.keys();
    compact.bias = moving.bias();
    const fidelity now = judge_here(moving.values());
    if (now.rms_output_error <= start.errors.rms_output_error &&
        now.mass_error <= start.errors.mass_error && both(now) < both(best.errors)) {
      best = {compact.keys, compact.bias, now};
      kept_steps = moving.report().steps;
    }
  }
  if (kept_steps == 0) {
    compact.keys = std::move(start.keys);
    compact.bias = std::move(start.bias);
    return kept_refinement{0, start.errors, {}, {}};
  }
  compact.keys = std::move(best.keys);
  compact.bias = std::move(best.bias);
  return kept_refinement{kept_steps, start.errors, std::move(start.keys), std::move(start.bias)};
}

/// Moves keys and biases of `rows`, and with the joint loss values that are fitted before, on all
/// queries fitted on.
inline result<void> move_by_gradient(const stages::problem& of, const stages::targets& full,
                                     const gradient_keys& how, compacted& rows) {
  if (how.loss == gradient_loss::joint) {
    const matrix original = gather_rows(of.cache.values, rows.positions);
    const auto ok =
        fit_values_of(of, full, attention_over(of, full.parts.fit, rows), original, {}, rows);
    if (!ok) return ok;
    rows.report.values = {};  // of the start
  }
  compact_point point{std::move(rows.keys), std::move(rows.bias), std::move(rows.values)};
  {
    const scored_part all{&full.parts.fit, &full.fitted};
    const refine_batch batch =
        make_batch(std::span(&all, 1), {}, of.cache, of.options.rule, rows.positions);
    rows.report.gradient = functions_of(of.options.gradient)
                               .descend(&how, &batch, of.options.rule.soft_cap, &point, of.stop);
  }
  if (const auto ok = check_stop(of.stop, "gradient"); !ok) return ok;
  rows.keys = std::move(point.keys);
  rows.bias = std::move(point.bias);
  rows.values = std::move(point.values);
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
