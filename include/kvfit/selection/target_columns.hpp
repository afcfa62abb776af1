// SPDX-License-Identifier: MIT
/// What joint selection explains: one column of mass and d_v of output, rows weighted alike.
#pragma once

#include <algorithm>
#include <cmath>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::inline KVFIT_ISA {

/// The targets of `selection::joint` as rows: μ f_i, then f_i o_i / σ column by column of the
/// output, σ its rms norm.
class target_columns {
 public:
  target_columns(const selection_problem& problem, double mass_weight)
      : weights_(relative_output_weights(problem.scores->output)) {
    const matrix& output = problem.scores->output;
    const index n = output.rows();
    double squares = 0;
    for (index i = 0; i < n; ++i) squares += output.row(i).cast<double>().squaredNorm();
    const double rms = std::sqrt(squares / static_cast<double>(std::max<index>(n, 1)));
    const float scale = rms > 0 ? static_cast<float>(1 / rms) : 0.0F;
    rows_.resize(1 + output.cols(), n);
    rows_.row(0) = (weights_ * static_cast<float>(mass_weight)).transpose();
    constexpr index block = 64;  // a transposition that stays in cache
    for (index first = 0; first < n; first += block) {
      const index count = std::min(block, n - first);
      rows_.block(1, first, output.cols(), count) =
          output.middleRows(first, count).transpose() *
          (weights_.segment(first, count) * scale).asDiagonal();
    }
  }

  /// f, n.
  [[nodiscard]] const vector& row_weights() const noexcept { return weights_; }
  /// (1 + d_v) × n.
  [[nodiscard]] const matrix& rows() const noexcept { return rows_; }

 private:
  vector weights_;
  matrix rows_;
};

/// Bytes of `target_columns`, with what is held while they are made.
inline double target_columns_bytes(const head_sizes& sizes) noexcept {
  return float_bytes(2 + sizes.width, sizes.queries) + double_bytes(2, sizes.queries);
}

}  // namespace kvfit::inline KVFIT_ISA
