// SPDX-License-Identifier: MIT
/// The search behind `selection::joint`: picks, and what each leaves of all other keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/selection/attended_rows.hpp"
#include "kvfit/selection/candidate_columns.hpp"
#include "kvfit/selection/fill.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/picked_basis.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"
#include "kvfit/selection/sampled_products.hpp"
#include "kvfit/selection/searched_keys.hpp"
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/selection/target_columns.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/double_vectors.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `scores` of the rows of a problem times their prior; −∞ where that is 0, behind every row that
/// no query sees.
inline vector times_prior(const vector& scores, const selection::joint& policy, index_t first_row) {
  vector out = scores;
  if (policy.prior.empty()) return out;
  const float* const factors = policy.prior.data() + first_row;
  for (index_t row = 0; row < out.size(); ++row) {
    out[row] = factors[row] > 0 ? out[row] * factors[row] : -std::numeric_limits<float>::infinity();
  }
  return out;
}

/// What a `joint_search` keeps for the keys that it looks among.
class joint_buffers {
 public:
  /// `rows`: the length of a column; `targets`: 1 + d_v. The correlation is made elsewhere.
  void declare(workspace& space, index_t keys, index_t rows, index_t targets, index_t sweep) {
    const index_t slots = 2 * sweep;  // a sweep's own, and what earlier ones have left
    space.add_vectors(keys, residual_norm_sq_, score_);
    space.add(slots_, slots, 1, index_t{-1});
    space.add_vectors(slots, along_, change_);
    space.add(orthogonal_, slots, rows);
    space.add(correlation_of_, slots, targets);
    space.add_matrices(keys, slots, products_, shared_);
    space.add(fresh_, keys, sweep);
    // As many picks may be pending as there are slots to pick from.
    space.add(along_pending_, keys, slots);
    space.add(explained_, slots, targets);
  }

 protected:
  vector residual_norm_sq_;     // ‖P⊥a_j‖²
  vector score_;                // ‖G_j‖² as of now
  std::vector<index_t> slots_;  // keys whose products are at hand, −1 for none
  matrix orthogonal_;           // slots × n: P⊥a
  matrix correlation_of_;       // slots × (1 + d_v): their rows of G
  matrix products_;             // keys × slots: AᵀP⊥a
  matrix shared_;               // keys × slots: H
  matrix fresh_;                // keys × newcomers
  matrix along_pending_;        // keys × pending picks: their z
  matrix explained_;            // pending picks × (1 + d_v): their g
  std::vector<float> along_;    // slots: z of each slot's key
  std::vector<float> change_;   // slots: of a slot's H for each z_j
};

/// One run of simultaneous orthogonal least squares; see `selection::joint`.
///
/// G is the residuals' products with every column, keys × (1 + d_v). For a pick with column a,
/// q = P⊥a / ‖P⊥a‖ (P⊥ projects the picks before out), z = Aᵀq and g = qᵀR,
///
///     G ← G − z gᵀ,   ‖P⊥a_j‖² ← ‖P⊥a_j‖² − z_j²,   score_j = ‖G_j‖² / ‖P⊥a_j‖²
///
/// z takes a sweep over all columns; so each sweep makes those of the `sweep` most promising
/// keys, which are then kept up to date and serve as long as the best key is among them. So long,
/// no more is needed of G than its products H = G G_cᵀ with the rows of those keys:
///
///     ‖G_j − z_j g‖² = ‖G_j‖² − 2 z_j ⟨G_j, g⟩ + z_j² ‖g‖²
///
/// and G itself is brought up to date once a sweep, in one product of matrices.
class joint_search : private joint_buffers {
 public:
  /// The policy, which must outlive this, and the rows that its `sketch` folds the queries onto (0:
  /// none).
  joint_search(const selection_problem& problem, const selection::joint& policy, index_t folded)
      : problem_(problem),
        policy_(policy),
        among_(search_candidates(policy, problem.cache.keys.rows(), problem.budget)),
        targets_(problem, policy.mass_weight, policy.weighting),
        full_(problem, mass_weighting::relative, &targets_.row_weights(), use()),
        all_(full_, folded, problem.memory_cap, use()),
        columns_(all_),
        sweep_((std::min)(policy.sweep, all_.keys())),
        is_open_(static_cast<std::size_t>(all_.keys()), 1) {
    for (index_t row = 0; row < all_.keys(); ++row) {
      if (!problem.may_keep(row)) is_open_[static_cast<std::size_t>(row)] = 0;
    }
    out_.report.recomputed = !narrows() && !full_.is_stored() && !all_.is_folded();
  }

  result<selected_rows> run() {
    basis_ = picked_basis(problem_.budget, all_.rows());
    if (const auto ok = take_most_attended(); !ok) return ok.error();
    if (const auto ok = begin_search(); !ok) return ok.error();
    while (size() < problem_.budget) {
      if (const auto ok = check_stop(problem_.stop, "selection"); !ok) return ok.error();
      const index_t best = best_open();
      if (best < 0) {
        if (pending_ == 0) break;
        bring_up_to_date();  // rounding may have hidden what there is
        continue;
      }
      const index_t slot = slot_of(best);
      if (slot >= 0) {
        pick(slot);
      } else {  // afresh, in which another may turn out to be the best
        bring_up_to_date();
        examine_most_promising();
      }
    }
    if (size() < problem_.budget) {
      const vector& attention = problem_.scores->importance;
      const bool is_ranked = attention.size() == problem_.cache.keys.rows();
      const vector& ranks = is_ranked ? attention : norms_;
      out_.report.filled = selection::fill_by_importance(
          problem_, times_prior(ranks, policy_, problem_.first_row), is_open_, out_.positions);
    }
    return std::move(out_);
  }

 private:
  [[nodiscard]] index_t size() const noexcept {
    return static_cast<index_t>(out_.positions.size());
  }

  [[nodiscard]] index_t slots() const noexcept { return static_cast<index_t>(slots_.size()); }

  /// Whether the search looks among some keys alone.
  [[nodiscard]] bool narrows() const noexcept { return among_ < problem_.cache.keys.rows(); }
  [[nodiscard]] column_use use() const noexcept {
    return narrows() ? column_use::some : column_use::all;
  }

  /// The rows of most attention.
  result<void> take_most_attended() {
    const index_t count = rows_by_attention(policy_, problem_.budget);
    if (count == 0) return {};
    {
      const vector ranks = times_prior(problem_.scores->importance, policy_, problem_.first_row);
      out_.positions = selection::highest_rows(problem_, ranks.data(), count);
    }
    out_.positions.reserve(static_cast<std::size_t>(problem_.budget));
    for (const index_t row : out_.positions) is_open_[static_cast<std::size_t>(row)] = 0;
    out_.report.by_attention = size();
    return span_columns(all_, out_.positions, basis_, problem_.stop);
  }

  /// What the keys explain beside the rows of most attention.
  result<void> begin_search() {
    {
      const matrix left = left_targets();
      if (narrows()) columns_.narrow(promising_keys(left));
      columns_.squared_norms(norms_);
      columns_.correlate(left, correlation_);
    }
    allocate_buffers(static_cast<joint_buffers&>(*this), columns_.keys(), columns_.length(),
                     targets(), sweep_);
    for (matrix* one : {&orthogonal_, &products_, &correlation_of_, &along_pending_, &explained_}) {
      std::fill_n(one->data(), one->size(), 0.0F);
    }
    std::copy_n(norms_.data(), norms_.size(), residual_norm_sq_.data());
    measure_correlation();
    return subtract_explained(columns_, basis_, problem_.threads, problem_.stop, residual_norm_sq_);
  }

  /// The keys to look among: half of them those that would explain most of `left` if all of their
  /// column were new (a lower bound of what they do explain), estimated from some of the queries;
  /// the others those of the highest attention, which few queries may ask for.
  [[nodiscard]] std::vector<index_t> promising_keys(const matrix& left) const {
    const index_t keys = problem_.cache.keys.rows();
    selection::best_rows best(among_ / 2);
    {
      const sampled_products found =
          multiply_sampled(problem_, &targets_.row_weights(), all_.unfold(left), true);
      for (index_t row = 0; row < keys; ++row) {
        if (is_open_[static_cast<std::size_t>(row)] == 0 || !(found.norm_sq[row] > 0)) continue;
        const float* const of = row_of(found.products, row);
        const float gained = simd::dot32(of, of, left.cols()) / found.norm_sq[row] * prior_of(row);
        if (gained > 0) best.offer(row, static_cast<double>(gained));
      }
    }
    std::vector<char> is_candidate(is_open_.size(), 0);
    std::vector<index_t> rows;
    rows.reserve(static_cast<std::size_t>(among_));
    const auto take = [&] {
      for (const selection::ranked_row& one : best.sorted()) {
        is_candidate[static_cast<std::size_t>(one.row)] = 1;
        rows.push_back(one.row);
      }
    };
    take();
    best.restart(among_ - static_cast<index_t>(rows.size()));
    for (index_t row = 0; row < keys; ++row) {
      const auto at = static_cast<std::size_t>(row);
      const float attention = problem_.scores->importance[row] * prior_of(row);
      if (is_open_[at] == 0 || is_candidate[at] != 0 || !(attention > 0)) continue;
      best.offer(row, static_cast<double>(attention));
    }
    take();
    std::sort(rows.begin(), rows.end());
    return rows;
  }

  /// What the caller knows of a row.
  [[nodiscard]] float prior_of(index_t row) const {
    return policy_.prior.empty()
               ? 1.0F
               : policy_.prior[static_cast<std::size_t>(problem_.first_row + row)];
  }

  /// What the basis leaves of the targets.
  [[nodiscard]] matrix left_targets() const {
    matrix left = all_.fold(targets_.columns());
    if (basis_.size() == 0) return left;
    matrix across = transposed(left);
    left = {};
    basis_.project_out(across, problem_.threads);
    return transposed(across);
  }

  /// 1 + d_v.
  [[nodiscard]] index_t targets() const noexcept { return correlation_.cols(); }

  /// `body(first, count)` for pieces of all keys, on all threads.
  template <class Body>
  void over_keys(Body&& body) const {
    over_pieces(problem_.threads, columns_.keys(), mass_columns::piece, body);
  }

  void measure_correlation() {
    over_keys([&](index_t first, index_t count) noexcept {
      for (index_t j = first; j < first + count; ++j) {
        const float* row = row_of(correlation_, j);
        score_[j] = simd::dot32(row, row, targets());
      }
    });
  }

  /// What a key would explain: ‖G_j‖² / ‖P⊥a_j‖².
  [[nodiscard]] float gain(index_t j) const {
    const index_t row = columns_.row(j);
    if (is_open_[static_cast<std::size_t>(row)] == 0 ||
        !(residual_norm_sq_[j] > dependent_share * norms_[j]))
      return 0;
    const float gained = score_[j] / residual_norm_sq_[j];
    return policy_.prior.empty() ? gained : gained * prior_of(row);
  }

  /// Ties go to the earlier row; −1 where no key explains anything.
  [[nodiscard]] index_t best_open() const {
    index_t best = -1;
    float most = 0;
    for (index_t j = 0; j < columns_.keys(); ++j) {
      const float now = gain(j);
      if (now > most) {
        most = now;
        best = j;
      }
    }
    return best;
  }

  [[nodiscard]] index_t slot_of(index_t key) const {
    const auto found = std::find(slots_.begin(), slots_.end(), key);
    return found == slots_.end() ? -1 : static_cast<index_t>(found - slots_.begin());
  }

  /// G of all keys, from the pending picks.
  void bring_up_to_date() {
    if (pending_ == 0) return;
    over_keys([&](index_t first, index_t count) noexcept {
      simd::multiply({row_of(along_pending_, first), slots(), 1}, {explained_.data(), targets()},
                     {row_of(correlation_, first), targets()}, count, targets(), pending_,
                     simd::product_mode::subtract);
    });
    pending_ = 0;
    measure_correlation();
  }

  /// Examines the `sweep` keys that explain most now and have no slot; they take the slots of those
  /// that explain least.
  void examine_most_promising() {
    std::vector<char> has_slot(static_cast<std::size_t>(columns_.keys()), 0);
    for (const index_t key : slots_) {
      if (key >= 0) has_slot[static_cast<std::size_t>(key)] = 1;
    }
    selection::best_rows promising(sweep_);
    for (index_t j = 0; j < columns_.keys(); ++j) {
      if (has_slot[static_cast<std::size_t>(j)] != 0) continue;
      const float now = gain(j);
      if (now > 0) promising.offer(j, static_cast<double>(now));
    }
    std::vector<index_t> keys;
    for (const selection::ranked_row& one : promising.sorted()) keys.push_back(one.row);
    const auto count = static_cast<index_t>(keys.size());
    selection::best_rows least(count);  // slots, empty ones first
    for (index_t s = 0; s < slots(); ++s) {
      const index_t key = slots_[static_cast<std::size_t>(s)];
      least.offer(s, key < 0 ? 1.0 : -static_cast<double>(gain(key)));
    }
    std::vector<index_t> places;
    for (const selection::ranked_row& one : least.sorted()) places.push_back(one.row);
    fill_slots(keys, places);
    correlate_with_slots();
    ++out_.report.refits;
  }

  /// Puts `keys` into the slots `places`, one each.
  void fill_slots(const std::vector<index_t>& keys, const std::vector<index_t>& places) {
    matrix added = columns_.columns(keys);
    basis_.project_out(added, problem_.threads);
    columns_.correlate(transposed(added), fresh_);
    const std::size_t many = keys.size();
    for (std::size_t k = 0; k < many; ++k) {
      const float* column = row_of(added, static_cast<index_t>(k));
      slots_[static_cast<std::size_t>(places[k])] = keys[k];
      std::copy_n(column, added.cols(), row_of(orthogonal_, places[k]));
      // Afresh, without the rounding of many subtractions.
      residual_norm_sq_[keys[k]] = simd::dot32(column, column, added.cols());
    }
    for (index_t j = 0; j < columns_.keys(); ++j) {
      const float* from = row_of(fresh_, j);
      float* to = row_of(products_, j);
      for (std::size_t k = 0; k < many; ++k) to[places[k]] = from[k];
    }
  }

  /// H: products of G's rows with those of the keys in the slots.
  void correlate_with_slots() {
    for (index_t s = 0; s < slots(); ++s) {
      const index_t key = slots_[static_cast<std::size_t>(s)];
      if (key >= 0) std::copy_n(row_of(correlation_, key), targets(), row_of(correlation_of_, s));
    }
    const matrix of = transposed(correlation_of_);
    over_keys([&](index_t first, index_t count) noexcept {
      simd::multiply({row_of(correlation_, first), targets(), 1}, {of.data(), slots()},
                     {row_of(shared_, first), slots()}, count, slots(), targets());
    });
  }

  void pick(index_t slot) {
    const index_t key = slots_[static_cast<std::size_t>(slot)];
    const index_t row = columns_.row(key);
    slots_[static_cast<std::size_t>(slot)] = -1;
    const float* column = row_of(orthogonal_, slot);
    const double length_sq = simd::squared_norm(column, orthogonal_.cols());
    const auto length = static_cast<float>(std::sqrt(length_sq));
    is_open_[static_cast<std::size_t>(row)] = 0;
    if (!(length * length > dependent_share * norms_[key]))
      return;  // what is left of it is rounding
    const float scale = 1 / length;
    basis_.append(column, scale);
    scale_into(row_of(explained_, pending_), scale, row_of(correlation_of_, slot), targets());
    out_.positions.push_back(row);
    ++out_.report.rounds;
    take_out(slot, scale);
    ++pending_;
  }

  /// What the pick from `slot`, its column `scale` times as long, leaves of all keys and slots.
  void take_out(index_t slot, float scale) {
    const float* basis = basis_.last();
    const float* explained = row_of(explained_, pending_);
    const float squares = simd::dot32(explained, explained, targets());
    for (index_t s = 0; s < slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      along_[at] = change_[at] = 0;
      if (slots_[at] < 0) continue;
      along_[at] = row_of(products_, slots_[at])[slot] * scale;
      change_[at] =
          simd::dot32(explained, row_of(correlation_of_, s), targets()) - along_[at] * squares;
    }
    // Longer pieces, for each is little work.
    over_pieces(problem_.threads, columns_.keys(), 8 * mass_columns::piece,
                [&](index_t first, index_t count) noexcept {
                  for (index_t j = first; j < first + count; ++j) {
                    float* products = row_of(products_, j);
                    float* shared = row_of(shared_, j);
                    const float z = products[slot] * scale;
                    const float overlap = shared[slot] * scale;
                    row_of(along_pending_, j)[pending_] = z;
                    // Fused by name, or each compiled copy of this might round as it likes.
                    const float lost = std::fma(z, squares, -2 * overlap);
                    score_[j] = (std::max)(0.0F, std::fma(z, lost, score_[j]));
                    residual_norm_sq_[j] = std::fma(-z, z, residual_norm_sq_[j]);
                    simd::subtract_scaled(products, z, along_.data(), slots());
                    simd::subtract_scaled(shared, z, change_.data(), slots());
                    simd::subtract_scaled(shared, overlap, along_.data(), slots());
                  }
                });
    for (index_t s = 0; s < slots(); ++s) {
      const float along = along_[static_cast<std::size_t>(s)];
      if (along == 0) continue;
      simd::subtract_scaled(row_of(orthogonal_, s), along, basis, orthogonal_.cols());
      simd::subtract_scaled(row_of(correlation_of_, s), along, explained, targets());
    }
  }

  selection_problem problem_;
  const selection::joint& policy_;
  index_t among_;  // keys that the search looks among
  target_columns targets_;
  mass_columns full_;
  sketched_columns all_;
  candidate_columns columns_;
  index_t sweep_;
  std::vector<char> is_open_;  // by rows of the problem
  vector norms_;               // ‖a_j‖²
  matrix correlation_;         // keys × (1 + d_v): G as of the last sweep
  picked_basis basis_;
  index_t pending_ = 0;  // picks since the last sweep
  selected_rows out_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
