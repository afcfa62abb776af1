// SPDX-License-Identifier: MIT
/// What joint selection explains: one column of mass and d_v of output, rows weighted alike.
#pragma once

#include <algorithm>
#include <cmath>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// The targets of `selection::joint`, a query a row: μ f_i, then f_i o_i / σ, σ the outputs' rms
/// norm.
class target_columns {
 public:
  target_columns() = default;

  void declare(workspace& space, index_t queries, index_t width) {
    space.add(weights_, queries);
    space.add(columns_, queries, 1 + width);
    const workspace::phase weighing(space);
    space.count(float_bytes(queries) + double_bytes(queries));
  }

  target_columns(const selection_problem& problem, double mass_weight, output_weighting weighting) {
    const matrix& output = problem.scores->output;
    const index_t n = output.rows();
    const index_t width = output.cols();
    allocate_buffers(*this, n, width);
    weights_ = output_weights(output, weighting);
    const double squares = simd::squared_norm(output.data(), output.size());
    const double rms = std::sqrt(squares / static_cast<double>(std::max<index_t>(n, 1)));
    const float scale = rms > 0 ? static_cast<float>(1 / rms) : 0.0F;
    for (index_t i = 0; i < n; ++i) {
      const float* from = output.data() + i * width;
      float* to = columns_.data() + i * (1 + width);
      to[0] = weights_[i] * static_cast<float>(mass_weight);
      const float weight = weights_[i] * scale;
      for (index_t c = 0; c < width; ++c) to[1 + c] = weight * from[c];
    }
  }

  /// f, n.
  [[nodiscard]] const vector& row_weights() const noexcept { return weights_; }
  /// n × (1 + d_v).
  [[nodiscard]] const matrix& columns() const noexcept { return columns_; }

 private:
  vector weights_;
  matrix columns_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
