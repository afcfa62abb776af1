// SPDX-License-Identifier: MIT
/// Keeps the keys that queries attend to most (docs/algorithm.md, Selection).
#pragma once

#include <algorithm>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"

namespace kvfit::selection {
inline namespace KVFIT_ISA {

/// The `count` rows of largest importance that may be kept; see `highest_rows`.
inline std::vector<index_t> rank_by_importance(const selection_problem& problem, index_t count) {
  return highest_rows(problem, problem.scores->importance.data(), count);
}

inline score_options wanted_scores(const selection::highest_attention& policy) {
  return {.importance = policy.importance,
          .pooling = policy.pooling,
          .pooling_width = policy.pooling_width,
          .window = policy.window};
}

/// What `select` holds, its result included.
inline void declare(workspace& space, const selection::highest_attention&,
                    const head_sizes& sizes) {
  highest_rows_buffers().declare(space, sizes.budget);
}

inline result<void> check_settings(const selection::highest_attention& policy) {
  if (policy.importance == importance_kind::none) {
    return error{errc::invalid_option, "importance", error::none, error::none,
                 "highest attention needs mean, rms or max"};
  }
  return check_score_options(wanted_scores(policy));
}

inline result<selected_rows> select(const selection::highest_attention& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_ranked_problem(problem); !ok) return ok.error();
  const auto is_seen = [](float importance) { return importance > 0; };
  const vector& importance = problem.scores->importance;
  if (policy.window > 0 && std::none_of(importance.begin(), importance.end(), is_seen)) {
    return error{errc::invalid_option, "window", policy.window, error::none,
                 "no query of the observation window sees any key"};
  }
  return selected_rows{.positions = rank_by_importance(problem, problem.budget)};
}

constexpr bool may_replace(const selection::highest_attention&) {
  return true;
}

static_assert(selection_policy<selection::highest_attention>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
