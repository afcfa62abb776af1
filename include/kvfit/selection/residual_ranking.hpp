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

/// What a `residual_ranking` works in beside columns and bounds.
struct ranking_buffers {
  /// A key examined: what its score is at least, and what its c_j is at most.
  struct score_bound {
    index_t row;
    float least;
    float most;
  };

  vector norms;
  vector divisors;  ///< ‖Φ_:j‖^power
  vector correlation;
  std::vector<char> is_seen;
  selection::best_rows best;
  selection::best_rows leading;  ///< by what they score at least; examined first the next time
  std::vector<score_bound> score_bounds;
  std::vector<index_t> rows;

  void declare(workspace& space, index_t keys, bool has_norms, index_t count) {
    if (has_norms) space.add(norms, keys);
    space.add_vectors(keys, divisors, correlation, is_seen);
    best.declare(space, (std::min)(count, keys));
    leading.declare(space, most_leading(count, keys));
    space.grow(score_bounds, keys);
    space.grow(rows, keys);
  }
  static index_t most_leading(index_t count, index_t keys) noexcept {
    return (std::min)(many_times(5, count) + 32, keys);
  }
};

/// Ranks keys by c_j / ‖Φ_:j‖^power, c = Φᵀr or |Φᵀr|, for a residual r that changes little by
/// little; the ranking is that of examining all keys, in fp32.
///
/// Every key carries an upper bound of its c_j (`correlation_bounds`). The best of the round before
/// are examined first and set a mark; of the others only those whose bound reaches it. To examine
/// a key is to take its product with r in bf16, where `half_columns` are worth it and within the
/// cap, and then c_j is known up to
///
///     |c̃_j − c_j| ≤ ‖Φ_:j − Φ̃_:j‖ ‖r‖ + rounding;
///
/// those that may still be among the best are taken in fp32. Columns that are at hand in no
/// precision are all made anew.
class residual_ranking {
 public:
  /// `rounds`: calls of `best` to be expected, for columns in bf16 save time only after
  /// some.
  residual_ranking(mass_columns& columns, double norm_power, bool absolute, index_t rounds)
      : columns_(columns), is_absolute_(absolute) {
    const bool has_halves = holds_halves(columns.queries(), columns.keys(), columns.is_stored(),
                                         columns.memory_cap(), rounds);
    const bool has_norms = has_halves || norm_power != 0 || columns.is_stored();
    allocate_buffers(own_, columns_.keys(), has_norms, 0);
    std::fill_n(own_.divisors.data(), columns_.keys(), 1.0F);
    if (has_halves) {
      halves_ = half_columns(columns, own_.norms);
    } else if (has_norms) {
      columns_.norms(own_.norms);
    }
    is_at_hand_ = columns.is_stored() || !halves_.is_empty();
    if (norm_power != 0) {
      const auto power = static_cast<float>(norm_power);
      for (index_t j = 0; j < own_.norms.size(); ++j)
        own_.divisors[j] = std::pow(own_.norms[j] + 1e-12F, power);
    }
    const float unseen = unseen_norm(columns_.queries());
    for (float& norm : own_.norms) norm += unseen;  // from here on they bound
    if (is_at_hand_) bounds_ = correlation_bounds(columns_.keys(), columns_.queries());
  }

  /// All that one holds beside its columns, asked for `count` rows at most, so many rounds.
  static void declare(workspace& space, const head_sizes& sizes, index_t count, index_t rounds) {
    const bool has_floats = stores_mass_columns(sizes);
    if (holds_halves(sizes.queries, sizes.keys, has_floats, sizes.memory_cap, rounds)) {
      half_columns().declare(space, sizes.keys, sizes.queries);
    }
    correlation_bounds().declare(space, sizes.keys, sizes.queries);
    ranking_buffers().declare(space, sizes.keys, true, count);
    const workspace::phase making(space);
    if (!has_floats) {
      mass_columns::declare_columns(space, sizes,
                                    (std::min)(sizes.keys, mass_columns::made_at_once));
    }
  }

  /// The `count` best of the rows that are `open`, best first; ties go to the earlier row. Rows
  /// that were closed may be opened again; `residual` is finite. Cost a dot product of n numbers
  /// for each row examined.
  std::span<const index_t> best(const vector& residual, std::span<const char> open, index_t count) {
    const index_t most = (std::min)(count, columns_.keys());
    own_.best.restart(most);
    if (most > 0 && is_at_hand_) {
      rank_by_bounds(residual, open, most);
    } else if (most > 0) {
      rank_all(residual, open);
    }
    own_.rows.clear();
    for (const selection::ranked_row& one : own_.best.sorted()) own_.rows.push_back(one.row);
    return own_.rows;
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

  using score_bound = ranking_buffers::score_bound;

  void rank_all(const vector& residual, std::span<const char> open) {
    columns_.correlate(residual, own_.correlation);
    for (index_t j = 0; j < own_.correlation.size(); ++j) {
      if (open[static_cast<std::size_t>(j)] != 0) take(j, own_.correlation[j]);
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
    bounds_.move_to(residual, own_.norms, 2 * slack_);  // its own, and that of the mark
    columns_.set_residual(residual);
    if (!halves_.is_empty()) halves_.set_weighted_residual(columns_.weighted_residual());

    own_.rows.clear();
    own_.is_seen.assign(static_cast<std::size_t>(columns_.keys()), 0);
    for (const selection::ranked_row& known : own_.leading.sorted()) {  // a high mark to begin with
      const index_t j = known.row;
      const auto at = static_cast<std::size_t>(j);
      if (open[at] == 0) continue;
      own_.is_seen[at] = 1;
      own_.rows.push_back(j);
    }
    own_.leading.restart(ranking_buffers::most_leading(count, columns_.keys()));
    own_.score_bounds.clear();
    bound_rows();
    find_reaching(open, floor_of(mark(count)));
    bound_rows();
    take_best(floor_of(mark(count)));
  }

  /// What c_j / divisor_j must be at least to be no worse than a score of `mark`, rounding allowed.
  static float floor_of(float mark) noexcept { return mark - 1e-6F * std::abs(mark); }

  /// `own_.rows`: the open ones not yet seen whose bound reaches `floor`.
  void find_reaching(std::span<const char> open, float floor) {
    const float* bounds = bounds_.bounds().data();
    const float* divisors = own_.divisors.data();
    own_.rows.clear();
    for (index_t first = 0; first < columns_.keys(); first += piece) {
      const index_t end = (std::min)(first + piece, columns_.keys());
      int reaching = 0;  // most often nowhere: no branch for each key
      for (index_t j = first; j < end; ++j) reaching |= bounds[j] >= floor * divisors[j] ? 1 : 0;
      if (reaching == 0) continue;
      for (index_t j = first; j < end; ++j) {
        const auto at = static_cast<std::size_t>(j);
        if (open[at] == 0 || own_.is_seen[at] != 0) continue;
        if (bounds[j] >= floor * divisors[j]) own_.rows.push_back(j);
      }
    }
  }

  /// Adds a score_bound of each of `own_.rows` to `own_.score_bounds`.
  void bound_rows() {
    const std::size_t before = own_.score_bounds.size();
    const auto many = static_cast<index_t>(own_.rows.size());
    own_.score_bounds.resize(before + own_.rows.size());
    over_pieces(columns_.threads(), many, piece, [&](index_t first, index_t count) noexcept {
      for (index_t k = first; k < first + count; ++k) {
        const auto at = static_cast<std::size_t>(k);
        own_.score_bounds[before + at] =
            bound_of(own_.rows[at], own_.rows[at + (k + 1 < many ? 1 : 0)]);
      }
    });
    for (std::size_t k = before; k < own_.score_bounds.size(); ++k) {
      const score_bound& key = own_.score_bounds[k];
      bounds_.set(key.row, key.most);
      own_.leading.offer(key.row, static_cast<double>(key.least));
    }
    examined_ += many;
  }

  /// `next` is the row examined after this one.
  [[nodiscard]] score_bound bound_of(index_t j, index_t next) const noexcept {
    const bool is_rounded = !halves_.is_empty();
    float correlation = is_rounded ? halves_.correlation(j, next) : columns_.correlation(j);
    if (is_absolute_) correlation = std::abs(correlation);
    const float off =
        (is_rounded ? halves_.lost(j) * norm_ * (1 + 1e-5F) + slack_ * own_.norms[j] : 0.0F) +
        slack_ * own_.norms[j];
    return {j, (correlation - off) / own_.divisors[j], correlation + off};
  }

  /// What the last of the `count` best scores at least, by what is seen; −∞ if fewer are seen.
  [[nodiscard]] float mark(index_t count) {
    const std::span<const selection::ranked_row> known = own_.leading.sorted();
    const auto last = static_cast<std::size_t>(count - 1);
    if (known.size() <= last) return -std::numeric_limits<float>::infinity();
    return static_cast<float>(known[last].score);
  }

  /// The best of what is seen, in fp32.
  void take_best(float floor) {
    own_.rows.clear();
    for (const score_bound& key : own_.score_bounds) {
      if (key.most >= floor * own_.divisors[key.row]) own_.rows.push_back(key.row);
    }
    columns_.correlations(own_.rows, own_.correlation);
    for (std::size_t k = 0; k < own_.rows.size(); ++k) {
      take(own_.rows[k], own_.correlation[static_cast<index_t>(k)]);
    }
  }

  void take(index_t j, float correlation) {
    const float size = is_absolute_ ? std::abs(correlation) : correlation;
    own_.best.offer(j, static_cast<double>(size / own_.divisors[j]));
  }

  mass_columns& columns_;
  half_columns halves_;
  correlation_bounds bounds_;
  bool is_absolute_;
  bool is_at_hand_ = false;
  float norm_ = 0;   // ‖r‖, rounded up
  float slack_ = 0;  // what fp32 may add to a product, over ‖Φ_:j‖
  ranking_buffers own_;
  index_t examined_ = 0;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
