// SPDX-License-Identifier: MIT
/// Which columns agree most with what is left to explain, looking at as few of them as possible.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/selection/mass_columns.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Ranks keys by c_j / ‖Φ_:j‖^power, c = Φᵀr or |Φᵀr|, for a residual r that changes little by
/// little.
///
/// With the columns at hand every key carries an upper bound of its c_j. From r' to r it moves by
///
///     c_j(r) = α c_j(r') + Φ_:j·(r − α r') ≤ α c_j(r') + ‖Φ_:j‖ ‖r − α r'‖,   α = ⟨r, r'⟩ / ‖r'‖²
///
/// (Cauchy–Schwarz), and never exceeds ‖Φ_:j‖ ‖r‖; only keys whose bound reaches the best found so
/// far are looked at. Bounds allow for the rounding of fp32, so the ranking is that of looking at
/// all of them. Columns that are not at hand are all made anew.
class residual_ranking {
 public:
  residual_ranking(mass_columns& columns, double norm_power, bool absolute)
      : columns_(columns), is_absolute_(absolute) {
    if (norm_power == 0 && !columns.is_stored()) return;
    columns_.norms(norms_);
    if (norm_power != 0) {
      divisors_ = norms_;
      // One by one: Eigen's vectorised pow differs from its scalar one, and equal keys must tie.
      const auto power = static_cast<float>(norm_power);
      for (float& divisor : divisors_) divisor = std::pow(divisor + 1e-12F, power);
    }
    bounds_.setConstant(columns_.keys(), std::numeric_limits<float>::infinity());
    previous_.setZero(columns_.queries());
  }

  /// The `count` best of the rows that are `open`, best first; ties go to the earlier row. Rows
  /// that were closed may be opened again. Cost a dot product of n numbers for each row looked at.
  std::span<const index> best(const vector& residual, std::span<const char> open, index count) {
    count_ = static_cast<std::size_t>(std::max<index>(count, 0));
    best_.clear();
    looked_at_.clear();
    if (columns_.is_stored()) {
      rank_by_bounds(residual, open);
    } else {
      rank_all(residual, open);
    }
    std::sort(best_.begin(), best_.end(), is_better);
    rows_.clear();
    for (const ranked& entry : best_) rows_.push_back(entry.row);
    remember();
    return rows_;
  }

  /// Rows looked at so far, of all rounds.
  [[nodiscard]] index looked_at() const noexcept { return looked_at_in_all_; }

 private:
  struct ranked {
    float score;
    index row;
  };
  static bool is_better(const ranked& a, const ranked& b) noexcept {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  }

  void rank_all(const vector& residual, std::span<const char> open) {
    columns_.correlate(residual, correlation_);
    for (index j = 0; j < correlation_.size(); ++j) {
      if (open[static_cast<std::size_t>(j)] != 0) take(j, correlation_[j]);
    }
  }

  void rank_by_bounds(const vector& residual, std::span<const char> open) {
    const double norm = residual.cast<double>().norm();
    // What fp32 may add to one product of columns, relative to the two norms (see simd::dot32), and
    // to a bound that is moved.
    const double rounding =
        (static_cast<double>(columns_.queries()) / (4.0 * static_cast<double>(simd::lanes)) + 20) *
        0x1p-24;
    const auto slack = static_cast<float>(2 * rounding * norm);
    move_bounds(residual, norm, slack);
    columns_.set_residual(residual);
    const auto look = [&](index j) {
      const float correlation = columns_.correlation(j);
      take(j, correlation);
      bounds_[j] = (is_absolute_ ? std::abs(correlation) : correlation) + slack * norms_[j];
      ++looked_at_in_all_;
    };
    // Rows that did well before set a high mark to begin with.
    is_seen_.assign(static_cast<std::size_t>(columns_.keys()), 0);
    for (const index j : probable_) {
      const auto at = static_cast<std::size_t>(j);
      if (open[at] == 0) continue;
      is_seen_[at] = 1;
      look(j);
    }
    for (index j = 0; j < columns_.keys(); ++j) {
      const auto at = static_cast<std::size_t>(j);
      if (open[at] == 0 || is_seen_[at] != 0) continue;
      if (best_.size() == count_ && !may_reach(j, slack)) continue;
      look(j);
    }
  }

  /// Whether row j's score may be as good as the worst of the best.
  [[nodiscard]] bool may_reach(index j, float slack) const {
    if (best_.empty()) return false;  // none are asked for
    const float mark = best_.front().score * (divisors_.size() == 0 ? 1.0F : divisors_[j]);
    return bounds_[j] + slack * norms_[j] >= mark - 1e-6F * std::abs(mark);
  }

  void move_bounds(const vector& residual, double norm, float slack) {
    const double before = previous_.cast<double>().squaredNorm();
    const double product = previous_.cast<double>().dot(residual.cast<double>());
    const double carried = before > 0 ? std::max(0.0, product / before) : 0.0;
    const double moved = (residual.cast<double>() - carried * previous_.cast<double>()).norm();
    const auto factor = static_cast<float>(carried);
    const auto step = static_cast<float>(moved * (1 + 1e-6)) + slack;
    const auto most = static_cast<float>(norm * (1 + 1e-6)) + slack;
    for (index j = 0; j < bounds_.size(); ++j) {
      const float drifted = factor * bounds_[j] + step * norms_[j];
      const float limit = most * norms_[j];
      bounds_[j] = drifted < limit ? drifted : limit;  // the first bound is infinite, and 0 · ∞ NaN
    }
    previous_ = residual;
  }

  void take(index j, float correlation) {
    float score = is_absolute_ ? std::abs(correlation) : correlation;
    if (divisors_.size() != 0) score /= divisors_[j];
    const ranked entry{score, j};
    looked_at_.push_back(entry);
    if (best_.size() < count_) {
      best_.push_back(entry);
      std::push_heap(best_.begin(), best_.end(), is_better);  // the worst on top
    } else if (count_ > 0 && is_better(entry, best_.front())) {
      std::pop_heap(best_.begin(), best_.end(), is_better);
      best_.back() = entry;
      std::push_heap(best_.begin(), best_.end(), is_better);
    }
  }

  /// Keeps the runners-up for the next call.
  void remember() {
    const std::size_t wanted = std::min(looked_at_.size(), 5 * count_ + 32);
    const auto end = looked_at_.begin() + static_cast<std::ptrdiff_t>(wanted);
    std::partial_sort(looked_at_.begin(), end, looked_at_.end(), is_better);
    probable_.clear();
    for (auto entry = looked_at_.begin(); entry != end; ++entry) probable_.push_back(entry->row);
  }

  mass_columns& columns_;
  bool is_absolute_;
  std::size_t count_ = 0;
  vector norms_;
  vector divisors_;  // ‖Φ_:j‖^power; empty for power 0
  vector bounds_;    // c_j or |c_j| is at most this, for the residual before
  vector previous_;
  vector correlation_;
  std::vector<char> is_seen_;
  std::vector<ranked> best_;
  std::vector<ranked> looked_at_;
  std::vector<index> rows_;
  std::vector<index> probable_;
  index looked_at_in_all_ = 0;

  friend double residual_ranking_bytes(const head_sizes& sizes, index count) noexcept;
};

/// Bytes of a `residual_ranking` that is asked for `count` rows at most.
inline double residual_ranking_bytes(const head_sizes& sizes, index count) noexcept {
  const auto entry = static_cast<double>(sizeof(residual_ranking::ranked));
  return float_bytes(4, sizes.keys) + float_bytes(sizes.queries) + static_cast<double>(sizes.keys) +
         grown_bytes(entry * static_cast<double>(sizes.keys)) +
         grown_bytes(2 * entry * static_cast<double>(6 * count + 32));
}

}  // namespace kvfit::inline KVFIT_ISA
