// SPDX-License-Identifier: MIT
/// What the least-squares solvers hold at most.
#pragma once

#include <algorithm>

#include "kvfit/linalg/detail/solver_bytes.hpp"
#include "kvfit/linalg/gram.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// For X n × t and Y n × d.
struct least_squares_sizes {
  index_t n;
  index_t t;
  index_t d;

  [[nodiscard]] constexpr index_t small() const noexcept { return std::min(n, t); }
  [[nodiscard]] constexpr double answer() const noexcept { return double_bytes(t, d); }

  /// What `solve_toward` holds while a solver holds `solving`, its result included: the right-hand
  /// side, C₀ and the answer in fp32 and in double.
  [[nodiscard]] constexpr double around(double solving) const noexcept {
    return float_bytes(t, d) + double_bytes(n, d) + 2 * answer() +
           std::max(double_bytes(64, t), solving) + double_bytes(8, t);
  }

  /// A Gram matrix, its factor and the solve.
  [[nodiscard]] constexpr double by_gram() const noexcept {
    const index_t m = small();
    const double right = n < t ? double_bytes(n, d) : answer();
    return double_bytes(2, m, m) + right + double_bytes(8, m) +
           std::max({strips_bytes(n < t ? t : n, m), moment_bytes(n, t, d) + answer(),
                     triangular_bytes(m, std::max(m, d)) + double_bytes(4, m, d)});
  }
  /// A Gram matrix, its copy and its eigenvectors.
  [[nodiscard]] constexpr double by_eigenvectors() const noexcept {
    const index_t m = small();
    const double right = n < t ? double_bytes(n, d) : answer();
    return double_bytes(3, m, m) + right + double_bytes(2, m, d) + double_bytes(8, m);
  }
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
