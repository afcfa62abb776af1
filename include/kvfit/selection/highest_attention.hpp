// SPDX-License-Identifier: MIT
/// Keeps the keys that queries look at most (docs/algorithm.md, Selection).
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/settings.hpp"
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

/// The `count` rows of largest importance that may be kept (or all, where there are fewer), by
/// descending importance; ties go to the earlier row. Cost T + count log count comparisons, for
/// importance in no particular order.
inline std::vector<index> rank_by_importance(const selection_problem& problem, index count) {
  struct ranked {
    float importance;
    index row;
  };
  const auto better = [](const ranked& a, const ranked& b) {
    return a.importance != b.importance ? a.importance > b.importance : a.row < b.row;
  };
  const vector& importance = problem.scores->importance;
  const auto most = static_cast<std::size_t>(std::clamp<index>(count, 0, importance.size()));
  std::vector<ranked> best;
  best.reserve(2 * most);
  if (most == 0) return {};
  // Rows enter while they beat the worst of the best so far; a full buffer is cut to its better
  // half. A later row never beats an equal one before it.
  bool is_cut = false;
  float worst = 0;
  for (index row = 0; row < importance.size(); ++row) {
    if ((is_cut && !(importance[row] > worst)) || !problem.may_keep(row)) continue;
    best.push_back({importance[row], row});
    if (best.size() < 2 * most) continue;
    const auto last = best.begin() + static_cast<std::ptrdiff_t>(most) - 1;
    std::nth_element(best.begin(), last, best.end(), better);
    worst = last->importance;
    is_cut = true;
    best.resize(most);
  }
  std::sort(best.begin(), best.end(), better);
  best.resize(std::min(best.size(), most));
  std::vector<index> rows(best.size());
  for (std::size_t k = 0; k < rows.size(); ++k) rows[k] = best[k].row;
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
  return selected_rows{.positions = rank_by_importance(problem, problem.budget)};
}

constexpr bool may_replace(const selection::highest_attention&) {
  return true;
}

static_assert(selection_policy<selection::highest_attention>);

}  // namespace kvfit::selection::inline KVFIT_ISA
