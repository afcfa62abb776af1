// SPDX-License-Identifier: MIT
/// Keeps the keys that queries look at most (attention-matching §3, "Highest attention").
#pragma once

#include <algorithm>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::selection {

/// The t keys of the largest importance, in descending order of it; ties go to the earlier row.
struct highest_attention {
  importance_kind importance = importance_kind::rms;
  pooling_kind pooling = pooling_kind::none;
  index pooling_width = 7;
};

}  // namespace kvfit::selection

namespace kvfit::selection::inline KVFIT_ISA {

/// Rows that may be kept, by descending importance; ties go to the earlier row. Cost T log T.
inline std::vector<index> rank_by_importance(const selection_problem& problem) {
  std::vector<index> rows = detail::keepable_rows(problem);
  const vector& importance = problem.scores->importance;
  std::stable_sort(rows.begin(), rows.end(),
                   [&](index a, index b) { return importance[a] > importance[b]; });
  return rows;
}

inline score_options wanted_scores(const selection::highest_attention& policy) {
  return {policy.importance, policy.pooling, policy.pooling_width};
}

inline result<void> check_settings(const selection::highest_attention& policy) {
  if (policy.importance != importance_kind::none) return {};
  return error{errc::invalid_option, "importance", error::none, error::none,
               "highest attention needs mean, rms or max"};
}

inline result<selected_rows> select(const selection::highest_attention& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_ranked_problem(problem); !ok) return ok.error();
  std::vector<index> rows = rank_by_importance(problem);
  rows.resize(detail::count_kept(rows, problem));
  return selected_rows{.positions = std::move(rows)};
}

constexpr bool may_replace(const selection::highest_attention&) {
  return true;
}

static_assert(selection_policy<selection::highest_attention>);

}  // namespace kvfit::selection::inline KVFIT_ISA
