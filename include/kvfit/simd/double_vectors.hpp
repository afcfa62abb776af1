// SPDX-License-Identifier: MIT
/// Sums over and updates of contiguous vectors of doubles.
///
/// Vectors have n numbers, n ≥ 0. The order of a sum depends on n and the instruction set alone.
/// Nothing is allocated.
#pragma once

#include <algorithm>
#include <cmath>

#include "kvfit/simd/batch64.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// Σ_i x_i y_i; 0 if n = 0. x and y may be the same vector.
[[nodiscard]] inline double dot(const double* x, const double* y, index_t n) noexcept {
  batch64 a(0.0), b(0.0);
  index_t i = 0;
  for (; i + 2 * lanes64 <= n; i += 2 * lanes64) {
    a = multiply_add(load(x + i), load(y + i), a);
    b = multiply_add(load(x + i + lanes64), load(y + i + lanes64), b);
  }
  for (; i < n; i += lanes64) {
    const index_t count = (std::min)(lanes64, n - i);
    a = multiply_add(load_first(x + i, count, 0.0), load_first(y + i, count, 0.0), a);
  }
  return sum(a + b);
}

/// Σ_i x_i²; 0 if n = 0.
[[nodiscard]] inline double squared_norm(const double* x, index_t n) noexcept {
  return dot(x, x, n);
}

/// The same for floats: squares and sum in double.
[[nodiscard]] inline double squared_norm(const float* x, index_t n) noexcept {
  batch64 a(0.0);
  for (index_t i = 0; i < n; i += lanes64) {
    const bool is_whole = i + lanes64 <= n;
    const batch64 wide = is_whole ? load_widened(x + i) : load_widened_first(x + i, n - i);
    a = multiply_add(wide, wide, a);
  }
  return sum(a);
}

/// max_i |x_i|; 0 if n = 0. NaN is passed over.
[[nodiscard]] inline double largest_size(const double* x, index_t n) noexcept {
  double most = 0;
  for (index_t i = 0; i < n; ++i) {
    const double size = std::abs(x[i]);
    most = size > most ? size : most;
  }
  return most;
}

/// Whether all of them are numbers.
[[nodiscard]] inline bool all_finite(const double* x, index_t n) noexcept {
  const batch64 zero(0.0);
  batch64 sums(0.0);  // 0 · x is 0 for numbers alone
  index_t i = 0;
  for (; i + lanes64 <= n; i += lanes64) sums = multiply_add(load(x + i), zero, sums);
  if (i < n) sums = multiply_add(load_first(x + i, n - i, 0.0), zero, sums);
  return sum(sums) == 0;
}

/// y_i ← y_i + a x_i. One rounding with FMA, two without.
inline void add_scaled(double* y, double a, const double* x, index_t n) noexcept {
  const batch64 factor(a);
  index_t i = 0;
  for (; i + lanes64 <= n; i += lanes64) {
    store(y + i, multiply_add(factor, load(x + i), load(y + i)));
  }
  if (i < n) {
    const index_t rest = n - i;
    store_first(y + i,
                multiply_add(factor, load_first(x + i, rest, 0.0), load_first(y + i, rest, 0.0)),
                rest);
  }
}

/// y_i ← a y_i.
inline void scale(double* y, double a, index_t n) noexcept {
  for (index_t i = 0; i < n; ++i) y[i] *= a;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
