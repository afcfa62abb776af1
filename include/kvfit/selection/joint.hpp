// SPDX-License-Identifier: MIT
/// Greedy selection on mass and output together: simultaneous orthogonal least squares.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/selection/fill.hpp"
#include "kvfit/selection/joint_search.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"
#include "kvfit/selection/sampled_products.hpp"
#include "kvfit/selection/searched_keys.hpp"
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/selection/target_columns.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows that the queries are folded onto, where they are more; 0: they are not.
inline index_t folded_rows(const selection::joint& policy, index_t budget) noexcept {
  return policy.sketch > 0 ? (std::max)(policy.sketch, 5 * budget) : 0;
}

/// The prior must have a factor for each row of the problem.
inline result<void> check_prior(const selection::joint& policy, const selection_problem& problem) {
  const auto given = static_cast<index_t>(policy.prior.size());
  const index_t needed = problem.first_row + problem.cache.keys.rows();
  if (given == 0 || given >= needed) return {};
  return error{errc::shape_mismatch, "joint.prior", given, needed, "one factor for each row"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit::selection {
inline namespace KVFIT_ISA {

inline score_options wanted_scores(const selection::joint& policy) {
  // Where attention alone chooses, no search needs them.
  const bool searches = policy.attention_share < 1;
  const bool ranks = policy.attention_share > 0 || policy.candidates > 0;
  return {.importance = ranks ? importance_kind::rms : importance_kind::none,
          .keep_exponentials = searches ? (std::numeric_limits<index_t>::max)() : 0};
}

inline result<void> check_settings(const selection::joint& policy) {
  if (!(policy.mass_weight >= 0 && policy.mass_weight <= 1e6)) {
    return kvfit::detail::refuse_number("joint.mass_weight", policy.mass_weight,
                                        "must be in [0, 1e6]");
  }
  if (!(policy.attention_share >= 0 && policy.attention_share <= 1)) {
    return kvfit::detail::refuse_number("joint.attention_share", policy.attention_share,
                                        "must be in [0, 1]");
  }
  if (policy.sweep < 1 || policy.sweep > 256) {
    return error{errc::invalid_option, "joint.sweep", policy.sweep, policy.sweep < 1 ? 1 : 256,
                 "must be in 1 ... 256"};
  }
  for (std::size_t row = 0; row < policy.prior.size(); ++row) {
    const float factor = policy.prior[row];
    if (factor >= 0 && std::isfinite(factor)) continue;
    return error{errc::invalid_option, "joint.prior", static_cast<index_t>(row), error::none,
                 "the one at this place must be finite and not negative, is " +
                     kvfit::detail::number_text(factor)};
  }
  if (policy.candidates < 0) {
    return error{errc::invalid_option, "joint.candidates", policy.candidates, 0,
                 "must not be negative"};
  }
  if (policy.sketch < 0) {
    return error{errc::invalid_option, "joint.sketch", policy.sketch, 0, "must not be negative"};
  }
  return {};
}

/// Keeps rows by attention and searches for the others. Weights are left to the bias fit. Cost: n ·
/// T · (2 + d_v) multiply-adds to begin with, n · r · (2 r + c) for r rows by attention and c
/// candidates, c · (6 sweep + 1 + d_v) a pick, and n · c a key examined (two to four a pick), n
/// counted after folding. Memory: the exponentials as for `omp`; T · (1 + d_v), while the
/// candidates are chosen; c · (n + 1 + d_v + 8 sweep) and n · (t + 7 sweep + 1 + d_v) floats, and
/// T · max(sketch, 5 t) where queries are folded.
inline result<selected_rows> select(const selection::joint& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const index_t keys = problem.cache.keys.rows();
  const bool is_ranked =
      policy.attention_share > 0 || detail::search_candidates(policy, keys, problem.budget) < keys;
  const auto ok = is_ranked ? check_ranked_problem(problem) : check_problem(problem);
  if (!ok) return ok.error();
  if (const auto sized = detail::check_prior(policy, problem); !sized) return sized.error();
  if (policy.attention_share == 1) {
    const vector ranks = detail::times_prior(problem.scores->importance, policy, problem.first_row);
    selected_rows chosen{.positions = highest_rows(problem, ranks.data(), problem.budget)};
    chosen.report.by_attention = static_cast<index_t>(chosen.positions.size());
    return chosen;
  }
  const index_t folded = detail::folded_rows(policy, problem.budget);
  return detail::joint_search(problem, policy, folded).run();
}

/// What `select` holds, its result included.
inline void declare(workspace& space, const selection::joint& policy, const head_sizes& sizes) {
  const index_t keys = sizes.keys;
  if (policy.attention_share == 1) {
    space.count(float_bytes(keys));  // scores times the prior
    selection::highest_rows_buffers().declare(space, (std::min)(sizes.budget, keys));
    return;
  }
  const index_t targets = 1 + sizes.width;
  const index_t sweep = (std::min)(policy.sweep, keys);
  const index_t folded = detail::folded_rows(policy, sizes.budget);
  const index_t attended = detail::rows_by_attention(policy, sizes.budget);
  const index_t candidates = detail::search_candidates(policy, keys, sizes.budget);
  const bool narrows = candidates < keys;
  const column_use use = narrows ? column_use::some : column_use::all;
  const bool folds = folds_columns(folded, sizes.queries, narrows ? 0 : keys, sizes.memory_cap);
  const index_t rows = folds ? folded : sizes.queries;
  target_columns().declare(space, sizes.queries, sizes.width);
  mass_columns::declare(space, sizes, use);
  space.count(float_bytes(sizes.queries));
  if (folds) sketch_buffers().declare(space, sizes.queries, keys, rows, use);
  space.count(static_cast<double>(keys));  // which keys are open
  space.count(2 * float_bytes(keys));      // norms, scores times the prior
  detail::picked_basis().declare(space, sizes.budget, rows);
  space.count(grown_bytes(double_bytes(sizes.budget)));
  if (attended > 0) {
    const workspace::phase taking(space);
    selection::highest_rows_buffers().declare(space, attended);
    detail::declare_span(space, sizes, folds, use, rows, attended);
  }
  {
    const workspace::phase starting(space);
    {
      // Targets, across, and what is left of them.
      const workspace::phase explaining(space);
      space.count(float_bytes(attended > 0 ? 3 : 2, rows, targets) +
                  float_bytes(attended, targets) + float_bytes(rows));
    }
    space.count(float_bytes(rows, targets));
    if (narrows) {
      {
        const workspace::phase sampling(space);
        selection::best_rows().declare(space, candidates);
        space.count(static_cast<double>(keys) + double_bytes(candidates));
        space.count(float_bytes(sizes.queries, targets));
        detail::declare_sampled(space, sizes, targets);
      }
      detail::candidate_columns::declare(space, sizes, folds, rows, candidates);
    }
    // Products with columns in fp32, and the targets they are made of weighted by them.
    space.count(float_bytes(candidates, targets) + float_bytes(rows, targets));
  }
  space.count(float_bytes(candidates, targets));
  if (narrows) detail::candidate_columns::declare(space, sizes, folds, rows, candidates);
  detail::joint_buffers().declare(space, candidates, rows, targets, sweep);
  detail::declare_explained(space, candidates, rows, attended);
  {
    const workspace::phase examining(space);
    space.count(static_cast<double>(candidates) + grown_bytes(double_bytes(2, sweep)));
    selection::best_rows().declare(space, sweep);
    selection::best_rows().declare(space, sweep);
    space.count(float_bytes(3, sweep, rows) + float_bytes(sweep, sizes.budget));
    if (!folds && !narrows) mass_columns::declare_columns(space, sizes, sweep);
    space.count(float_bytes(2 * sweep, targets));
  }
  fill_buffers().declare(space, keys, sizes.budget);
}

constexpr bool may_replace(const selection::joint&) {
  return true;
}

constexpr bool refines_by_default(const selection::joint&) {
  return true;
}

static_assert(selection_policy<selection::joint>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
