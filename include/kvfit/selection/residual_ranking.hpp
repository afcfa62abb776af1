// SPDX-License-Identifier: MIT
/// Which columns agree most with what is left to explain, by examining as few of them as possible.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/selection/correlation_bounds.hpp"
#include "kvfit/selection/half_columns.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/ranking.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Ranks keys by c_j / ‖Φ_:j‖^power, c = Φᵀr or |Φᵀr|, for a residual r that changes little by
/// little; the ranking is that of examining all keys, in fp32.
///
/// Every key carries an upper bound of its c_j (`correlation_bounds`). The best of the round before
/// are examined first and set a mark; of the others only those whose bound reaches it. To look at
/// a key is to take its product with r in bf16, where `half_columns` are worth it and within the
/// cap, and then c_j is known up to
///
///     |c̃_j − c_j| ≤ ‖Φ_:j − Φ̃_:j‖ ‖r‖ + rounding;
///
/// those that may still be among the best are taken in fp32. Columns that are at hand in no
/// precision are all made anew.
class residual_ranking {
 public:
  /// `rounds`: calls of `best` to be expected, for columns in bf16 pay for themselves only after
  /// some.
  residual_ranking(mass_columns& columns, double norm_power, bool absolute, index_t rounds)
      : columns_(columns), is_absolute_(absolute) {
    divisors_.resize(columns_.keys());
    std::fill_n(divisors_.data(), columns_.keys(), 1.0F);
    if (holds_halves(columns.queries(), columns.keys(), columns.is_stored(), columns.memory_cap(),
                     rounds)) {
      halves_ = half_columns(columns, norms_);
    } else if (norm_power != 0 || columns.is_stored()) {
      columns_.norms(norms_);
    }
    is_at_hand_ = columns.is_stored() || !halves_.is_empty();
    if (norm_power != 0) {
      const auto power = static_cast<float>(norm_power);
      for (index_t j = 0; j < norms_.size(); ++j)
        divisors_[j] = std::pow(norms_[j] + 1e-12F, power);
    }
    const float unseen = unseen_norm(columns_.queries());
    for (float& norm : norms_) norm += unseen;  // from here on they bound
    if (is_at_hand_) bounds_ = correlation_bounds(columns_.keys(), columns_.queries());
  }

  /// The `count` best of the rows that are `open`, best first; ties go to the earlier row. Rows
  /// that were closed may be opened again; `residual` is finite. Cost a dot product of n numbers
  /// for each row examined.
  std::span<const index_t> best(const vector& residual, std::span<const char> open, index_t count) {
    const index_t most = std::min(count, columns_.keys());
    best_.restart(most);
    if (most > 0 && is_at_hand_) {
      rank_by_bounds(residual, open, most);
    } else if (most > 0) {
      rank_all(residual, open);
    }
    rows_.clear();
    for (const selection::ranked_row& one : best_.sorted()) rows_.push_back(one.row);
    return rows_;
  }

  /// Whether columns are stored, in fp32 or bf16. If not, every call makes all of them anew.
  [[nodiscard]] bool is_at_hand() const noexcept { return is_at_hand_; }
  /// Rows examined so far, of all rounds.
  [[nodiscard]] index_t examined() const noexcept { return examined_; }

 private:
  static constexpr index_t piece = 64;  // rows that one thread examines at a time

  /// Whether columns are kept in bf16.
  static bool holds_halves(index_t queries, index_t keys, bool has_floats, index_t cap,
                           index_t rounds) noexcept {
    constexpr index_t pay_after = 48;  // rounds, where columns are stored in fp32
    return (rounds >= pay_after || !has_floats) && may_hold_halves(queries, keys, has_floats, cap);
  }

  /// A key examined: what its score is at least, and what its c_j is at most.
  struct score_bound {
    index_t row;
    float least;
    float most;
  };

  void rank_all(const vector& residual, std::span<const char> open) {
    columns_.correlate(residual, correlation_);
    for (index_t j = 0; j < correlation_.size(); ++j) {
      if (open[static_cast<std::size_t>(j)] != 0) take(j, correlation_[j]);
    }
  }

  void rank_by_bounds(const vector& residual, std::span<const char> open, index_t count) {
    const double norm = std::sqrt(simd::squared_norm(residual.data(), residual.size()));
    // What fp32 may add to one product of columns, relative to the two norms (see simd::dot32), and
    // to a bound that is moved.
    const double rounding =
        (static_cast<double>(columns_.queries()) / (4.0 * static_cast<double>(simd::lanes)) + 20) *
        0x1p-24;
    slack_ = static_cast<float>(2 * rounding * norm);
    norm_ = static_cast<float>(norm * (1 + 1e-6));
    bounds_.move_to(residual, norms_, 2 * slack_);  // its own, and that of the mark
    columns_.set_residual(residual);
    if (!halves_.is_empty()) halves_.set_weighted_residual(columns_.weighted_residual());

    rows_.clear();
    is_seen_.assign(static_cast<std::size_t>(columns_.keys()), 0);
    for (const selection::ranked_row& known : leading_.sorted()) {  // a high mark to begin with
      const index_t j = known.row;
      const auto at = static_cast<std::size_t>(j);
      if (open[at] == 0) continue;
      is_seen_[at] = 1;
      rows_.push_back(j);
    }
    leading_.restart(std::min(5 * count + 32, columns_.keys()));
    score_bounds_.clear();
    bound_rows();
    find_reaching(open, floor_of(mark(count)));
    bound_rows();
    take_best(floor_of(mark(count)));
  }

  /// What c_j / divisor_j must be at least to be no worse than a score of `mark`, rounding allowed.
  static float floor_of(float mark) noexcept { return mark - 1e-6F * std::abs(mark); }

  /// `rows_`: the open ones not yet seen whose bound reaches `floor`.
  void find_reaching(std::span<const char> open, float floor) {
    const float* bounds = bounds_.bounds().data();
    const float* divisors = divisors_.data();
    rows_.clear();
    for (index_t first = 0; first < columns_.keys(); first += piece) {
      const index_t end = std::min(first + piece, columns_.keys());
      int reaching = 0;  // most often nowhere: no branch for each key
      for (index_t j = first; j < end; ++j) reaching |= bounds[j] >= floor * divisors[j] ? 1 : 0;
      if (reaching == 0) continue;
      for (index_t j = first; j < end; ++j) {
        const auto at = static_cast<std::size_t>(j);
        if (open[at] == 0 || is_seen_[at] != 0) continue;
        if (bounds[j] >= floor * divisors[j]) rows_.push_back(j);
      }
    }
  }

  /// Adds a score_bound of each of `rows_` to `score_bounds_`.
  void bound_rows() {
    const std::size_t before = score_bounds_.size();
    const auto many = static_cast<index_t>(rows_.size());
    score_bounds_.resize(before + rows_.size());
    over_pieces(columns_.threads(), many, piece, [&](index_t first, index_t count) noexcept {
      for (index_t k = first; k < first + count; ++k) {
        const auto at = static_cast<std::size_t>(k);
        score_bounds_[before + at] = bound_of(rows_[at], rows_[at + (k + 1 < many ? 1 : 0)]);
      }
    });
    for (std::size_t k = before; k < score_bounds_.size(); ++k) {
      const score_bound& key = score_bounds_[k];
      bounds_.set(key.row, key.most);
      leading_.offer(key.row, static_cast<double>(key.least));
    }
    examined_ += many;
  }

  /// `next` is the row examined after this one.
  [[nodiscard]] score_bound bound_of(index_t j, index_t next) const noexcept {
    const bool is_rounded = !halves_.is_empty();
    float correlation = is_rounded ? halves_.correlation(j, next) : columns_.correlation(j);
    if (is_absolute_) correlation = std::abs(correlation);
    const float off =
        (is_rounded ? halves_.lost(j) * norm_ * (1 + 1e-5F) + slack_ * norms_[j] : 0.0F) +
        slack_ * norms_[j];
    return {j, (correlation - off) / divisors_[j], correlation + off};
  }

  /// What the last of the `count` best scores at least, by what is seen; −∞ if fewer are seen.
  [[nodiscard]] float mark(index_t count) {
    const std::span<const selection::ranked_row> known = leading_.sorted();
    const auto last = static_cast<std::size_t>(count - 1);
    if (known.size() <= last) return -std::numeric_limits<float>::infinity();
    return static_cast<float>(known[last].score);
  }

  /// The best of what is seen, in fp32.
  void take_best(float floor) {
    rows_.clear();
    for (const score_bound& key : score_bounds_) {
      if (key.most >= floor * divisors_[key.row]) rows_.push_back(key.row);
    }
    columns_.correlations(rows_, correlation_);
    for (std::size_t k = 0; k < rows_.size(); ++k) {
      take(rows_[k], correlation_[static_cast<index_t>(k)]);
    }
  }

  void take(index_t j, float correlation) {
    const float size = is_absolute_ ? std::abs(correlation) : correlation;
    best_.offer(j, static_cast<double>(size / divisors_[j]));
  }

  mass_columns& columns_;
  half_columns halves_;
  correlation_bounds bounds_;
  bool is_absolute_;
  bool is_at_hand_ = false;
  float norm_ = 0;   // ‖r‖, rounded up
  float slack_ = 0;  // what fp32 may add to a product, over ‖Φ_:j‖
  vector norms_;
  vector divisors_;  // ‖Φ_:j‖^power
  vector correlation_;
  std::vector<char> is_seen_;
  selection::best_rows best_;
  selection::best_rows leading_;  // by what they score at least; examined first the next time
  std::vector<score_bound> score_bounds_;
  std::vector<index_t> rows_;
  index_t examined_ = 0;

  friend double residual_ranking_bytes(const head_sizes& sizes, index_t count,
                                       index_t rounds) noexcept;
};

/// Bytes of a `residual_ranking` that is asked for `count` rows at most, so many rounds.
inline double residual_ranking_bytes(const head_sizes& sizes, index_t count,
                                     index_t rounds) noexcept {
  const auto score_bound = static_cast<double>(sizeof(residual_ranking::score_bound));
  const auto keys = static_cast<double>(sizes.keys);
  const bool has_floats = stores_mass_columns(sizes);
  const bool has_halves = residual_ranking::holds_halves(sizes.queries, sizes.keys, has_floats,
                                                         sizes.memory_cap, rounds);
  return (has_halves ? half_columns_bytes(sizes) : 0) +
         (has_floats ? 0 : columns_bytes(sizes, std::min(sizes.keys, mass_columns::made_at_once))) +
         correlation_bounds_bytes(sizes.keys, sizes.queries) + float_bytes(3, sizes.keys) + keys +
         grown_bytes((score_bound + 8) * keys) +
         grown_bytes(selection::highest_rows_bytes(6 * count + 32));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
