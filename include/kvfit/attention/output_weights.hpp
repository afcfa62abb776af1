// SPDX-License-Identifier: MIT
/// Row weights under which squared errors of outputs count relative to the outputs.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit::inline KVFIT_ISA {

namespace output_detail {

/// `inverse_lengths` in double, which holds the inverse of whatever length fp32 outputs have.
inline Eigen::VectorXd exact_inverse_lengths(const matrix& output) {
  const index_t n = output.rows();
  Eigen::VectorXd lengths(n);
  for (index_t i = 0; i < n; ++i) lengths[i] = output.row(i).cast<double>().norm();
  const auto seen = static_cast<double>((lengths.array() > 0).count());
  const double floor = seen > 0 ? 0.01 * std::sqrt(lengths.squaredNorm() / seen) : 0;
  Eigen::VectorXd out = Eigen::VectorXd::Zero(n);
  for (index_t i = 0; i < n; ++i) {
    if (lengths[i] > 0) out[i] = 1 / std::max(lengths[i], floor);
  }
  return out;
}

}  // namespace output_detail

/// 1 / ‖o_i‖. Outputs shorter than a hundredth of the rms length count as that, so that no query
/// counts without bound; zero outputs (queries that see nothing) give 0. Finite: what fp32 cannot
/// hold is its largest number.
inline vector inverse_lengths(const matrix& output) {
  constexpr double largest = std::numeric_limits<float>::max();
  return output_detail::exact_inverse_lengths(output).cwiseMin(largest).cast<float>();
}

/// `inverse_lengths` times a constant, such that the mean square of those above 0 is 1.
inline vector relative_output_weights(const matrix& output) {
  Eigen::VectorXd weights = output_detail::exact_inverse_lengths(output);
  const auto seen = static_cast<double>((weights.array() > 0).count());
  const double squares = weights.squaredNorm();
  if (squares > 0) weights *= std::sqrt(seen / squares);
  return weights.cast<float>();
}

}  // namespace kvfit::inline KVFIT_ISA
