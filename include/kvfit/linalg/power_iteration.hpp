// SPDX-License-Identifier: MIT
/// The largest singular value, estimated by a few rounds of power iteration.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "kvfit/core/random.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

struct power_options {
  int rounds = 3;          ///< at least 0; the published code runs 3
  std::uint64_t seed = 0;  ///< of the starting vector
  double tolerance = 0;  ///< stop early where a round changes σ² by less than this fraction of it
  /// Start from equal components, not from the seed: right for a matrix without negative entries,
  /// whose first singular vector has none either, and found in far fewer rounds.
  bool from_ones = false;
};

/// `sigma` never exceeds the true σ_max (beyond rounding); `rounds` counts those that ran.
struct power_estimate {
  double sigma = 0;
  int rounds = 0;
  bool finite = true;  ///< false: the matrix holds NaN or infinity, and `sigma` is 0
};

/// A unit vector of nearly Gaussian direction (each component the sum of twelve uniforms): the same
/// bits for a seed on every machine, which `std::normal_distribution` does not promise.
[[nodiscard]] inline Eigen::VectorXd seeded_unit_vector(index_t size, std::uint64_t seed) {
  Eigen::VectorXd out(size);
  random_source draw(seed);
  for (index_t j = 0; j < size; ++j) {
    double sum = -6;
    for (int k = 0; k < 12; ++k) sum += draw.uniform();
    out[j] = sum;
  }
  const double norm = std::sqrt(simd::squared_norm(out.data(), size));
  for (index_t j = 0; j < size && norm > 0; ++j) out[j] /= norm;
  return out;
}

namespace detail {

/// Writes A u to `out`.
using symmetric_map = void (*)(void* context, const double* u, double* out);

/// u ← A u / ‖A u‖, `rounds` times, stopping where A u vanishes; σ² = uᵀ A u for A = MᵀM.
inline power_estimate power_iterate(index_t size, const power_options& options, symmetric_map apply,
                                    void* context) {
  power_estimate out;
  if (size == 0) return out;
  Eigen::VectorXd u;
  if (options.from_ones) {
    u.resize(size);
    std::fill_n(u.data(), size, 1 / std::sqrt(static_cast<double>(size)));
  } else {
    u = seeded_unit_vector(size, options.seed);
  }
  Eigen::VectorXd image(size);
  apply(context, u.data(), image.data());
  double sigma_sq = simd::dot(u.data(), image.data(), size);
  while (out.rounds < options.rounds) {
    const double norm = std::sqrt(simd::squared_norm(image.data(), size));
    if (!(norm > 0) || !std::isfinite(norm)) break;
    for (index_t j = 0; j < size; ++j) u[j] = image[j] / norm;
    apply(context, u.data(), image.data());
    const double before = std::exchange(sigma_sq, simd::dot(u.data(), image.data(), size));
    ++out.rounds;
    if (std::abs(sigma_sq - before) < options.tolerance * sigma_sq) break;
  }
  out.finite = std::isfinite(sigma_sq);
  out.sigma = out.finite && sigma_sq > 0 ? std::sqrt(sigma_sq) : 0.0;
  return out;
}

/// The same for an `apply(u, out)`.
template <class Apply>
power_estimate power_iterate(index_t size, const power_options& options, Apply& apply) {
  return power_iterate(
      size, options,
      [](void* context, const double* u, double* out) { (*static_cast<Apply*>(context))(u, out); },
      &apply);
}

/// out = Mᵀ M u with double sums over the fp32 rows, no double copy of M.
inline void apply_gram(const const_matrix_ref& m, const double* u, double* out) {
  std::fill_n(out, m.cols(), 0.0);
  for_row_groups(m.data(), m.outerStride(), m.rows(), m.cols(),
                 [=](const auto& rows, index_t) { rows.add_to(out, rows.times(u)); });
}

}  // namespace detail

/// Estimates σ_max(M): a seeded unit vector u, `rounds` times u ← MᵀM u normalised, then
/// σ = √(uᵀMᵀM u) (the published step length, without its floor: callers state their own).
///
/// `m` n × t fp32. A zero matrix gives 0. Cost 4·n·t flops a round and once more for σ; allocates
/// 3·t doubles. The estimate is from below: a step of 1/σ² may exceed 1/σ²_max.
[[nodiscard]] inline power_estimate largest_singular_value(const const_matrix_ref& m,
                                                           const power_options& options = {}) {
  auto apply = [&m](const double* u, double* out) { detail::apply_gram(m, u, out); };
  return detail::power_iterate(m.cols(), options, apply);
}

/// The same from the lower triangle of G = MᵀM: `sigma` is √λ_max(G). Cost 2·t² flops a round.
[[nodiscard]] inline power_estimate largest_singular_value_of_gram(
    const Eigen::MatrixXd& gram, const power_options& options = {}) {
  auto apply = [&gram](const double* u, double* out) {
    detail::multiply_symmetric(gram.data(), gram.rows(), gram.rows(), u, out);
  };
  return detail::power_iterate(gram.cols(), options, apply);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
