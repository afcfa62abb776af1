// SPDX-License-Identifier: MIT
/// Refinement that never returns worse than it started from, by the judge's queries.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/head_judge.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/refine/refiner.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Storage types that compact keys and biases are rounded to before they are judged.
struct stored_types {
  dtype rows = dtype::fp32;
  dtype bias = dtype::fp32;
};

/// What is left after refinement with rollback: the steps it took there, 0 for the start.
struct kept_refinement {
  int kept = 0;
  fidelity start;
};

/// Runs `moving` from the keys and biases of `compact` and leaves the best there: of the points
/// after each batch, that of the least output error times root of mass error, provided that it is
/// less than that of the start and neither error is greater; else the start. Returns the steps it
/// took to what is left, and the start's errors. Values are those that J fits; with `tied_from`
/// those of the keys as they will be stored.
inline result<kept_refinement> refine_with_rollback(refiner& moving, head_judge& judge,
                                                    const stored_types& types,
                                                    const std::optional<index_t>& tied_from,
                                                    compacted& compact) {
  struct point {
    matrix keys;
    vector bias;
    fidelity errors;
  };
  point start{compact.keys, compact.bias, {}};
  point best;
  int kept_steps = 0;
  moving.start(start.keys, start.bias);
  const auto judge_here = [&](const matrix& values) -> result<fidelity> {
    const bool fits = round_to_storage(compact.keys, types.rows, "keys").has_value() &&
                      round_to_storage(compact.bias, types.bias, "bias").has_value();
    // Without values J is beyond all numbers there.
    if (!fits || values.rows() != compact.keys.rows()) {
      return fidelity{.output_error = std::numeric_limits<double>::infinity()};
    }
    if (tied_from) {
      const matrix tied = compact.keys.middleCols(*tied_from, values.cols());
      return judge.errors(compact, tied);
    }
    return judge.errors(compact, values);
  };
  const auto both = [](const fidelity& of) { return of.output_error * std::sqrt(of.mass_error); };
  while (!moving.is_done()) {
    if (const auto ok = moving.step(); !ok) return ok.error();
    if (best.keys.size() == 0) {
      const auto errors = judge_here(moving.start_values());
      if (!errors) return errors.error();
      start.errors = *errors;
      best = start;
    }
    compact.keys = moving.keys();
    compact.bias = moving.bias();
    const auto now = judge_here(moving.values());
    if (!now) return now.error();
    if (now->output_error <= start.errors.output_error &&
        now->mass_error <= start.errors.mass_error && both(*now) < both(best.errors)) {
      best = {compact.keys, compact.bias, *now};
      kept_steps = moving.report().steps;
    }
  }
  const bool is_start = kept_steps == 0;
  compact.keys = std::move(is_start ? start.keys : best.keys);
  compact.bias = std::move(is_start ? start.bias : best.bias);
  return kept_refinement{kept_steps, start.errors};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
