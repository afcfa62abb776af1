// SPDX-License-Identifier: MIT
/// The exponential of floats.
#pragma once

#include <limits>

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// e^x, lane by lane; a lane's result depends on nothing but that lane.
///
///     x = n ln 2 + r,  |r| <= ln 2 / 2,   e^x = 2^n (1 + r + r^2 (c2 + c3 r + ... + c6 r^4))
///
/// ln 2 is split in two parts, the first short enough that n times it is exact (Cody and Waite);
/// the polynomial is the minimax one, relative error 2^-28. Over every float whose result is normal
/// the error is at most 0.90 ulp with FMA and 1.18 ulp without. exp(0) = 1, exp(-inf) = 0 and
/// exp(+inf) = +inf exactly; NaN stays NaN. Results under 2^-126 (x < -87.3365) are 0: subnormals
/// would slow whatever follows. From x > 88.7228 on, +inf. Allocates nothing.
inline batch exp(batch x) noexcept {
  constexpr float lowest = -0x1.5d589ep+6f;  // the last x whose result is normal
  constexpr float highest = 0x1.62e42ep+6f;  // the last x whose result is finite
  constexpr float round_shift = 0x1.8p+23f;  // adding it rounds to a whole number, to even
  constexpr float ln2_upper = 0x1.63p-1f;    // 10 bits
  constexpr float ln2_lower = -0x1.bd0106p-13f;

  const batch shifted = multiply_add(x, batch(0x1.715476p+0f), batch(round_shift));  // x / ln 2
  const batch n = shifted - batch(round_shift);
  batch r = multiply_add(n, batch(-ln2_upper), x);
  r = multiply_add(n, batch(-ln2_lower), r);

  batch p = batch(0x1.6a242cp-10f);
  p = multiply_add(p, r, batch(0x1.1239e8p-7f));
  p = multiply_add(p, r, batch(0x1.5558f2p-5f));
  p = multiply_add(p, r, batch(0x1.555492p-3f));
  p = multiply_add(p, r, batch(0x1.fffffcp-2f));
  p = multiply_add(p, r, batch(1.0f));
  p = multiply_add(p, r, batch(1.0f));

  // Below `lowest` the scaled bits are nonsense and become 0; above `highest`, and for NaN, the
  // outcome is x + inf.
  const batch scaled = scale_or_zero(p, shifted, x >= batch(lowest));
  const batch infinity(std::numeric_limits<float>::infinity());
  return keep_or_add(x <= batch(highest), scaled, x, infinity);
}

/// y_i = e^{x_i} for n floats; y may be x, but must not overlap it otherwise. The same bytes at any
/// offset and alignment. Error and limits as above. Allocates nothing.
inline void exp(const float* x, float* y, index_t n) noexcept {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, simd::exp(load(x + i)));
  if (i < n) store_first(y + i, simd::exp(load_first(x + i, n - i, 0.0f)), n - i);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
