// SPDX-License-Identifier: MIT
/// Settings of the continuous refinement of compact keys and biases, and its report.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/output_weighting.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// Compact keys are free vectors, not only rows of K. From the chosen rows, L-BFGS steps on keys
/// and biases lower
///
///     J = output_weight · mean_i f_i² ‖o_i − ô_i‖²  +  mass_weight · mean_i h(ŷ_i / y_i − 1),
///     h(x) = √(x² + s²) − s,   s = mass_softness,   f by `weighting`
///
/// values being fitted anew at every point (docs/algorithm.md, Refinement), or, where they are tied
/// to keys, moving with them. Without the first term
/// a step costs a third, and outputs gain by their mass alone. The result is taken only
/// where it judges better than the rows it started from on the queries held out (where none are, on
/// those fitted on): neither the rms output error ε_o nor the mass error ε_m greater, and
/// ε_o √ε_m less.
struct refinement {
  /// Of L-BFGS, ≥ 0; 0 keeps rows as they are. None given: seven within the work of 1.3 score
  /// passes where the selection is `joint` and values are fitted (the cost of OMP, and the best
  /// there is for it); thirty within eight where values are tied to keys; else 0.
  std::optional<int> steps = {};
  /// No batch begins with more steps than can be evaluated once each within the multiply-adds of
  /// this many score passes over the queries fitted on, those evaluated before counted, ≥ 0; one
  /// step is always taken. Line searches may go a little beyond; full attention over made sets is
  /// not counted. 0: no limit.
  double work = 0;
  double output_weight = 1;  ///< ≥ 0
  /// f_i = 1/‖o_i‖ (errors count relative to the outputs), or 1 over the outputs' rms norm.
  output_weighting weighting = output_weighting::absolute;
  double mass_weight = 0.6;     ///< ≥ 0
  double mass_softness = 0.05;  ///< > 0: smaller mass errors count by their square
  bool fits_bias = true;        ///< false: biases stay as they are (for kernels without one)
  /// A batch takes every s-th of the given queries (and of each set beside them), s the least
  /// stride that leaves no more than this of the given ones, ≥ 1; the next batch takes those after
  /// them.
  index_t batch = 8192;
  int steps_a_batch = 8;  ///< ≥ 1; all of them where there is one batch and values are fitted

  /// Against overfitting: this many further sets of queries are made of the given ones, each as
  /// large, and taken by turns, `sets_at_once` beside the given queries.
  /// Content is moved to other positions of its block where `rotation` says how, and perturbed by
  /// differences of other queries; full attention over them is computed, so that nothing about
  /// their targets is guessed.
  int sets = 0;
  int sets_at_once = 3;  ///< ≥ 1
  double spread = 0.3;   ///< standard deviation of the perturbation, in query differences, ≥ 0
  std::optional<rope> rotation = {};
  std::uint64_t seed = 0;  ///< of what is drawn for the sets
};

/// What refinement did.
struct refinement_report {
  int steps = 0;        ///< taken
  int evaluations = 0;  ///< of J and its gradient
  /// Errors of the rows it started from, under values as J has them, on the queries that judge. A
  /// refined result is never worse on these, in rms output error or mass error.
  fidelity start;
  /// Steps after which the returned keys stood; 0: none judged better, and the rows are returned.
  int kept_steps = 0;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` for settings outside the ranges above; `width`: of a key.
inline result<void> check_refinement(const refinement& settings, index_t width) {
  for (const auto& [field, count] : {std::pair{"refine.steps", settings.steps.value_or(0)},
                                     std::pair{"refine.sets", settings.sets}}) {
    if (count < 0) return error{errc::invalid_option, field, count, 0, "must not be negative"};
  }
  using field_count = std::pair<const char*, index_t>;
  for (const auto& [field, count] : {field_count{"refine.sets_at_once", settings.sets_at_once},
                                     field_count{"refine.steps_a_batch", settings.steps_a_batch},
                                     field_count{"refine.batch", settings.batch}}) {
    if (count < 1) return error{errc::invalid_option, field, count, 1, "must be at least 1"};
  }
  for (const auto& [field, weight] : {std::pair{"refine.output_weight", settings.output_weight},
                                      std::pair{"refine.mass_weight", settings.mass_weight},
                                      std::pair{"refine.work", settings.work}}) {
    if (!(weight >= 0 && weight <= 1e6)) {
      return kvfit::detail::refuse_number(field, weight, "must be in [0, 1e6]");
    }
  }
  if (!(settings.mass_softness > 0 && settings.mass_softness <= 1e6)) {
    return kvfit::detail::refuse_number("refine.mass_softness", settings.mass_softness,
                                        "must be in (0, 1e6]");
  }
  if (!(settings.spread >= 0 && settings.spread <= 100)) {
    return kvfit::detail::refuse_number("refine.spread", settings.spread, "must be in [0, 100]");
  }
  if (settings.rotation) return check_rope(*settings.rotation, width);
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
