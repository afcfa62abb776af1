// SPDX-License-Identifier: MIT
/// Least squares on the GPU by the Gram matrix in fp32, its Cholesky factor, and corrections.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <optional>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/device_system.hpp"

namespace kvfit::metal {

/// Least share of a column's square that the others may leave for a Gram matrix in fp32, whose
/// entries are good to some 1e-7: columns scaled alike then have a condition of about 500 at most.
inline constexpr double least_pivot = 4e-6;

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// C = argmin ‖X C − Y‖ and the Gram matrix it was found by.
struct device_solution {
  matrix coefficients;  ///< t × m
  matrix gram;          ///< t × t
};

/// Least squares for n ≥ t, t ≤ `largest_factor`, of finite numbers. Nothing where the columns of X
/// are too near to dependent for fp32: a pivot is below `least_pivot`, or corrections (Björck 1987)
/// do not fall by four each, or are not below 1e-4 of the answer after six. Waits once for the
/// products, once for the factor and once a correction.
inline result<std::optional<device_solution>> solve_least_squares(device& on, const matrix& x,
                                                                  const matrix& y) {
  auto system = device_system::make(on, x, y);
  if (!system) return system.error();
  if (const auto ok = system->form(on); !ok) return ok.error();
  const auto is_factored = system->factor_and_solve(on);
  if (!is_factored) return is_factored.error();
  if (!*is_factored || !(system->smallest_pivot() >= least_pivot)) {
    return std::optional<device_solution>();
  }
  const index_t t = x.cols();
  const index_t m = y.cols();
  // The length of X C as if columns were orthogonal.
  const auto length_of = [&](const float* c) {
    double sum = 0;
    for (index_t j = 0; j < t; ++j) {
      const auto scale = static_cast<double>(system->gram()[j * t + j]);
      for (index_t k = 0; k < m; ++k) {
        const auto entry = static_cast<double>(c[j * m + k]);
        sum += scale * entry * entry;
      }
    }
    return std::sqrt(sum);
  };
  device_solution out;
  out.coefficients = Eigen::Map<const matrix>(system->right(), t, m);
  double before = 1;
  for (int step = 0; step < 6; ++step) {
    if (const auto ok = system->correct(on, out.coefficients); !ok) return ok.error();
    const double length = length_of(out.coefficients.data());
    const double share = length > 0 ? length_of(system->right()) / length : 0;
    if (!(share < 0.25 * before)) break;
    for (index_t k = 0; k < t * m; ++k) out.coefficients.data()[k] += system->right()[k];
    // What a correction leaves of an error is about its share.
    if (share < (step == 0 ? 3e-3 : 1e-4)) {
      out.gram = Eigen::Map<const matrix>(system->gram(), t, t);
      return std::optional<device_solution>(std::move(out));
    }
    before = share;
  }
  return std::optional<device_solution>();
}

/// Bytes of the device and of the host that `solve_least_squares` holds at most.
inline double solve_least_squares_bytes(index_t n, index_t t, index_t m) noexcept {
  const auto product = [](index_t a, index_t b) {
    return 4.0 * static_cast<double>(a) * static_cast<double>(b);
  };
  return 2 * product(n, t) + 3 * product(t, t) + 2 * product(n, m) + 4 * product(t, m);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
