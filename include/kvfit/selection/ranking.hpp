// SPDX-License-Identifier: MIT
/// The rows of the largest scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::selection::inline KVFIT_ISA {

/// The `count` rows of largest score that may be kept (or all, where there are fewer), by
/// descending score; ties go to the earlier row. `scores`: T numbers, −∞ among them, no NaN. Cost
/// T + count log count comparisons, for scores in no particular order.
template <class Scores>
std::vector<index_t> highest_rows(const selection_problem& problem, const Scores& scores,
                                  index_t count) {
  using number = typename Scores::Scalar;
  struct ranked {
    number score;
    index_t row;
  };
  const auto better = [](const ranked& a, const ranked& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  };
  const auto most = static_cast<std::size_t>(std::clamp<index_t>(count, 0, scores.size()));
  std::vector<ranked> best;
  best.reserve(2 * most);
  if (most == 0) return {};
  // Rows enter while they beat the worst of the best so far; a full buffer is cut to its better
  // half. A later row never beats an equal one before it.
  bool is_cut = false;
  number worst = 0;
  for (index_t row = 0; row < scores.size(); ++row) {
    if ((is_cut && !(scores[row] > worst)) || !problem.may_keep(row)) continue;
    best.push_back({scores[row], row});
    if (best.size() < 2 * most) continue;
    const auto last = best.begin() + static_cast<std::ptrdiff_t>(most) - 1;
    std::nth_element(best.begin(), last, best.end(), better);
    worst = last->score;
    is_cut = true;
    best.resize(most);
  }
  std::sort(best.begin(), best.end(), better);
  best.resize(std::min(best.size(), most));
  std::vector<index_t> rows(best.size());
  for (std::size_t k = 0; k < rows.size(); ++k) rows[k] = best[k].row;
  return rows;
}

/// Bytes that `highest_rows` of `count` rows holds, its result included.
constexpr double highest_rows_bytes(index_t count) noexcept {
  return double_bytes(2 * 2 + 1, count);
}

}  // namespace kvfit::selection::inline KVFIT_ISA
