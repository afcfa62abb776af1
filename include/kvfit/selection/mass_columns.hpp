// SPDX-License-Identifier: MIT
/// The columns of the mass equation, one per key: at hand where memory allows, made anew otherwise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Exponentials of all keys for some of the queries.
struct column_part {
  const float* data = nullptr;  ///< T × count, a key a row
  index_t first = 0;            ///< of the queries
  index_t count = 0;

  [[nodiscard]] const float* row(index_t key) const noexcept { return data + key * count; }
};

/// Which columns a user of `mass_columns` asks for: those of all keys again and again, or those of
/// some keys by their numbers. For some, none are stored but for those of the score pass.
enum class column_use : std::uint8_t { all, some };

/// Whether `mass_columns` of these sizes has all columns at hand.
inline bool stores_mass_columns(const head_sizes& sizes,
                                column_use use = column_use::all) noexcept {
  return sizes.has_exponentials ||
         (use == column_use::all &&
          float_bytes(sizes.queries, sizes.keys) <= static_cast<double>(sizes.memory_cap));
}

/// What `mass_columns` works in.
struct mass_column_buffers {
  vector factor;
  vector target;
  vector weights;  ///< of a residual
  matrix columns;  ///< what is stored here, or a panel: keys × queries

  void declare(workspace& space, const head_sizes& sizes, column_use use) {
    space.add_vectors(sizes.queries, factor, target, weights);
    if (sizes.has_exponentials || use == column_use::some) return;
    const bool stores = stores_mass_columns(sizes);
    space.add(columns, sizes.keys, stores ? sizes.queries : largest_panel(sizes, sizes.keys));
  }
};

/// Φ_ij = f_i exp(s_ij − m_i) for n queries and T keys, and its target; f by `mass_weighting`.
/// `problem.scores` must outlive it.
///
/// The exponentials are those of the score pass where it kept them, else n · T floats of its own if
/// that is within the cap, else one panel, and every use costs a pass over the keys. They lie a key
/// a row; f enters every product from the queries' side.
class mass_columns {
 public:
  /// `row_weights`: n factors on top of f, or null. For `column_use::some`, only what is said of
  /// some keys may be called where columns are not stored.
  mass_columns(const selection_problem& problem, mass_weighting weighting,
               const vector* row_weights = nullptr, column_use use = column_use::all)
      : problem_(problem),
        source_(problem.cache, problem.queries, problem.rule),
        panels_(cut_panels(problem.queries, panel_rows(problem.cache.keys.rows()))) {
    const head_sizes sizes = sizes_of_problem(problem);
    allocate_buffers(own_, sizes, use);
    const index_t n = sizes.queries;
    for (index_t i = 0; i < n; ++i) {
      const mass_row row = weighted_mass_row(*problem.scores, i, weighting);
      const float weight = row_weights == nullptr ? 1.0F : (*row_weights)[i];
      own_.factor[i] = row.factor * weight;
      own_.target[i] = row.target * weight;
    }
    if (sizes.has_exponentials) {
      stored_ = problem.scores->exponentials.data();
      for (index_t i = 0; i < n; ++i) {  // theirs are of another shift
        if (own_.factor[i] != 0)
          own_.factor[i] *= std::exp(problem.scores->shift[i] - problem.scores->max[i]);
      }
      return;
    }
    if (!stores_mass_columns(sizes, use)) return;
    for (const query_panel& part : panels_) fill(part, own_.columns.data() + part.offset, n);
    stored_ = own_.columns.data();
  }

  /// All but what `correlate` of a matrix and `columns` hold besides.
  static void declare(workspace& space, const head_sizes& sizes, column_use use = column_use::all) {
    mass_column_buffers().declare(space, sizes, use);
    if (use == column_use::some) return;
    logit_sizes logits = logit_sizes_of(sizes, sizes.keys);
    logits.precision = precision_kind::fp32;
    declare_logits(space, logits);
    panel_list().declare(space, sizes.queries, sizes.blocks, panel_rows(sizes.keys));
    space.count(double_bytes(logits.panel) + float_bytes(sizes.queries));  // sums; signs times f
  }
  /// What `columns` of `many` rows holds besides, its result included.
  static void declare_columns(workspace& space, const head_sizes& sizes, index_t many,
                              column_use use = column_use::all) {
    space.count(float_bytes(many, sizes.queries));
    if (stores_mass_columns(sizes, use)) return;
    declare_logits_by_key(space, sizes, many);
    space.count(double_bytes(sizes.queries));
  }

  [[nodiscard]] bool is_stored() const noexcept { return stored_ != nullptr; }
  /// Bytes that the problem allows for n × T numbers.
  [[nodiscard]] index_t memory_cap() const noexcept { return problem_.memory_cap; }
  [[nodiscard]] index_t queries() const noexcept { return own_.target.size(); }
  [[nodiscard]] index_t keys() const noexcept { return source_.keys(); }
  [[nodiscard]] const executor_ref& threads() const noexcept { return problem_.threads; }
  /// Keys that one thread takes at a time.
  static constexpr index_t piece = 512;
  /// n: f_i, with what takes stored exponentials to the queries' own shift.
  [[nodiscard]] const vector& factors() const noexcept { return own_.factor; }
  /// n: y_i f_i.
  [[nodiscard]] const vector& target() const noexcept { return own_.target; }

  /// How many parts the queries are taken in: one where columns are stored, so that a sum over
  /// queries is one sum.
  [[nodiscard]] index_t parts() const noexcept {
    return is_stored() ? 1 : static_cast<index_t>(panels_.size());
  }
  /// The exponentials of all keys for the queries of part p; until the next call.
  column_part part(index_t p) {
    if (is_stored()) return {stored_, 0, queries()};
    const query_panel& panel = panels_[static_cast<std::size_t>(p)];
    fill(panel, own_.columns.data(), panel.count);
    return {own_.columns.data(), panel.offset, panel.count};
  }

  /// out_j = Σ_i residual_i Φ_ij for all T keys. Cost n · T multiply-adds (and a score pass if not
  /// stored).
  void correlate(const vector& residual, vector& out) {
    set_residual(residual);
    out.resize(keys());
    std::fill_n(out.data(), keys(), 0.0F);
    for (index_t p = 0; p < parts(); ++p) {
      const column_part now = part(p);
      const float* weights = own_.weights.data() + now.first;
      over_pieces(threads(), keys(), piece, [&](index_t first, index_t count) noexcept {
        for (index_t j = first; j < first + count; ++j) {
          out[j] += simd::dot32(now.row(j), weights, now.count);
        }
      });
    }
  }

  /// out_jc = Σ_i of_ic Φ_ij for all T keys and the columns of `of` (n × m): T × m. As many
  /// products at once cost one reading of the columns (or one score pass, if they are not stored).
  void correlate(const matrix& of, matrix& out) {
    const index_t many = of.cols();
    matrix weighted(queries(), many);
    for (index_t i = 0; i < queries(); ++i) {
      const float* from = of.data() + i * many;
      float* to = weighted.data() + i * many;
      const float factor = own_.factor[i];
      for (index_t c = 0; c < many; ++c) to[c] = from[c] * factor;
    }
    out.resize(keys(), many);
    for (index_t p = 0; p < parts(); ++p) {
      const column_part now = part(p);
      const auto mode = p == 0 ? simd::product_mode::assign : simd::product_mode::add;
      over_pieces(threads(), keys(), piece, [&](index_t first, index_t count) noexcept {
        simd::multiply({now.row(first), now.count, 1}, {weighted.data() + now.first * many, many},
                       {out.data() + first * many, many}, count, many, now.count, mode);
      });
    }
  }

  /// out_jr = Σ_{i ≡ r mod rows} sign_i Φ_ij: T × rows. Cost n · T (and a score pass, if not
  /// stored).
  void fold(const vector& signs, index_t rows, matrix& out) {
    vector factors = own_.factor;
    simd::multiply_each(factors.data(), signs.data(), queries());
    out.resize(keys(), rows);
    std::fill_n(out.data(), out.size(), 0.0F);
    for (index_t p = 0; p < parts(); ++p) {
      const column_part now = part(p);
      over_pieces(threads(), keys(), piece, [&](index_t first, index_t count) noexcept {
        for (index_t j = first; j < first + count; ++j) {
          for (index_t i = 0; i < now.count;) {
            const index_t at = (now.first + i) % rows;
            const index_t run = (std::min)(now.count - i, rows - at);
            simd::add_products(out.data() + j * rows + at, now.row(j) + i,
                               factors.data() + now.first + i, run);
            i += run;
          }
        }
      });
    }
  }

  /// The residual that `correlation` and `correlations` refer to.
  void set_residual(const vector& residual) {
    own_.weights = residual;
    simd::multiply_each(own_.weights.data(), own_.factor.data(), queries());
  }
  /// n: f_i residual_i.
  [[nodiscard]] const vector& weighted_residual() const noexcept { return own_.weights; }
  /// Σ_i residual_i Φ_ij of one key: what `correlate` writes for it. Requires `is_stored()`.
  [[nodiscard]] float correlation(index_t j) const noexcept {
    return simd::dot32(stored_ + j * queries(), own_.weights.data(), queries());
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
      const index_t many = (std::min)(made_at_once, out.size() - first);
      const matrix made = exponentials(
          rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(many)));
      for (index_t k = 0; k < many; ++k) {
        out[first + k] = simd::dot32(made.data() + k * queries(), own_.weights.data(), queries());
      }
    }
  }
  static constexpr index_t made_at_once = 64;

  /// out_j = ‖Φ_:j‖ for all T keys.
  void norms(vector& out) {
    out.resize(keys());
    std::fill_n(out.data(), keys(), 0.0F);
    for (index_t p = 0; p < parts(); ++p) {
      const column_part now = part(p);
      over_pieces(threads(), keys(), piece, [&](index_t first, index_t count) noexcept {
        for (index_t j = first; j < first + count; ++j) {
          out[j] += simd::square_sum32(now.row(j), own_.factor.data() + now.first, now.count);
        }
      });
    }
    for (float& norm : out) norm = std::sqrt(norm);
  }

  /// Columns of the rows numbered `rows`, a row each: |rows| × n.
  matrix columns(std::span<const index_t> rows) const {
    matrix out = exponentials(rows);
    for (index_t k = 0; k < out.rows(); ++k) {
      simd::multiply_each(out.data() + k * queries(), own_.factor.data(), queries());
    }
    return out;
  }

 private:
  /// Columns without their factors, a row each.
  matrix exponentials(std::span<const index_t> rows) const {
    const auto count = static_cast<index_t>(rows.size());
    const index_t n = queries();
    matrix out(count, n);
    if (is_stored()) {
      for (index_t k = 0; k < count; ++k) {
        std::copy_n(stored_ + rows[static_cast<std::size_t>(k)] * n, n, out.data() + k * n);
      }
      return out;
    }
    logits_by_key(problem_.cache, problem_.queries, problem_.rule, rows, out.data());
    exponentiate(0, n, out.data(), n, count);
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
  const float* stored_ = nullptr;  // keys × n; null where each use makes them anew
  mass_column_buffers own_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
