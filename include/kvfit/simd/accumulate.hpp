// SPDX-License-Identifier: MIT
/// A scaled row taken into a running row: added, added squared, or kept where larger.
///
/// In all of them acc and x are n floats that do not overlap, each element is computed alone (the
/// same bytes at any offset), and nothing is allocated.
#pragma once

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd::inline KVFIT_ISA {

/// acc_i <- step(x_i, acc_i), register by register; the tail takes the same arithmetic.
template <class Step>
void accumulate(float* acc, const float* x, index n, Step step) noexcept {
  index i = 0;
  for (; i + lanes <= n; i += lanes) store(acc + i, step(load(x + i), load(acc + i)));
  if (i < n) {
    const batch old = load_first(acc + i, n - i, 0.0f);
    store_first(acc + i, step(load_first(x + i, n - i, 0.0f), old), n - i);
  }
}

/// acc_i <- acc_i + a x_i. One rounding with FMA, two without.
inline void add_scaled(float* acc, const float* x, float a, index n) noexcept {
  const batch scale(a);
  accumulate(acc, x, n, [=](batch xs, batch old) { return multiply_add(scale, xs, old); });
}

/// acc_i <- acc_i + (a x_i)^2. The product is rounded before it is squared.
inline void add_scaled_squares(float* acc, const float* x, float a, index n) noexcept {
  const batch scale(a);
  accumulate(acc, x, n, [=](batch xs, batch old) {
    const batch scaled = scale * xs;
    return multiply_add(scaled, scaled, old);
  });
}

/// acc_i <- max(acc_i, a x_i). Where a x_i is NaN, acc_i stays.
inline void max_scaled(float* acc, const float* x, float a, index n) noexcept {
  const batch scale(a);
  accumulate(acc, x, n, [=](batch xs, batch old) { return larger(scale * xs, old); });
}

}  // namespace kvfit::simd::inline KVFIT_ISA
