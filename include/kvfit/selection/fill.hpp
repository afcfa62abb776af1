// SPDX-License-Identifier: MIT
/// Uses up what a greedy selection leaves of its budget.
#pragma once

#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"

namespace kvfit::selection {
inline namespace KVFIT_ISA {

/// Appends the rows of largest importance that are not among `positions` until these fill the
/// budget; rows that are not `open` only where no others are left. Returns how many were appended.
inline index_t fill_by_importance(const selection_problem& problem, const vector& importance,
                                  std::span<const char> open, std::vector<index_t>& positions) {
  const auto before = positions.size();
  std::vector<char> is_chosen(open.size(), 0);
  for (const index_t row : positions) is_chosen[static_cast<std::size_t>(row)] = 1;
  for (const bool are_open : {true, false}) {
    best_rows best(problem.budget - static_cast<index_t>(positions.size()));
    for (index_t row = 0; row < importance.size(); ++row) {
      const auto at = static_cast<std::size_t>(row);
      if (is_chosen[at] != 0 || (open[at] != 0) != are_open || !problem.may_keep(row)) continue;
      best.offer(row, static_cast<double>(importance[row]));
    }
    for (const ranked_row& one : best.sorted()) positions.push_back(one.row);
  }
  return static_cast<index_t>(positions.size() - before);
}

/// Bytes that `fill_by_importance` holds, the budget's positions included.
constexpr double fill_bytes(const head_sizes& sizes) noexcept {
  return highest_rows_bytes(sizes.budget) + static_cast<double>(sizes.keys) +
         grown_bytes(double_bytes(sizes.budget));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
