// SPDX-License-Identifier: MIT
/// The hyperbolic tangent of floats, and logits capped by it.
#pragma once

#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/exp.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// tanh x, lane by lane; a lane's result depends on nothing but that lane.
///
///     |x| < 0.625:  x (1 + c0 x² + c1 x⁴ + ... + c4 x¹⁰),   else  ±(1 - 2 / (e^{2|x|} + 1))
///
/// The polynomial is the minimax one, relative error 2^-27. Relative error at most 2^-22; tanh of
/// an infinity is 1 or -1 exactly; NaN stays NaN. Allocates nothing.
inline batch tanh(batch x) noexcept {
  const batch size = larger(x, -x);
  const batch square = x * x;
  batch p(-0x1.75e1ccp-8f);
  p = multiply_add(p, square, batch(0x1.52269ap-6f));
  p = multiply_add(p, square, batch(-0x1.b83c5ap-5f));
  p = multiply_add(p, square, batch(0x1.110726p-3f));
  p = multiply_add(p, square, batch(-0x1.555532p-2f));
  const batch near = x * multiply_add(square, p, batch(1.0f));  // -0 stays -0
  const batch away = batch(1.0f) - batch(2.0f) / (simd::exp(size + size) + batch(1.0f));
  const batch far = xsimd::select(x < batch(0.0f), -away, away);
  return xsimd::select(size < batch(0.625f), near, far);
}

/// x_i <- cap tanh(x_i / cap), cap > 0, for n floats. Relative error under 2^-21. The same bytes at
/// any offset. Allocates nothing.
inline void soft_cap(float* x, float cap, index_t n) noexcept {
  const batch limit(cap);
  for (index_t i = 0; i < n; i += lanes) {
    const bool is_whole = i + lanes <= n;
    const batch given = is_whole ? load(x + i) : load_first(x + i, n - i, 0.0f);
    const batch capped = limit * simd::tanh(given / limit);
    if (is_whole) {
      store(x + i, capped);
    } else {
      store_first(x + i, capped, n - i);
    }
  }
}

/// The same, and slopes_i <- the derivative 1 - tanh(x_i / cap)².
inline void soft_cap(float* x, float* slopes, float cap, index_t n) noexcept {
  const batch limit(cap);
  for (index_t i = 0; i < n; i += lanes) {
    const bool is_whole = i + lanes <= n;
    const batch given = is_whole ? load(x + i) : load_first(x + i, n - i, 0.0f);
    const batch bent = simd::tanh(given / limit);
    const batch slope = multiply_add(-bent, bent, batch(1.0f));
    if (is_whole) {
      store(x + i, limit * bent);
      store(slopes + i, slope);
    } else {
      store_first(x + i, limit * bent, n - i);
      store_first(slopes + i, slope, n - i);
    }
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
