// SPDX-License-Identifier: MIT
/// What the score pass over the queries fitted on is asked.
#pragma once

#include <algorithm>

#include "kvfit/attention/score_options.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/searched_keys.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What the selection of `budget` of `keys` rows wants, within the memory and at the precision of
/// the composition.
inline score_options fit_scores(const compact_options& options, index_t keys, index_t budget,
                                index_t panels_at_once = 1) {
  score_options wanted = wanted_scores(options.selection);
  const auto* const joint = options.selection.get_if<selection::joint>();
  if (joint != nullptr && !searches_all_keys(*joint, keys, budget)) wanted.keep_exponentials = 0;
  wanted.keep_exponentials = (std::min)(wanted.keep_exponentials, options.memory.selection);
  wanted.outputs = true;  // fits need them, whoever selects
  wanted.panels_at_once = panels_at_once;
  wanted.precision = options.precision;
  return wanted;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
