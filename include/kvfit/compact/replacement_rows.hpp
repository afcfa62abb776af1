// SPDX-License-Identifier: MIT
/// How much each row agrees with the mass that chosen rows miss.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"
#include "kvfit/selection/searched_keys.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Where `selection::joint` looked among some keys, so does this: among as many, those that agree
/// most with what is missing at first. Their columns stay at hand for the next time.
class replacement_rows {
 public:
  /// Both must outlive this; `joint` may be null.
  replacement_rows(const selection_problem& problem, const selection::joint* joint)
      : problem_(problem), joint_(joint) {}

  /// Σ_i missing_i Φ_ij of every row j, times its prior; 0 for rows that are not looked at. Rows
  /// that `is_taken` marks are not.
  vector agreement(const vector& missing, std::span<const char> is_taken) {
    const index_t keys = problem_.cache.keys.rows();
    vector out;
    if (rows_.empty()) {
      selection_problem streamed = problem_;
      streamed.memory_cap = 0;  // for one correlation, storing n × T numbers saves nothing
      mass_columns(streamed, mass_weighting::relative).correlate(missing, out);
    } else {
      out.setZero(keys);
      over_pieces(problem_.threads, columns_.rows(), mass_columns::piece,
                  [&](index_t first, index_t count) noexcept {
                    for (index_t k = first; k < first + count; ++k) {
                      const float* const column = columns_.data() + k * columns_.cols();
                      out[rows_[static_cast<std::size_t>(k)]] =
                          simd::dot32(column, missing.data(), missing.size());
                    }
                  });
    }
    if (joint_ == nullptr) return out;
    if (!joint_->prior.empty()) {
      simd::multiply_each(out.data(), joint_->prior.data() + problem_.first_row, keys);
    }
    const index_t many = search_candidates(*joint_, keys, problem_.budget);
    if (many < keys && rows_.empty()) keep(out, is_taken, many);
    return out;
  }

  /// What this holds for the sizes of the selection's problem: what `agreement` takes, and what it
  /// keeps from then on.
  static void declare(workspace& space, const head_sizes& sizes, const selection::joint* joint) {
    head_sizes streamed = sizes;
    streamed.memory_cap = 0;
    const index_t looked_at =
        joint == nullptr ? sizes.keys : search_candidates(*joint, sizes.keys, sizes.budget);
    const bool keeps = looked_at < sizes.keys;
    {
      const workspace::phase agreeing(space);
      space.count(float_bytes(2, sizes.keys));
      {
        const workspace::phase reading(space);
        mass_columns::declare(space, streamed);
      }
      if (keeps) {
        space.count(grown_bytes(double_bytes(looked_at)));
        selection::best_rows().declare(space, looked_at);
        mass_columns::declare(space, streamed, column_use::some);
        mass_columns::declare_columns(space, streamed, looked_at, column_use::some);
      }
    }
    if (!keeps) return;
    space.count(grown_bytes(double_bytes(looked_at)) + float_bytes(looked_at, sizes.queries));
    const workspace::phase agreeing_again(space);
    space.count(float_bytes(2, sizes.keys));
  }

 private:
  /// Goes on with the `many` rows of largest `agreement`.
  void keep(const vector& agreement, std::span<const char> is_taken, index_t many) {
    selection::best_rows best(many);
    for (index_t row = 0; row < agreement.size(); ++row) {
      if (is_taken[static_cast<std::size_t>(row)] != 0 || !(agreement[row] > 0)) continue;
      best.offer(row, static_cast<double>(agreement[row]));
    }
    for (const selection::ranked_row& one : best.sorted()) rows_.push_back(one.row);
    std::sort(rows_.begin(), rows_.end());
    columns_ =
        mass_columns(problem_, mass_weighting::relative, nullptr, column_use::some).columns(rows_);
  }

  const selection_problem& problem_;
  const selection::joint* joint_;
  std::vector<index_t> rows_;  // ascending; empty until they are chosen
  matrix columns_;             // of rows_
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
