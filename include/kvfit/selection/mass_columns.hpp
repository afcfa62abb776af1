// SPDX-License-Identifier: MIT
/// The columns of the mass equation, one per key: stored where memory allows, made anew otherwise.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvfit/attention/row_logits.hpp"
#include "kvfit/bias/weighting.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Φ_ij = f_i exp(s_ij − m_i) for n queries and T keys, and its target; f by `mass_weighting`.
///
/// Holds n · T floats if that is within the cap, else one panel, and every use costs a pass over
/// the keys.
class mass_columns {
 public:
  mass_columns(const selection_problem& problem, mass_weighting weighting)
      : problem_(problem),
        source_(problem.cache, problem.queries, problem.rule),
        panels_(cut_panels(problem.queries, panel_rows(problem.cache.keys.rows()))),
        target_(problem.queries.rows()) {
    const index n = target_.size();
    rows_.reserve(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) {
      rows_.push_back(weighted_mass_row(*problem.scores, i, weighting));
      target_[i] = rows_.back().target;
    }
    const index keys = problem.cache.keys.rows();
    const auto bytes = static_cast<double>(n) * static_cast<double>(keys) * sizeof(float);
    is_stored_ = bytes <= static_cast<double>(problem.memory_cap);
    if (!is_stored_) {
      panel_.resize(panel_rows(keys), keys);
      return;
    }
    panel_.resize(n, keys);
    for (const query_panel& part : panels_) fill(part, panel_.row(part.offset).data());
  }

  [[nodiscard]] bool is_stored() const noexcept { return is_stored_; }
  [[nodiscard]] index queries() const noexcept { return target_.size(); }
  [[nodiscard]] index keys() const noexcept { return source_.keys(); }
  /// n: y_i f_i.
  [[nodiscard]] const vector& target() const noexcept { return target_; }

  /// out_j = Σ_i residual_i Φ_ij for all T keys. Cost n · T multiply-adds (and a score pass if not
  /// stored).
  void correlate(const vector& residual, vector& out) {
    if (is_stored_) {
      out.noalias() = panel_.transpose() * residual;
      return;
    }
    out.setZero(keys());
    for (const query_panel& part : panels_) {
      fill(part, panel_.data());
      out.noalias() +=
          panel_.topRows(part.count).transpose() * residual.segment(part.offset, part.count);
    }
  }

  /// out_j = ‖Φ_:j‖ for all T keys.
  void norms(vector& out) {
    out.setZero(keys());
    for (const query_panel& part : panels_) {
      if (!is_stored_) fill(part, panel_.data());
      const index first = is_stored_ ? part.offset : 0;
      for (index i = 0; i < part.count; ++i) out += panel_.row(first + i).transpose().cwiseAbs2();
    }
    for (float& norm : out) norm = std::sqrt(norm);  // Eigen's vectorised root is not exact
  }

  /// Columns of the rows numbered `rows`, n × |rows|.
  matrix columns(std::span<const index> rows) const {
    matrix out;
    if (is_stored_) {
      out.resize(queries(), static_cast<index>(rows.size()));
      for (index i = 0; i < queries(); ++i) {
        for (index j = 0; j < out.cols(); ++j)
          out(i, j) = panel_(i, rows[static_cast<std::size_t>(j)]);
      }
      return out;
    }
    out = row_logits(problem_.cache, problem_.queries, problem_.rule, rows);
    for (index i = 0; i < queries(); ++i) weigh(i, out.row(i).data(), out.cols());
    return out;
  }

 private:
  void fill(const query_panel& part, float* to) {
    source_.fill(part, to, keys());
    for (index i = 0; i < part.count; ++i) weigh(part.offset + i, to + i * keys(), keys());
  }

  /// Turns logits of query i into its row of Φ, in place.
  void weigh(index i, float* row, index count) const {
    const mass_row& weight = rows_[static_cast<std::size_t>(i)];
    if (weight.factor == 0) {
      std::fill(row, row + count, 0.0F);
      return;
    }
    simd::exp_shifted_sum(row, count, weight.shift);
    if (weight.factor != 1) {
      for (index j = 0; j < count; ++j) row[j] *= weight.factor;
    }
  }

  selection_problem problem_;
  logit_source source_;
  std::vector<query_panel> panels_;
  std::vector<mass_row> rows_;
  vector target_;
  bool is_stored_ = false;
  matrix panel_;  // all rows where stored, else those of one panel
};

}  // namespace kvfit::inline KVFIT_ISA
