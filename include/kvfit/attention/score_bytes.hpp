// SPDX-License-Identifier: MIT
/// The memory of a score pass, known from sizes alone, and how it does with less.
#pragma once

#include <algorithm>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/logits.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/panel.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Whether a score pass of these sizes keeps the exponentials.
inline bool keeps_exponentials(const head_sizes& sizes, const score_options& options) noexcept {
  return float_bytes(sizes.queries, sizes.keys) <= static_cast<double>(options.keep_exponentials);
}

/// Bytes of the `attention_scores` that a score pass returns.
inline double scores_bytes(const head_sizes& sizes, const score_options& options) noexcept {
  const double kept = keeps_exponentials(sizes, options)
                          ? float_bytes(sizes.queries, sizes.keys) + float_bytes(sizes.queries)
                          : 0;
  const bool has_importance = options.importance != importance_kind::none;
  return float_bytes(sizes.queries, sizes.width + 3) + kept +
         (has_importance ? float_bytes(sizes.keys) : 0);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Bytes of a panel's bookkeeping.
inline constexpr double panel_overhead = 4096;

/// Bytes that the pass itself holds at most, its result included, once its inputs are checked.
inline double score_checked_bytes(const head_sizes& of, const score_options& options) noexcept {
  head_sizes sizes = of;
  sizes.panel = options.panel;
  sizes.precision = options.precision;
  const bool has_importance = options.importance != importance_kind::none;
  const bool is_pooled = has_importance && options.pooling != pooling_kind::none;
  const index_t panel = largest_panel(sizes, sizes.keys);
  const index_t panels = (sizes.queries + panel - 1) / std::max<index_t>(panel, 1) + sizes.blocks;
  const auto at_once = static_cast<double>(std::min(options.panels_at_once, panels));
  return scores_bytes(sizes, options) +
         at_once * (attention_panel_bytes(sizes, keeps_exponentials(sizes, options)) +
                    float_bytes(panel) + panel_overhead) +
         (has_importance ? double_bytes(sizes.keys) : 0) +
         (is_pooled ? float_bytes(sizes.keys) : 0) + double_bytes(sizes.blocks) +
         (options.window > 0 ? latest_queries_bytes(sizes.queries) : 0);
}

/// Bytes that `score_pass` holds at most, its checks among it.
inline double checked_scores_bytes(const head_sizes& sizes, const score_options& options) noexcept {
  return std::max(checking_bytes(sizes), score_checked_bytes(sizes, options)) + small_bytes;
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
    least = std::min(least, bytes);
  }
  return error{errc::memory_cap_exceeded, "memory", whole_bytes(least), *options.memory,
               "one query at a time"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
