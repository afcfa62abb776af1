// SPDX-License-Identifier: MIT
/// What joint selection explains: one column of mass and d_v of output, rows weighted alike.
#pragma once

#include <algorithm>
#include <cmath>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::inline KVFIT_ISA {

/// The targets of `selection::joint`, a query a row: μ f_i, then f_i o_i / σ, σ the outputs' rms
/// norm.
class target_columns {
 public:
  target_columns(const selection_problem& problem, double mass_weight)
      : weights_(relative_output_weights(problem.scores->output)) {
    const matrix& output = problem.scores->output;
    const index_t n = output.rows();
    double squares = 0;
    for (index_t i = 0; i < n; ++i) squares += output.row(i).cast<double>().squaredNorm();
    const double rms = std::sqrt(squares / static_cast<double>(std::max<index_t>(n, 1)));
    const float scale = rms > 0 ? static_cast<float>(1 / rms) : 0.0F;
    columns_.resize(n, 1 + output.cols());
    columns_.col(0) = weights_ * static_cast<float>(mass_weight);
    columns_.rightCols(output.cols()) = (weights_ * scale).asDiagonal() * output;
  }

  /// f, n.
  [[nodiscard]] const vector& row_weights() const noexcept { return weights_; }
  /// n × (1 + d_v).
  [[nodiscard]] const matrix& columns() const noexcept { return columns_; }

 private:
  vector weights_;
  matrix columns_;
};

/// Bytes of `target_columns`, with what is held while they are made.
inline double target_columns_bytes(const head_sizes& sizes) noexcept {
  return float_bytes(2 + sizes.width, sizes.queries) + double_bytes(2, sizes.queries);
}

}  // namespace kvfit::inline KVFIT_ISA
