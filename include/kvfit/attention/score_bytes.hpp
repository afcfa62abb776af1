// SPDX-License-Identifier: MIT
/// The memory of a score pass, known from sizes alone, and how it does with less.
#pragma once

#include <algorithm>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/logits.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/panel.hpp"
#include "kvfit/attention/result_memory.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// What a score pass returns, to count it.
inline void declare_scores(workspace& space, const head_sizes& sizes,
                           const score_options& options) {
  attention_scores none;
  declare_scores(space, none, sizes, options);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What a score pass works in, beside its panels.
struct score_buffers {
  std::vector<double> importance;  ///< sums or maxima over queries
  vector raw;                      ///< importance before pooling
  matrix scales;  ///< panels at once × queries: 1 / Σ_j exp(s_ij − shift_i), or 0

  void declare(workspace& space, index_t keys, index_t panels, index_t panel,
               const score_options& options) {
    space.add(scales, panels, panel);
    if (options.importance == importance_kind::none) return;
    space.add(importance, keys);
    if (options.pooling != pooling_kind::none) space.add(raw, keys);
  }
};

/// The pass itself, its result included, once its inputs are checked.
inline void declare_score_checked(workspace& space, const head_sizes& of,
                                  const score_options& options) {
  constexpr double panel_overhead = 4096;  // of a panel's bookkeeping
  head_sizes sizes = of;
  sizes.panel = options.panel;
  sizes.precision = options.precision;
  const index_t rows = panel_rows(sizes.keys, sizes.panel);
  const index_t at_once = (std::min)(options.panels_at_once, sizes.queries / rows + sizes.blocks);
  declare_scores(space, sizes, options);
  if (!options.outputs) sizes.width = 0;  // of what a panel holds
  score_buffers().declare(space, sizes.keys, at_once, largest_panel(sizes, sizes.keys), options);
  panel_list().declare(space, sizes.queries, sizes.blocks, rows);
  space.count(double_bytes(sizes.blocks));
  if (options.window > 0) placed_queries().declare(space, sizes.queries);
  workspace panel;
  declare_panel(panel, sizes, keeps_exponentials(sizes, options));
  space.count(static_cast<double>(at_once) * (panel.most() + panel_overhead));
}

/// Bytes that `score_pass` holds at most, its checks among it.
inline double checked_scores_bytes(const head_sizes& sizes, const score_options& options) {
  workspace space;
  space.count(small_bytes);
  {
    const workspace::phase checking(space);
    declare_check(space, sizes);
  }
  const workspace::phase passing(space);
  declare_score_checked(space, sizes, options);
  return space.most();
}

/// `options` with which a pass for `sizes` keeps to `options.memory`, or `memory_cap_exceeded` with
/// the least it needs.
inline result<score_options> score_options_within(const head_sizes& sizes,
                                                  const score_options& options) {
  if (!options.memory) return options;
  const auto cap = static_cast<double>(*options.memory);
  score_options now = options;
  double least = checked_scores_bytes(sizes, now);
  if (least <= cap) return now;
  now.panels_at_once = 1;
  least = checked_scores_bytes(sizes, now);
  if (least <= cap) return now;
  now.keep_exponentials = 0;
  head_sizes cut = sizes;
  cut.panel = options.panel;
  for (now.panel = largest_panel(cut, sizes.keys); now.panel > 0; now.panel /= 2) {
    const double bytes = checked_scores_bytes(sizes, now);
    if (bytes <= cap) return now;
    least = (std::min)(least, bytes);
  }
  return error{errc::memory_cap_exceeded, "memory", whole_bytes(least), *options.memory,
               "one query at a time"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
