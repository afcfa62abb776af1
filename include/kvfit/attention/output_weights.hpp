// SPDX-License-Identifier: MIT
/// Weights of queries under which squared errors of outputs count alike, or relative to outputs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "kvfit/attention/output_weighting.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace output_detail {

/// `inverse_lengths` in double, which holds the inverse of whatever length fp32 outputs have.
inline std::vector<double> exact_inverse_lengths(const matrix& output, output_weighting weighting) {
  const index_t n = output.rows();
  std::vector<double> lengths(static_cast<std::size_t>(n));
  double squares = 0;
  index_t seen = 0;
  for (index_t i = 0; i < n; ++i) {
    const double square = simd::squared_norm(output.data() + i * output.cols(), output.cols());
    lengths[static_cast<std::size_t>(i)] = std::sqrt(square);
    squares += square;
    seen += square > 0 ? 1 : 0;
  }
  const double rms = seen > 0 ? std::sqrt(squares / static_cast<double>(seen)) : 0;
  const double floor = weighting == output_weighting::absolute ? rms : 0.01 * rms;
  for (double& length : lengths) {
    if (weighting == output_weighting::absolute) length = (std::min)(length, floor);
    length = length > 0 ? 1 / (std::max)(length, floor) : 0;
  }
  return lengths;
}

}  // namespace output_detail

/// 1 / ‖o_i‖, or 1 over the rms length where errors are not to count relative to their own output.
/// Outputs shorter than a hundredth of the rms length count as that, so that no query counts
/// without bound; zero outputs (queries that see nothing) give 0. Finite: what fp32 cannot hold is
/// its largest number.
inline vector inverse_lengths(const matrix& output,
                              output_weighting weighting = output_weighting::relative) {
  constexpr double largest = (std::numeric_limits<float>::max)();
  vector out(output.rows());
  float* to = out.data();
  for (const double inverse : output_detail::exact_inverse_lengths(output, weighting)) {
    *to++ = static_cast<float>((std::min)(inverse, largest));
  }
  return out;
}

/// `inverse_lengths` times a constant, such that the mean square of those above 0 is 1.
inline vector output_weights(const matrix& output, output_weighting weighting) {
  const std::vector<double> weights = output_detail::exact_inverse_lengths(output, weighting);
  double squares = 0;
  double seen = 0;
  for (const double weight : weights) {
    squares += weight * weight;
    seen += weight > 0 ? 1 : 0;
  }
  const double factor = squares > 0 ? std::sqrt(seen / squares) : 1;
  vector out(output.rows());
  float* to = out.data();
  for (const double weight : weights) *to++ = static_cast<float>(weight * factor);
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
