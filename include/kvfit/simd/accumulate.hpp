// SPDX-License-Identifier: MIT
/// Element by element over rows of floats: scaled, raised to a maximum, multiplied, added; one of
/// them with the sum of what comes out.
///
/// In all of them rows are n floats that do not overlap, each element is computed alone (the same
/// bytes at any offset), and nothing is allocated.
#pragma once

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// acc_i <- step(x_i, acc_i), register by register; the tail takes the same arithmetic.
template <class Step>
void accumulate(float* acc, const float* x, index_t n, Step step) noexcept {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) store(acc + i, step(load(x + i), load(acc + i)));
  if (i < n) {
    const batch old = load_first(acc + i, n - i, 0.0f);
    store_first(acc + i, step(load_first(x + i, n - i, 0.0f), old), n - i);
  }
}

/// acc_i <- a acc_i + b. One rounding with FMA, two without.
inline void scale_and_add(float* acc, float a, float b, index_t n) noexcept {
  const batch scale(a);
  const batch shift(b);
  accumulate(acc, acc, n, [=](batch, batch old) { return multiply_add(scale, old, shift); });
}

/// acc_i <- max(acc_i, x_i). Where x_i is NaN, acc_i stays.
inline void keep_larger(float* acc, const float* x, index_t n) noexcept {
  accumulate(acc, x, n, [](batch xs, batch old) { return larger(xs, old); });
}

/// acc_i <- acc_i + x_i.
inline void add_each(float* acc, const float* x, index_t n) noexcept {
  accumulate(acc, x, n, [](batch xs, batch old) { return old + xs; });
}

/// acc_i <- acc_i x_i.
inline void multiply_each(float* acc, const float* x, index_t n) noexcept {
  accumulate(acc, x, n, [](batch xs, batch old) { return old * xs; });
}

/// acc_i <- acc_i + x_i y_i. One rounding with FMA, two without.
inline void add_products(float* acc, const float* x, const float* y, index_t n) noexcept {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    store(acc + i, multiply_add(load(x + i), load(y + i), load(acc + i)));
  }
  if (i < n) {
    const batch old = load_first(acc + i, n - i, 0.0f);
    const batch products =
        multiply_add(load_first(x + i, n - i, 0.0f), load_first(y + i, n - i, 0.0f), old);
    store_first(acc + i, products, n - i);
  }
}

/// acc_i <- (acc_i + x_i) y_i; returns the sum of the results in fp32, lane by lane first.
inline float add_then_multiply(float* acc, const float* x, const float* y, index_t n) noexcept {
  batch total(0.0f);
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const batch product = (load(acc + i) + load(x + i)) * load(y + i);
    store(acc + i, product);
    total = total + product;
  }
  if (i < n) {
    const index_t rest = n - i;
    const batch product = (load_first(acc + i, rest, 0.0f) + load_first(x + i, rest, 0.0f)) *
                          load_first(y + i, rest, 0.0f);
    store_first(acc + i, product, rest);
    total = total + product;
  }
  return sum(total);
}

/// acc_i <- acc_i - a x_i. One rounding with FMA, two without.
inline void subtract_scaled(float* acc, float a, const float* x, index_t n) noexcept {
  const batch factor(-a);
  accumulate(acc, x, n, [=](batch xs, batch old) { return multiply_add(factor, xs, old); });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
