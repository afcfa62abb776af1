// SPDX-License-Identifier: MIT
/// The largest singular value, estimated by a few rounds of power iteration.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <utility>

#include "kvfit/core/random.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"
#include "kvfit/linalg/matrix_ref.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

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
template <class = void>
[[nodiscard]] inline Eigen::VectorXd seeded_unit_vector(Eigen::Index size, std::uint64_t seed) {
  Eigen::VectorXd out(size);
  random_source draw(seed);
  for (Eigen::Index j = 0; j < size; ++j) {
    double sum = -6;
    for (int k = 0; k < 12; ++k) sum += draw.uniform();
    out[j] = sum;
  }
  const double norm = out.norm();
  if (norm > 0) out /= norm;
  return out;
}

namespace detail {

/// u ← A u / ‖A u‖, `rounds` times, stopping where A u vanishes; σ² = uᵀ A u for A = MᵀM.
/// `apply(u, out)` writes A u.
template <class Apply>
power_estimate power_iterate(Eigen::Index size, const power_options& options, Apply&& apply) {
  power_estimate out;
  if (size == 0) return out;
  Eigen::VectorXd u =
      options.from_ones ? Eigen::VectorXd::Constant(size, 1 / std::sqrt(static_cast<double>(size)))
                        : seeded_unit_vector(size, options.seed);
  Eigen::VectorXd image(size);
  apply(u, image);
  double sigma_sq = u.dot(image);
  while (out.rounds < options.rounds) {
    const double norm = image.norm();
    if (!(norm > 0) || !std::isfinite(norm)) break;
    u = image / norm;
    apply(u, image);
    const double before = std::exchange(sigma_sq, u.dot(image));
    ++out.rounds;
    if (std::abs(sigma_sq - before) < options.tolerance * sigma_sq) break;
  }
  out.finite = std::isfinite(sigma_sq);
  out.sigma = out.finite && sigma_sq > 0 ? std::sqrt(sigma_sq) : 0.0;
  return out;
}

/// r = M u and out = Mᵀ r with double sums over the fp32 rows, no double copy of M.
template <class Out>
void apply_gram(const const_matrix_ref& m, const Eigen::VectorXd& u, Out& out) {
  out.setZero();
  for_row_groups(m.data(), m.outerStride(), m.rows(), m.cols(),
                 [&](const auto& rows, index_t) { rows.add_to(out.data(), rows.times(u.data())); });
}

}  // namespace detail

/// Estimates σ_max(M): a seeded unit vector u, `rounds` times u ← MᵀM u normalised, then
/// σ = √(uᵀMᵀM u) (the published step length, without its floor: callers state their own).
///
/// `m` n × t fp32. A zero matrix gives 0. Cost 4·n·t flops a round and once more for σ; allocates
/// 3·t doubles. The estimate is from below: a step of 1/σ² may exceed 1/σ²_max.
template <class = void>
[[nodiscard]] inline power_estimate largest_singular_value(const const_matrix_ref& m,
                                                           const power_options& options = {}) {
  return detail::power_iterate(
      m.cols(), options,
      [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) { detail::apply_gram(m, u, out); });
}

/// The same from the lower triangle of G = MᵀM: `sigma` is √λ_max(G). Cost 2·t² flops a round.
template <class = void>
[[nodiscard]] inline power_estimate largest_singular_value_of_gram(
    const const_gram_ref& gram, const power_options& options = {}) {
  return detail::power_iterate(
      gram.cols(), options, [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) {
        detail::multiply_symmetric(gram.data(), index_t{gram.outerStride()}, index_t{gram.cols()},
                                   u.data(), out.data());
      });
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
