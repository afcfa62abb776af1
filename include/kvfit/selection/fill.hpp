// SPDX-License-Identifier: MIT
/// Uses up what a greedy selection leaves of its budget.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"

namespace kvfit::selection {
inline namespace KVFIT_ISA {

/// What `fill_by_importance` works in.
struct fill_buffers {
  best_rows best;
  std::vector<char> is_chosen;

  void declare(workspace& space, index_t keys, index_t budget) {
    best.declare(space, budget);
    space.add(is_chosen, keys);
  }
};

/// Appends the rows of largest importance that are not among `positions` until these fill the
/// budget; rows that are not `open` only where no others are left, and rows of importance −∞ behind
/// all. Returns how many were appended.
inline index_t fill_by_importance(const selection_problem& problem, const vector& importance,
                                  std::span<const char> open, std::vector<index_t>& positions) {
  const auto before = positions.size();
  fill_buffers own;
  allocate_buffers(own, static_cast<index_t>(open.size()), problem.budget);
  std::vector<char>& is_chosen = own.is_chosen;
  for (const index_t row : positions) is_chosen[static_cast<std::size_t>(row)] = 1;
  enum class row_kind { is_open, is_closed, comes_last };
  for (const row_kind wanted : {row_kind::is_open, row_kind::is_closed, row_kind::comes_last}) {
    own.best.restart(problem.budget - static_cast<index_t>(positions.size()));
    for (index_t row = 0; row < importance.size(); ++row) {
      const auto at = static_cast<std::size_t>(row);
      const row_kind own_kind = importance[row] == -std::numeric_limits<float>::infinity()
                                    ? row_kind::comes_last
                                : open[at] != 0 ? row_kind::is_open
                                                : row_kind::is_closed;
      if (is_chosen[at] != 0 || own_kind != wanted || !problem.may_keep(row)) continue;
      own.best.offer(row, static_cast<double>(importance[row]));
    }
    for (const ranked_row& one : own.best.sorted()) positions.push_back(one.row);
  }
  return static_cast<index_t>(positions.size() - before);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
