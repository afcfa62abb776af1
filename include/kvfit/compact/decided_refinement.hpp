// SPDX-License-Identifier: MIT
/// Whether keys are refined, and for how long: decided here and nowhere else.
#pragma once

#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/refine/refinement.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `options.refine` with its steps decided. Where the caller says none, they are 0 beside a
/// gradient method; thirty within eight score passes where values are tied to keys; seven within
/// 1.3 where the selection asks for it and values are fitted; else 0. Such a refinement leaves
/// biases alone unless they `are_fitted`.
inline refinement decided_refinement(const compact_options& options, bool are_fitted) {
  refinement moves = options.refine;
  if (moves.steps) return moves;
  const bool is_tied = options.tied_values_from.has_value();
  const bool is_wanted =
      options.gradient.holds<no_gradient>() &&
      (is_tied || (refines_by_default(options.selection) && fits_values(options.values)));
  moves.steps = !is_wanted ? 0 : is_tied ? 30 : 7;
  if (moves.work == 0) moves.work = is_tied ? 8 : 1.3;
  moves.fits_bias = moves.fits_bias && are_fitted;
  return moves;
}

/// The same before any bias is fitted: for plans, and for fits of rows that are given where
/// `options.selection` would have chosen them.
inline refinement decided_refinement(const compact_options& options) {
  return decided_refinement(options, !options.bias.holds<bias::zero>());
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
