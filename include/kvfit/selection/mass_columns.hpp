// SPDX-License-Identifier: MIT
/// The columns of the mass equation, one per key: at hand where memory allows, made anew otherwise.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Φ_ij = f_i exp(s_ij − m_i) for n queries and T keys, and its target; f by `mass_weighting`.
/// `problem.scores` must outlive it.
///
/// The exponentials are those of the score pass where it kept them, else n · T floats of its own if
/// that is within the cap, else one panel, and every use costs a pass over the keys. They lie a key
/// a row; f enters every product from the queries' side.
class mass_columns {
 public:
  /// `row_weights`: n factors on top of f, or null.
  mass_columns(const selection_problem& problem, mass_weighting weighting,
               const vector* row_weights = nullptr)
      : problem_(problem),
        source_(problem.cache, problem.queries, problem.rule),
        panels_(cut_panels(problem.queries, panel_rows(problem.cache.keys.rows()))),
        factor_(problem.queries.rows()),
        target_(problem.queries.rows()) {
    const index_t n = target_.size();
    for (index_t i = 0; i < n; ++i) {
      const mass_row row = weighted_mass_row(*problem.scores, i, weighting);
      const float weight = row_weights == nullptr ? 1.0F : (*row_weights)[i];
      factor_[i] = row.factor * weight;
      target_[i] = row.target * weight;
    }
    const auto& kept = problem.scores->exponentials;
    if (kept.rows() == keys() && kept.cols() == n && problem.scores->shift.size() == n) {
      stored_ = kept.data();
      for (index_t i = 0; i < n; ++i) {  // theirs are of another shift
        if (factor_[i] != 0)
          factor_[i] *= std::exp(problem.scores->shift[i] - problem.scores->max[i]);
      }
      return;
    }
    const auto bytes = static_cast<double>(n) * static_cast<double>(keys()) * sizeof(float);
    if (bytes > static_cast<double>(problem.memory_cap)) return;
    own_.resize(keys(), n);
    for (const query_panel& part : panels_) fill(part, own_.data() + part.offset, n);
    stored_ = own_.data();
  }

  [[nodiscard]] bool is_stored() const noexcept { return stored_ != nullptr; }
  /// Bytes that the problem allows for n × T numbers.
  [[nodiscard]] index_t memory_cap() const noexcept { return problem_.memory_cap; }
  [[nodiscard]] index_t queries() const noexcept { return target_.size(); }
  [[nodiscard]] index_t keys() const noexcept { return source_.keys(); }
  [[nodiscard]] const executor_ref& threads() const noexcept { return problem_.threads; }
  /// Keys that one thread takes at a time.
  static constexpr index_t piece = 512;
  /// n: f_i, with what takes stored exponentials to the queries' own shift.
  [[nodiscard]] const vector& factors() const noexcept { return factor_; }
  /// n: y_i f_i.
  [[nodiscard]] const vector& target() const noexcept { return target_; }

  /// Calls body(j, row, part) with the exponentials of key j for the queries of `part`. Stored ones
  /// are one part, so that a sum over queries is one sum. Keys of one part come in any order, on
  /// any thread.
  template <class Body>
  void visit(Body body) {
    if (is_stored()) {
      const query_panel all{.block = 0, .first = 0, .count = queries(), .offset = 0};
      each_key([&](index_t j) { body(j, stored_ + j * queries(), all); });
      return;
    }
    for (const query_panel& part : panels_) {
      own_.resize(keys(), part.count);
      fill(part, own_.data(), part.count);
      each_key([&](index_t j) { body(j, own_.data() + j * part.count, part); });
    }
  }

  /// out_j = Σ_i residual_i Φ_ij for all T keys. Cost n · T multiply-adds (and a score pass if not
  /// stored).
  void correlate(const vector& residual, vector& out) {
    set_residual(residual);
    out.setZero(keys());
    visit([&](index_t j, const float* row, const query_panel& part) {
      out[j] += simd::dot32(row, weights_.data() + part.offset, part.count);
    });
  }

  /// out_jc = Σ_i of_ic Φ_ij for all T keys and the columns of `of` (n × m): T × m. As many
  /// products at once cost one reading of the columns (or one score pass, if they are not stored).
  void correlate(const matrix& of, matrix& out) {
    const matrix weighted = of.array().colwise() * factor_.array();
    const index_t many = of.cols();
    out.resize(keys(), many);
    const auto multiply = [&](const float* exponentials, index_t first, index_t count) {
      over_pieces(threads(), keys(), piece, [&](index_t from, index_t rows) noexcept {
        simd::multiply({exponentials + from * count, count, 1},
                       {weighted.data() + first * many, many}, {out.data() + from * many, many},
                       rows, many, count,
                       first == 0 ? simd::product_mode::assign : simd::product_mode::add);
      });
    };
    if (is_stored()) {
      multiply(stored_, 0, queries());
      return;
    }
    for (const query_panel& part : panels_) {
      own_.resize(keys(), part.count);
      fill(part, own_.data(), part.count);
      multiply(own_.data(), part.offset, part.count);
    }
  }

  /// out_jr = Σ_{i ≡ r mod rows} sign_i Φ_ij: T × rows. Cost n · T (and a score pass, if not
  /// stored).
  void fold(const vector& signs, index_t rows, matrix& out) {
    const vector factors = signs.cwiseProduct(factor_);
    out.setZero(keys(), rows);
    visit([&](index_t j, const float* row, const query_panel& part) {
      for (index_t first = 0; first < part.count;) {
        const index_t at = (part.offset + first) % rows;
        const index_t count = std::min(part.count - first, rows - at);
        simd::add_products(out.row(j).data() + at, row + first,
                           factors.data() + part.offset + first, count);
        first += count;
      }
    });
  }

  /// The residual that `correlation` and `correlations` refer to.
  void set_residual(const vector& residual) { weights_ = residual.cwiseProduct(factor_); }
  /// n: f_i residual_i.
  [[nodiscard]] const vector& weighted_residual() const noexcept { return weights_; }
  /// Σ_i residual_i Φ_ij of one key: what `correlate` writes for it. Requires `is_stored()`.
  [[nodiscard]] float correlation(index_t j) const noexcept {
    return simd::dot32(stored_ + j * queries(), weights_.data(), queries());
  }
  /// The same of some keys, stored or not: out_k of the row rows_k. Columns that are not stored are
  /// made `made_at_once` at a time.
  void correlations(std::span<const index_t> rows, vector& out) const {
    out.resize(static_cast<index_t>(rows.size()));
    if (is_stored()) {
      for (index_t k = 0; k < out.size(); ++k) {
        out[k] = correlation(rows[static_cast<std::size_t>(k)]);
      }
      return;
    }
    for (index_t first = 0; first < out.size(); first += made_at_once) {
      const index_t many = std::min(made_at_once, out.size() - first);
      const Eigen::MatrixXf made = exponentials(
          rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(many)));
      for (index_t k = 0; k < many; ++k) {
        out[first + k] = simd::dot32(made.col(k).data(), weights_.data(), queries());
      }
    }
  }
  static constexpr index_t made_at_once = 64;

  /// out_j = ‖Φ_:j‖ for all T keys.
  void norms(vector& out) {
    out.setZero(keys());
    visit([&](index_t j, const float* row, const query_panel& part) {
      out[j] += simd::square_sum32(row, factor_.data() + part.offset, part.count);
    });
    for (float& norm : out) norm = std::sqrt(norm);  // Eigen's vectorised root is not exact
  }

  /// Columns of the rows numbered `rows`, n × |rows|.
  Eigen::MatrixXf columns(std::span<const index_t> rows) const {
    Eigen::MatrixXf out = exponentials(rows);
    for (index_t j = 0; j < out.cols(); ++j) {
      simd::multiply_each(out.col(j).data(), factor_.data(), queries());
    }
    return out;
  }

 private:
  template <class Body>
  void each_key(const Body& body) const {
    over_pieces(threads(), keys(), piece, [&](index_t first, index_t count) noexcept {
      for (index_t j = first; j < first + count; ++j) body(j);
    });
  }

  /// Columns without their factors.
  Eigen::MatrixXf exponentials(std::span<const index_t> rows) const {
    const auto count = static_cast<index_t>(rows.size());
    if (!is_stored()) {
      Eigen::MatrixXf out = row_logits(problem_.cache, problem_.queries, problem_.rule, rows);
      exponentiate(0, queries(), out.data(), queries(), count);
      return out;
    }
    Eigen::MatrixXf out(queries(), count);
    for (index_t j = 0; j < count; ++j) {
      const float* from = stored_ + rows[static_cast<std::size_t>(j)] * queries();
      std::copy(from, from + queries(), out.col(j).data());
    }
    return out;
  }

  void fill(const query_panel& part, float* to, index_t stride) {
    source_.fill(part, to, stride);
    exponentiate(part.offset, part.count, to, stride, keys());
  }

  /// Turns logits of `rows` keys against the queries first … first + count − 1 into exponentials.
  void exponentiate(index_t first, index_t count, float* to, index_t stride, index_t rows) const {
    std::vector<double> unused(static_cast<std::size_t>(count));
    simd::exp_shifted_columns(to, stride, rows, count, problem_.scores->max.data() + first,
                              unused.data());
  }

  selection_problem problem_;
  logit_source source_;
  std::vector<query_panel> panels_;
  vector factor_;
  vector target_;
  vector weights_;
  const float* stored_ = nullptr;  // keys × n; null where each use makes them anew
  matrix own_;                     // what is stored here, or a panel
};

/// Whether `mass_columns` of these sizes has all columns at hand.
inline bool stores_mass_columns(const head_sizes& sizes) noexcept {
  return sizes.has_exponentials ||
         float_bytes(sizes.queries, sizes.keys) <= static_cast<double>(sizes.memory_cap);
}

/// Bytes of `mass_columns` with what its uses hold besides, but for `correlate` of a matrix and
/// `columns`.
inline double mass_columns_bytes(const head_sizes& sizes) noexcept {
  const index_t panel = largest_panel(sizes, sizes.keys);
  const index_t stored = stores_mass_columns(sizes) ? sizes.queries : panel;
  return logit_source_bytes(sizes, sizes.keys) + float_bytes(4, sizes.queries) +
         double_bytes(panel) + (sizes.has_exponentials ? 0 : float_bytes(sizes.keys, stored));
}

/// Bytes that `columns` of `many` rows holds besides, its result included.
inline double columns_bytes(const head_sizes& sizes, index_t many) noexcept {
  const double made = stores_mass_columns(sizes)
                          ? 0
                          : row_logits_bytes(sizes, many) + float_bytes(many, sizes.depth) +
                                double_bytes(sizes.queries);
  return float_bytes(many, sizes.queries) + made;
}

}  // namespace kvfit::inline KVFIT_ISA
