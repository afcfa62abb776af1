// SPDX-License-Identifier: MIT
/// Uses up what a greedy selection leaves of its budget.
#pragma once

#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"

namespace kvfit::selection::inline KVFIT_ISA {

/// Appends the rows of largest importance that are not among `positions` until these fill the
/// budget; rows that are not `open` only where no others are left. Returns how many were appended.
inline index_t fill_by_importance(const selection_problem& problem, const vector& importance,
                                  std::span<const char> open, std::vector<index_t>& positions) {
  const auto before = positions.size();
  const std::vector<index_t> ranking = highest_rows(problem, importance, importance.size());
  std::vector<char> is_chosen(open.size(), 0);
  for (const index_t row : positions) is_chosen[static_cast<std::size_t>(row)] = 1;
  for (const bool may_be_closed : {false, true}) {
    for (const index_t row : ranking) {
      const auto at = static_cast<std::size_t>(row);
      if (static_cast<index_t>(positions.size()) >= problem.budget) break;
      if (is_chosen[at] != 0 || (open[at] == 0 && !may_be_closed)) continue;
      is_chosen[at] = 1;
      positions.push_back(row);
    }
  }
  return static_cast<index_t>(positions.size() - before);
}

/// Bytes that `fill_by_importance` holds, the budget's positions included.
constexpr double fill_bytes(const head_sizes& sizes) noexcept {
  return highest_rows_bytes(sizes.keys) + static_cast<double>(sizes.keys) +
         grown_bytes(double_bytes(sizes.budget));
}

}  // namespace kvfit::selection::inline KVFIT_ISA
