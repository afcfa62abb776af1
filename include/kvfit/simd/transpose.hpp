// SPDX-License-Identifier: MIT
/// A matrix transposed, its rows scaled on the way.
#pragma once

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

namespace detail {

#if defined(__SSE2__)
/// out_rc = f_r x_cr for r, c < 4.
inline void transpose_block(const float* x, index_t x_stride, const float* factors, float* out,
                            index_t out_stride) noexcept {
  const __m128 a = _mm_loadu_ps(x);
  const __m128 b = _mm_loadu_ps(x + x_stride);
  const __m128 c = _mm_loadu_ps(x + 2 * x_stride);
  const __m128 d = _mm_loadu_ps(x + 3 * x_stride);
  const __m128 ab_low = _mm_unpacklo_ps(a, b);
  const __m128 ab_high = _mm_unpackhi_ps(a, b);
  const __m128 cd_low = _mm_unpacklo_ps(c, d);
  const __m128 cd_high = _mm_unpackhi_ps(c, d);
  const auto put = [&](index_t r, __m128 row) {
    _mm_storeu_ps(out + r * out_stride, _mm_mul_ps(row, _mm_set1_ps(factors[r])));
  };
  put(0, _mm_movelh_ps(ab_low, cd_low));
  put(1, _mm_movehl_ps(cd_low, ab_low));
  put(2, _mm_movelh_ps(ab_high, cd_high));
  put(3, _mm_movehl_ps(cd_high, ab_high));
}
#elif defined(__aarch64__)
inline void transpose_block(const float* x, index_t x_stride, const float* factors, float* out,
                            index_t out_stride) noexcept {
  const float32x4_t a = vld1q_f32(x);
  const float32x4_t b = vld1q_f32(x + x_stride);
  const float32x4_t c = vld1q_f32(x + 2 * x_stride);
  const float32x4_t d = vld1q_f32(x + 3 * x_stride);
  const float64x2_t ab_low = vreinterpretq_f64_f32(vzip1q_f32(a, b));
  const float64x2_t ab_high = vreinterpretq_f64_f32(vzip2q_f32(a, b));
  const float64x2_t cd_low = vreinterpretq_f64_f32(vzip1q_f32(c, d));
  const float64x2_t cd_high = vreinterpretq_f64_f32(vzip2q_f32(c, d));
  const auto put = [&](index_t r, float64x2_t row) {
    vst1q_f32(out + r * out_stride, vmulq_n_f32(vreinterpretq_f32_f64(row), factors[r]));
  };
  put(0, vzip1q_f64(ab_low, cd_low));
  put(1, vzip2q_f64(ab_low, cd_low));
  put(2, vzip1q_f64(ab_high, cd_high));
  put(3, vzip2q_f64(ab_high, cd_high));
}
#else
inline void transpose_block(const float* x, index_t x_stride, const float* factors, float* out,
                            index_t out_stride) noexcept {
  for (index_t r = 0; r < 4; ++r) {
    for (index_t c = 0; c < 4; ++c) out[r * out_stride + c] = factors[r] * x[c * x_stride + r];
  }
}
#endif

}  // namespace detail

/// out_rc = factors_r x_cr: `rows` × `cols` numbers, rows of x and out `x_stride` and `out_stride`
/// apart. Each is one rounded product. Nothing overlaps; allocates nothing.
inline void transpose_scaled(const float* x, index_t x_stride, const float* factors, index_t rows,
                             index_t cols, float* out, index_t out_stride) noexcept {
  const index_t whole_rows = rows / 4 * 4;
  const index_t whole_cols = cols / 4 * 4;
  for (index_t r = 0; r < whole_rows; r += 4) {
    for (index_t c = 0; c < whole_cols; c += 4) {
      detail::transpose_block(x + c * x_stride + r, x_stride, factors + r, out + r * out_stride + c,
                              out_stride);
    }
  }
  for (index_t r = 0; r < rows; ++r) {
    for (index_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) {
      out[r * out_stride + c] = factors[r] * x[c * x_stride + r];
    }
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
