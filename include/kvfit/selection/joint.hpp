// SPDX-License-Identifier: MIT
/// Greedy selection on mass and output together: simultaneous orthogonal least squares.
#pragma once

#include <algorithm>
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
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/selection/target_columns.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows that the queries are folded onto, where they are more; 0: they are not.
inline index_t folded_rows(const selection::joint& policy, index_t budget) noexcept {
  return policy.sketch > 0 ? std::max(policy.sketch, 5 * budget) : 0;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit::selection {
inline namespace KVFIT_ISA {

inline score_options wanted_scores(const selection::joint&) {
  return {.importance = importance_kind::none,
          .keep_exponentials = std::numeric_limits<index_t>::max()};
}

inline result<void> check_settings(const selection::joint& policy) {
  if (!(policy.mass_weight >= 0 && policy.mass_weight <= 1e6)) {
    return kvfit::detail::refuse_number("joint.mass_weight", policy.mass_weight,
                                        "must be in [0, 1e6]");
  }
  if (policy.sweep < 1 || policy.sweep > 256) {
    return error{errc::invalid_option, "joint.sweep", policy.sweep, policy.sweep < 1 ? 1 : 256,
                 "must be in 1 ... 256"};
  }
  if (policy.sketch < 0) {
    return error{errc::invalid_option, "joint.sketch", policy.sketch, 0, "must not be negative"};
  }
  return {};
}

/// Runs the search. Weights are left to the bias fit. Cost: n · T · (1 + d_v) multiply-adds to
/// begin with, T · (6 sweep + 1 + d_v) a pick, and n · T a key examined (two to four a pick), n
/// counted after folding. Memory: the exponentials as for `omp`,
/// T · (1 + d_v + 7 sweep + max(sketch, 5 t)) + r · (t + 5 sweep) + n · (1 + d_v) floats beside, r
/// the rows after folding.
inline result<selected_rows> select(const selection::joint& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  const index_t folded = detail::folded_rows(policy, problem.budget);
  return detail::joint_search(problem, policy.mass_weight, policy.sweep, folded).run();
}

/// What `select` holds, its result included.
inline void declare(workspace& space, const selection::joint& policy, const head_sizes& sizes) {
  const index_t keys = sizes.keys;
  const index_t targets = 1 + sizes.width;
  const index_t sweep = std::min(policy.sweep, keys);
  const index_t folded = detail::folded_rows(policy, sizes.budget);
  const bool folds = folds_columns(folded, sizes.queries, keys, sizes.memory_cap);
  const index_t rows = folds ? folded : sizes.queries;
  target_columns().declare(space, sizes.queries, sizes.width);
  mass_columns::declare(space, sizes);
  space.count(float_bytes(sizes.queries));
  if (folds) sketch_buffers().declare(space, sizes.queries, keys, rows);
  space.count(static_cast<double>(keys));  // which keys are open
  detail::joint_buffers().declare(space, keys, rows, targets, sweep);
  detail::picked_basis().declare(space, sizes.budget, rows);
  space.count(grown_bytes(double_bytes(sizes.budget)));
  {
    const workspace::phase starting(space);
    space.count(float_bytes(2, rows, targets));
  }
  {
    const workspace::phase looking(space);
    space.count(static_cast<double>(keys) + grown_bytes(double_bytes(2, sweep)));
    selection::best_rows().declare(space, sweep);
    selection::best_rows().declare(space, sweep);
    space.count(float_bytes(3, sweep, rows) + float_bytes(sweep, sizes.budget));
    if (!folds) mass_columns::declare_columns(space, sizes, sweep);
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
