// SPDX-License-Identifier: MIT
/// Which heads of a cache are compacted, and to how many rows each.
#pragma once

#include <vector>

#include "kvfit/attention/known_scores.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// The heads to compact and their budgets, in the order of the view.
struct cache_plan {
  std::vector<head_task> tasks;  ///< refer to what the view and the queries refer to
  std::vector<index_t> rows;     ///< t_h, one a task, 0 … `head_task::visible`
  /// One a task, or none at all: full attention that a ranking has computed of the cache as it was,
  /// and that the task's fit begins with where its options ask for the same; empty for the others.
  std::vector<known_scores> known = {};
};

}  // namespace kvfit
