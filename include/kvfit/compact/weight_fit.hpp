// SPDX-License-Identifier: MIT
/// The weights of chosen rows; rows whose weight comes out dead give their slots to others.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/bias/problem.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows in ascending order, their weights with them.
inline void sort_by_position(selected_rows& rows) {
  std::vector<std::size_t> order(rows.positions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&rows](std::size_t a, std::size_t b) {
    return rows.positions[a] < rows.positions[b];
  });
  selected_rows sorted;
  for (const std::size_t at : order) {
    sorted.positions.push_back(rows.positions[at]);
    if (!rows.weights.empty()) sorted.weights.push_back(rows.weights[at]);
  }
  rows.positions = std::move(sorted.positions);
  rows.weights = std::move(sorted.weights);
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
        may_replace_(of.options.replace_dead_keys && may_replace(of.options.selection)) {}

  /// Fits the weights of `chosen` (ascending); while some are dead, gives their slots away and fits
  /// again, three times at most. The set that misses least mass is returned.
  result<weighed_rows> run(selected_rows chosen) {
    constexpr int replacement_rounds = 3;
    chosen_ = std::move(chosen);
    weighed_rows best;
    index_t replaced = 0;
    for (int round = 0;; ++round) {
      if (const auto ok = check_stop(problem_.stop, "weights"); !ok) return ok.error();
      const auto columns = mass_matrix();
      if (!columns) return columns.error();
      auto fit = fit_bias(of_.options.bias,
                          bias_problem{&*columns, &scores_, chosen_.weights, problem_.threads});
      if (!fit) return fit.error();
      weights_ = std::move(fit->weights);
      if (const auto ok = check_weights(); !ok) return ok.error();
      std::vector<std::size_t> dead;
      for (std::size_t j = 0; j < weights_.size(); ++j) {
        if (weights_[j] <= fit->floor) dead.push_back(j);
      }
      if (round == 0 && (dead.empty() || !may_replace_)) {
        return weighed_rows{std::move(chosen_), std::move(weights_), fit->report, fit->is_fitted,
                            static_cast<index_t>(dead.size())};
      }
      const vector missing = missing_mass(*columns);
      const double norm = static_cast<double>(missing.norm());
      if (round == 0 || norm < best.missing) {
        best = {chosen_,  weights_, fit->report, fit->is_fitted, static_cast<index_t>(dead.size()),
                replaced, norm};
      }
      // Below the noise of fp32 the residual says nothing about any row.
      const bool is_noise = norm <= 1e-6 * std::sqrt(static_cast<double>(missing.size()));
      if (dead.empty() || is_noise || round == replacement_rounds || !may_replace_) break;
      const index_t given_away = replace(dead, missing);
      if (given_away == 0) break;
      replaced += given_away;
    }
    return best;
  }

 private:
  /// exp(s_ij − max_i) of the chosen rows, their keys as they will be stored.
  result<matrix> mass_matrix() const {
    matrix keys = gather_rows(problem_.cache.keys, chosen_.positions);
    const auto ok = round_rows(of_, chosen_.positions, keys, of_.options.storage.rows, "keys");
    if (!ok) return ok.error();
    matrix columns;
    row_logits_into(problem_.cache, problem_.queries, problem_.rule, chosen_.positions, keys,
                    columns, problem_.threads);
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
    return columns;
  }

  /// What is missing of each query's mass, relative to it.
  [[nodiscard]] vector missing_mass(const matrix& columns) const {
    vector missing(columns.rows());
    for (index_t i = 0; i < columns.rows(); ++i) {
      const mass_row row = weighted_mass_row(scores_, i, mass_weighting::relative);
      const float* const x = columns.data() + i * columns.cols();
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

  /// Gives dead slots to the rows whose columns agree most with the mass still missing. A row that
  /// was dead once is not tried again. Returns the number of slots given away.
  index_t replace(const std::vector<std::size_t>& dead, const vector& missing) {
    banned_.resize(static_cast<std::size_t>(problem_.cache.keys.rows()), 0);
    for (const std::size_t slot : dead) {
      banned_[static_cast<std::size_t>(chosen_.positions[slot])] = 1;
    }
    std::vector<char> is_taken = banned_;
    for (const index_t row : chosen_.positions) is_taken[static_cast<std::size_t>(row)] = 1;
    selection_problem streamed = problem_;
    streamed.memory_cap = 0;  // for one correlation, storing n × T numbers saves nothing
    vector correlation;
    mass_columns(streamed, mass_weighting::relative).correlate(missing, correlation);
    const auto* const rows = of_.options.selection.get_if<selection::joint>();
    if (rows != nullptr && !rows->prior.empty()) {
      simd::multiply_each(correlation.data(), rows->prior.data() + problem_.first_row,
                          correlation.size());
    }
    std::vector<index_t> candidates;
    for (index_t row = 0; row < problem_.cache.keys.rows(); ++row) {
      const bool is_free = is_taken[static_cast<std::size_t>(row)] == 0;
      // A hidden row has no mass, and agrees with nothing.
      if (is_free && correlation[row] > 0) candidates.push_back(row);
    }
    const std::size_t count = (std::min)(candidates.size(), dead.size());
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count),
                      candidates.end(), [&](index_t a, index_t b) {
                        return correlation[a] != correlation[b] ? correlation[a] > correlation[b]
                                                                : a < b;
                      });
    for (std::size_t k = 0; k < count; ++k) chosen_.positions[dead[k]] = candidates[k];
    chosen_.weights.clear();
    sort_by_position(chosen_);
    return static_cast<index_t>(count);
  }

  const stages::problem& of_;
  selection_problem problem_;
  const attention_scores& scores_;
  bool may_replace_;
  selected_rows chosen_;
  std::vector<double> weights_;
  std::vector<char> banned_;  // rows that were dead once
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
