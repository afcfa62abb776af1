// SPDX-License-Identifier: MIT
/// The weights of chosen rows; rows whose weight comes out dead give their slots to others.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/bias/problem.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/replacement_rows.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows in ascending order; `weights`, where there are any, with them.
inline void sort_by_position(std::vector<index_t>& positions, std::vector<double>& weights) {
  std::vector<std::size_t> order(positions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&positions](std::size_t a, std::size_t b) { return positions[a] < positions[b]; });
  std::vector<index_t> sorted;
  std::vector<double> sorted_weights;
  for (const std::size_t at : order) {
    sorted.push_back(positions[at]);
    if (!weights.empty()) sorted_weights.push_back(weights[at]);
  }
  positions = std::move(sorted);
  weights = std::move(sorted_weights);
}

/// Rows, their weights, and how they came about.
struct weighed_rows {
  selected_rows rows;  ///< ascending
  std::vector<double> weights;
  linalg::bounded_report report;
  bool is_fitted = false;
  index_t dead = 0;      ///< weights that still are on their floor
  index_t replaced = 0;  ///< slots that were given to another row
  double missing = std::numeric_limits<double>::infinity();  ///< ‖relative mass error‖
};

/// One fit of weights, repeated while it leaves dead rows that may be replaced.
class weight_fit {
 public:
  /// Both must outlive this.
  weight_fit(const stages::problem& of, const stages::scored& full)
      : of_(of),
        problem_(selection_problem_of(of, full)),
        scores_(full.fitted),
        may_replace_(of.options.replace_dead_keys && may_replace(of.options.selection)),
        others_(problem_, of.options.selection.get_if<selection::joint>()) {}

  /// Fits the weights of `chosen` (ascending); while some are dead, gives their slots away and fits
  /// again, three times at most. The set that misses least mass is returned.
  result<weighed_rows> run(selected_rows chosen) {
    constexpr int replacement_rounds = 3;
    chosen_ = std::move(chosen);
    weighed_rows best;
    index_t replaced = 0;
    std::vector<std::size_t> dead;
    for (int round = 0;; ++round) {
      if (const auto ok = check_stop(problem_.stop, "weights"); !ok) return ok.error();
      if (const auto ok = round == 0 ? make_columns() : renew_columns(dead); !ok) return ok.error();
      again_.changed = changed_;
      auto fit = fit_bias(of_.options.bias,
                          bias_problem{&columns_, &scores_, chosen_.weights,
                                       may_replace_ ? &again_ : nullptr, problem_.threads});
      if (!fit) return fit.error();
      weights_ = std::move(fit->weights);
      if (const auto ok = check_weights(); !ok) return ok.error();
      dead.clear();
      for (std::size_t j = 0; j < weights_.size(); ++j) {
        if (weights_[j] <= fit->floor) dead.push_back(j);
      }
      if (round == 0 && (dead.empty() || !may_replace_)) {
        return weighed_rows{std::move(chosen_), std::move(weights_), fit->report, fit->is_fitted,
                            static_cast<index_t>(dead.size())};
      }
      const vector missing = missing_mass();
      const double norm = static_cast<double>(missing.norm());
      if (round == 0 || norm < best.missing) {
        best = {chosen_,  weights_, fit->report, fit->is_fitted, static_cast<index_t>(dead.size()),
                replaced, norm};
      }
      // Below the noise of fp32 the residual says nothing about any row.
      const bool is_noise = norm <= 1e-6 * std::sqrt(static_cast<double>(missing.size()));
      if (dead.empty() || is_noise || round == replacement_rounds || !may_replace_) break;
      replace(dead, missing);
      if (dead.empty()) break;
      replaced += static_cast<index_t>(dead.size());
    }
    sort_by_position(best.rows.positions, best.weights);
    best.rows.weights.clear();
    return best;
  }

 private:
  /// exp(s_ij − max_i) of the rows `positions`, their keys as they will be stored.
  result<void> make(std::span<const index_t> positions, matrix& columns) const {
    matrix keys = gather_rows(problem_.cache.keys, positions);
    const auto ok = round_rows(of_, positions, keys, of_.options.storage.rows, "keys");
    if (!ok) return ok.error();
    row_logits_into(problem_.cache, problem_.queries, problem_.rule, positions, keys, columns,
                    problem_.threads);
    constexpr index_t piece = 64;
    over_pieces(problem_.threads, columns.rows(), piece,
                [&](index_t first, index_t count) noexcept {
                  for (index_t i = first; i < first + count; ++i) {
                    // Rounded keys and another order of sums may lift a logit above the maximum: a
                    // little, or by more than exp can take where logits are huge.
                    float* const row = columns.data() + i * columns.cols();
                    const float most = scores_.max[i] + 60.0F;
                    for (index_t j = 0; j < columns.cols(); ++j) row[j] = (std::min)(row[j], most);
                    simd::exp_shifted_sum(row, columns.cols(), scores_.max[i]);
                  }
                });
    return {};
  }

  /// The columns of all rows chosen.
  result<void> make_columns() { return make(chosen_.positions, columns_); }

  /// The columns of the slots that were given away, which are then `changed_`.
  result<void> renew_columns(const std::vector<std::size_t>& slots) {
    std::vector<index_t> positions;
    changed_.clear();
    for (const std::size_t slot : slots) {
      positions.push_back(chosen_.positions[slot]);
      changed_.push_back(static_cast<index_t>(slot));
    }
    matrix fresh;
    if (const auto ok = make(positions, fresh); !ok) return ok;
    for (index_t i = 0; i < fresh.rows(); ++i) {
      const float* const from = fresh.data() + i * fresh.cols();
      float* const to = columns_.data() + i * columns_.cols();
      for (std::size_t k = 0; k < slots.size(); ++k) to[slots[k]] = from[k];
    }
    return {};
  }

  /// What is missing of each query's mass, relative to it.
  [[nodiscard]] vector missing_mass() const {
    vector missing(columns_.rows());
    for (index_t i = 0; i < columns_.rows(); ++i) {
      const mass_row row = weighted_mass_row(scores_, i, mass_weighting::relative);
      const float* const x = columns_.data() + i * columns_.cols();
      double fitted = 0;
      for (std::size_t j = 0; j < weights_.size(); ++j) {
        fitted += static_cast<double>(x[j]) * weights_[j];
      }
      missing[i] = static_cast<float>(static_cast<double>(row.target) -
                                      static_cast<double>(row.factor) * fitted);
    }
    return missing;
  }

  /// A caller's own policy may return anything.
  [[nodiscard]] result<void> check_weights() const {
    const auto kept = static_cast<index_t>(chosen_.positions.size());
    if (static_cast<index_t>(weights_.size()) != kept) {
      return error{errc::shape_mismatch, "bias policy's weights",
                   static_cast<index_t>(weights_.size()), kept, "one for each key"};
    }
    for (index_t j = 0; j < kept; ++j) {
      const double weight = weights_[static_cast<std::size_t>(j)];
      if (!std::isfinite(std::log(weight))) {  // 0, negative and not finite ones
        return error{errc::invalid_option, "bias policy's weights", j, error::none,
                     "the one at this place must be finite and above 0, is " + number_text(weight)};
      }
    }
    return {};
  }

  /// Gives dead slots to the rows whose columns agree most with the mass still missing; keeps in
  /// `dead` the slots that were given away. A row that was dead once is not tried again.
  void replace(std::vector<std::size_t>& dead, const vector& missing) {
    banned_.resize(static_cast<std::size_t>(problem_.cache.keys.rows()), 0);
    for (const std::size_t slot : dead) {
      banned_[static_cast<std::size_t>(chosen_.positions[slot])] = 1;
    }
    std::vector<char> is_taken = banned_;
    for (const index_t row : chosen_.positions) is_taken[static_cast<std::size_t>(row)] = 1;
    const vector agreement = others_.agreement(missing, is_taken);
    std::vector<index_t> candidates;
    for (index_t row = 0; row < agreement.size(); ++row) {
      const bool is_free = is_taken[static_cast<std::size_t>(row)] == 0;
      // A hidden row has no mass, and agrees with nothing.
      if (is_free && agreement[row] > 0) candidates.push_back(row);
    }
    const std::size_t count = (std::min)(candidates.size(), dead.size());
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count),
                      candidates.end(), [&](index_t a, index_t b) {
                        return agreement[a] != agreement[b] ? agreement[a] > agreement[b] : a < b;
                      });
    dead.resize(count);
    for (std::size_t k = 0; k < count; ++k) chosen_.positions[dead[k]] = candidates[k];
    chosen_.weights.clear();
  }

  const stages::problem& of_;
  selection_problem problem_;
  const attention_scores& scores_;
  bool may_replace_;
  replacement_rows others_;
  selected_rows chosen_;
  matrix columns_;                // n × t, of `chosen_`
  std::vector<index_t> changed_;  // columns that are not the last fit's
  repeated_bias_fit again_;
  std::vector<double> weights_;
  std::vector<char> banned_;  // rows that were dead once
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
