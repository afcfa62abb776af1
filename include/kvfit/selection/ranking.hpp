// SPDX-License-Identifier: MIT
/// The rows of the largest scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::selection {
inline namespace KVFIT_ISA {

/// A row and its score: fp32 scores compare as themselves.
struct ranked_row {
  double score;
  index_t row;
};

/// Descending scores; ties go to the earlier row.
struct ranks_before {
  bool operator()(const ranked_row& a, const ranked_row& b) const noexcept {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  }
};

/// Collects the `most` best of the rows that it is offered, in any order. Cost a comparison a row,
/// and most · log(most) to sort; memory for 2 · most.
class best_rows {
 public:
  explicit best_rows(index_t most = 0) { restart(most); }

  /// Forgets all rows.
  void restart(index_t most) {
    most_ = static_cast<std::size_t>(std::max<index_t>(most, 0));
    is_full_ = false;
    rows_.clear();
    allocate_buffers(*this, static_cast<index_t>(most_));
  }

  void declare(workspace& space, index_t most) { space.reserve(rows_, 2, most); }

  /// `score`: no NaN; −∞ is one like others.
  void offer(index_t row, double score) {
    if (is_full_ && !ranks_before()({score, row}, worst_)) return;
    rows_.push_back({score, row});
    if (rows_.size() >= 2 * most_) keep_best();
  }

  /// The best rows, best first.
  std::span<const ranked_row> sorted() {
    keep_best();
    std::sort(rows_.begin(), rows_.end(), ranks_before());
    return rows_;
  }

 private:
  /// A full buffer is cut to its better half, whose worst is what later rows must beat.
  void keep_best() {
    if (rows_.size() <= most_) return;
    if (most_ > 0) {
      const auto last = rows_.begin() + static_cast<std::ptrdiff_t>(most_) - 1;
      std::nth_element(rows_.begin(), last, rows_.end(), ranks_before());
      worst_ = *last;
    }
    rows_.resize(most_);
    is_full_ = most_ > 0;
  }

  std::size_t most_ = 0;
  bool is_full_ = false;
  ranked_row worst_{};  // of those kept at the last cut
  std::vector<ranked_row> rows_;
};

/// What `highest_rows` works in, and what it returns.
struct highest_rows_buffers {
  best_rows best;
  std::vector<index_t> rows;

  void declare(workspace& space, index_t count) {
    best.declare(space, count);
    space.reserve(rows, count);
  }
};

/// The `count` rows of largest score that may be kept (or all, where there are fewer), by
/// descending score; ties go to the earlier row. `scores`: T numbers, −∞ among them, no NaN. Cost
/// T + count log count comparisons, for scores in no particular order.
template <class Number>
std::vector<index_t> highest_rows(const selection_problem& problem, const Number* scores,
                                  index_t count) {
  const index_t keys = problem.cache.keys.rows();
  highest_rows_buffers own;
  own.best.restart((std::min)(count, keys));
  allocate_buffers(own, (std::min)(count, keys));
  for (index_t row = 0; row < keys; ++row) {
    if (problem.may_keep(row)) own.best.offer(row, static_cast<double>(scores[row]));
  }
  for (const ranked_row& one : own.best.sorted()) own.rows.push_back(one.row);
  return std::move(own.rows);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
