// SPDX-License-Identifier: MIT
/// Greedy selection on mass and output together: simultaneous orthogonal least squares.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/selection/fill.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/selection/target_columns.hpp"
#include "kvfit/simd/accumulate.hpp"

namespace kvfit::selection {

/// Each pick is the key that, fitted together with those before it, leaves least of
///
///     min_{w, U} Σ_i f_i² [ μ² (1 − Σ_{j∈S} A_ij w_j)² + ‖o_i − Σ_{j∈S} A_ij u_j‖² / σ² ]
///
/// A the attention weights of the full cache, o its outputs, f_i ∝ 1/‖o_i‖, σ the outputs' rms
/// norm: w explains the mass and u_j = w_j c_j (the weighted values) the output, whose errors count
/// relative to its length, as those of mass then do (docs/algorithm.md, Joint selection).
/// Orthogonal least squares over 1 + d_v targets.
struct joint {
  double mass_weight = 0.2;  ///< μ ≥ 0: 0 chooses for the output alone
  /// Keys whose columns are looked at in one sweep, 1 … 256. Picks do not depend on it but for
  /// rounding; speed does.
  index sweep = 16;
  /// Rows that the n queries are folded onto for the choice alone (see `sketched_columns`):
  /// max(sketch, 5 t), all of them where that is n or more. 0: never fold.
  index sketch = 384;
};

}  // namespace kvfit::selection

namespace kvfit::detail::inline KVFIT_ISA {

/// One run of simultaneous orthogonal least squares; see `selection::joint`.
///
/// The residuals' products with every column are kept up to date: for a pick with column a,
/// q = P⊥a / ‖P⊥a‖ (P⊥ projects the picks before out) and z = Aᵀq,
///
///     G ← G − z (qᵀR),   ‖P⊥a_j‖² ← ‖P⊥a_j‖² − z_j²,   score_j = ‖G_j‖² / ‖P⊥a_j‖²
///
/// so that a pick costs T · (1 + d_v), once z is there. z takes a sweep over n × T numbers; so each
/// sweep makes those of the `sweep` most promising keys, which are then kept up to date, too, and
/// serve as long as the best key is among them.
class joint_search {
 public:
  joint_search(const selection::joint& policy, const selection_problem& problem)
      : problem_(problem),
        targets_(problem, policy.mass_weight),
        full_(problem, mass_weighting::relative, &targets_.row_weights()),
        columns_(full_, policy.sketch > 0 ? std::max(policy.sketch, 5 * problem.budget) : 0,
                 problem.memory_cap),
        sweep_(std::min(policy.sweep, columns_.keys())),
        is_open_(static_cast<std::size_t>(columns_.keys()), 1) {
    for (index j = 0; j < columns_.keys(); ++j) {
      if (!problem.may_keep(j)) is_open_[static_cast<std::size_t>(j)] = 0;
    }
    out_.report.recomputed = !full_.is_stored() && !columns_.is_folded();
  }

  result<selected_rows> run() {
    start();
    while (size() < problem_.budget) {
      if (const auto ok = check_stop(problem_.stop, "selection"); !ok) return ok.error();
      const index best = best_open();
      if (best < 0) break;
      index slot = slot_of(best);
      if (slot < 0) {
        look_at_most_promising();
        slot = slot_of(best);
      }
      pick(slot);
    }
    if (size() < problem_.budget) {
      out_.report.filled =
          selection::fill_by_importance(problem_, norms_, is_open_, out_.positions);
    }
    return std::move(out_);
  }

 private:
  /// Below this share of its column's norm², what is left of a key is rounding.
  static constexpr float dependent = 1e-5F;

  [[nodiscard]] index size() const noexcept { return static_cast<index>(out_.positions.size()); }

  void start() {
    const index keys = columns_.keys();
    columns_.squared_norms(norms_);
    left_ = norms_;
    columns_.correlate(columns_.fold(targets_.rows()), agreement_);
    score_ = agreement_.colwise().squaredNorm().transpose();
    basis_.resize(problem_.budget, columns_.rows());
    slots_.assign(static_cast<std::size_t>(sweep_), -1);
    apart_.setZero(sweep_, columns_.rows());
    products_.setZero(sweep_, keys);
  }

  /// What a key would explain: ‖G_j‖² / ‖P⊥a_j‖².
  [[nodiscard]] float gain(index j) const {
    if (is_open_[static_cast<std::size_t>(j)] == 0 || !(left_[j] > dependent * norms_[j])) return 0;
    return score_[j] / left_[j];
  }

  /// Ties go to the earlier row; −1 where no key explains anything.
  [[nodiscard]] index best_open() const {
    index best = -1;
    float most = 0;
    for (index j = 0; j < columns_.keys(); ++j) {
      const float now = gain(j);
      if (now > most) {
        most = now;
        best = j;
      }
    }
    return best;
  }

  [[nodiscard]] index slot_of(index key) const {
    const auto found = std::find(slots_.begin(), slots_.end(), key);
    return found == slots_.end() ? -1 : static_cast<index>(found - slots_.begin());
  }

  /// Fills all slots with the keys that explain most now, keeping what is there of them.
  void look_at_most_promising() {
    std::vector<std::pair<float, index>> ranked;  // by descending gain, then row
    for (index j = 0; j < columns_.keys(); ++j) {
      const float now = gain(j);
      if (now > 0) ranked.emplace_back(-now, j);
    }
    const auto count = std::min(ranked.size(), static_cast<std::size_t>(sweep_));
    std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(count),
                      ranked.end());
    std::vector<index> wanted;
    std::vector<char> stays(slots_.size(), 0);
    for (std::size_t k = 0; k < count; ++k) {
      const index slot = slot_of(ranked[k].second);
      if (slot >= 0) {
        stays[static_cast<std::size_t>(slot)] = 1;
      } else {
        wanted.push_back(ranked[k].second);
      }
    }
    std::vector<index> free;
    for (std::size_t s = 0; s < slots_.size(); ++s) {
      if (stays[s] == 0) {
        slots_[s] = -1;
        free.push_back(static_cast<index>(s));
      }
    }
    matrix added = columns_.columns(wanted);
    project_out_picks(added);
    matrix product;
    columns_.correlate(added, product);
    for (std::size_t k = 0; k < wanted.size(); ++k) {
      const index slot = free[k];
      const auto row = static_cast<index>(k);
      slots_[static_cast<std::size_t>(slot)] = wanted[k];
      apart_.row(slot) = added.row(row);
      products_.row(slot) = product.row(row);
      // Afresh, without the rounding of many subtractions.
      left_[wanted[k]] = added.row(row).squaredNorm();
    }
    ++out_.report.refits;
  }

  /// Rows of `added` without what the picks so far explain of them; twice, for orthogonality to
  /// rounding.
  void project_out_picks(matrix& added) const {
    const auto picked = basis_.topRows(size());
    for (int pass = 0; pass < 2 && size() > 0; ++pass) {
      const matrix along = added * picked.transpose();
      added.noalias() -= along * picked;
    }
  }

  void pick(index slot) {
    const index row = slots_[static_cast<std::size_t>(slot)];
    slots_[static_cast<std::size_t>(slot)] = -1;
    const float length = apart_.row(slot).stableNorm();
    is_open_[static_cast<std::size_t>(row)] = 0;
    if (!(length * length > dependent * norms_[row])) return;  // a rounding's worth, after all
    const float scale = 1 / length;
    basis_.row(size()) = apart_.row(slot) * scale;
    along_ = products_.row(slot) * scale;
    const vector explained = agreement_.col(row) * scale;
    out_.positions.push_back(row);
    ++out_.report.rounds;
    score_.setZero();
    for (index k = 0; k < agreement_.rows(); ++k) {
      float* of_target = agreement_.row(k).data();
      simd::subtract_scaled(of_target, explained[k], along_.data(), along_.size());
      simd::add_products(score_.data(), of_target, of_target, score_.size());
    }
    left_.array() -= along_.array().square();
    for (std::size_t s = 0; s < slots_.size(); ++s) {
      if (slots_[s] < 0) continue;
      const auto other = static_cast<index>(s);
      const float share = along_[slots_[s]];
      simd::subtract_scaled(apart_.row(other).data(), share, basis_.row(size() - 1).data(),
                            apart_.cols());
      simd::subtract_scaled(products_.row(other).data(), share, along_.data(), along_.size());
    }
  }

  selection_problem problem_;
  target_columns targets_;
  mass_columns full_;
  sketched_columns columns_;
  index sweep_;
  std::vector<char> is_open_;
  vector norms_;              // ‖a_j‖²
  vector left_;               // ‖P⊥a_j‖²
  matrix agreement_;          // (1 + d_v) × T: every target's residual with every column
  vector score_;              // squared norms of its columns
  matrix basis_;              // picks × n, orthonormal
  std::vector<index> slots_;  // keys whose products are at hand, −1 for none
  matrix apart_;              // slots × n: P⊥a
  matrix products_;           // slots × T: AᵀP⊥a
  vector along_;
  selected_rows out_;
};

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::selection::inline KVFIT_ISA {

inline score_options wanted_scores(const selection::joint&) {
  return {.importance = importance_kind::none,
          .keep_exponentials = std::numeric_limits<index>::max()};
}

inline result<void> check_settings(const selection::joint& policy) {
  if (!(policy.mass_weight >= 0 && policy.mass_weight <= 1e6)) {
    return error{errc::invalid_option, "joint.mass_weight", error::none, error::none,
                 "must be in [0, 1e6]"};
  }
  if (policy.sweep < 1 || policy.sweep > 256) {
    return error{errc::invalid_option, "joint.sweep", policy.sweep, 256, "must be in 1 ... 256"};
  }
  if (policy.sketch < 0) {
    return error{errc::invalid_option, "joint.sketch", policy.sketch, 0, "must not be negative"};
  }
  return {};
}

/// Runs the search. Weights are left to the bias fit. Cost: n · T · (1 + d_v) multiply-adds to
/// begin with, T · (1 + d_v) a pick, and n · T a key looked at (two to four a pick), n counted
/// after folding. Memory: the exponentials as for `omp`, T · (1 + d_v + sweep + 2 max(sketch, 5 t))
/// + r · (t + sweep) + n · (1 + d_v) floats beside, r the rows after folding.
inline result<selected_rows> select(const selection::joint& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  return detail::joint_search(policy, problem).run();
}

/// Bytes that `select` holds at most, its result included.
inline double select_bytes(const selection::joint& policy, const head_sizes& sizes) {
  const index keys = sizes.keys;
  const index targets = 1 + sizes.width;
  const index sweep = std::min(policy.sweep, keys);
  const index folded = policy.sketch > 0 ? std::max(policy.sketch, 5 * sizes.budget) : 0;
  const bool folds = folds_columns(sizes, folded);
  const index rows = folds ? folded : sizes.queries;
  const double begun = target_columns_bytes(sizes) + mass_columns_bytes(sizes);
  const double fold = folds ? float_bytes(rows, keys) : 0;  // a second time while it is made
  const double search = begun + fold + float_bytes(sizes.queries) + static_cast<double>(keys) +
                        float_bytes(targets + sweep + 4, keys) +
                        float_bytes(sizes.budget + sweep, rows) +
                        grown_bytes(double_bytes(sizes.budget));
  const auto products = [&](index many) {  // of as many rows, result aside
    return float_bytes(many, rows) + (folds ? 0 : correlation_bytes(sizes, many));
  };
  const double look = grown_bytes(double_bytes(2, keys)) + double_bytes(4, sweep) +
                      products(sweep) + float_bytes(sweep, keys) +
                      float_bytes(sweep, sizes.budget) + (folds ? 0 : columns_bytes(sizes, sweep)) +
                      packed_bytes(sweep, std::max(rows, sizes.budget), rows);
  return std::max(begun + 2 * fold + float_bytes(2, sizes.queries),
                  search + std::max({products(targets), look, fill_bytes(sizes)}));
}

constexpr bool may_replace(const selection::joint&) {
  return true;
}

constexpr bool refines_by_default(const selection::joint&) {
  return true;
}

static_assert(selection_policy<selection::joint>);

}  // namespace kvfit::selection::inline KVFIT_ISA
