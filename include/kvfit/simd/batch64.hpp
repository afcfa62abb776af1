// SPDX-License-Identifier: MIT
/// `batch64`: one vector register of doubles, with what products in double need of it.
#pragma once

#include <array>
#include <cstddef>

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// One register of doubles. Operators +, -, * work by lane.
using batch64 = xsimd::batch<double>;

/// Doubles in one register: half as many as floats.
inline constexpr index_t lanes64 = static_cast<index_t>(batch64::size);

inline batch64 load(const double* x) noexcept {
  return batch64::load_unaligned(x);
}

inline void store(double* y, batch64 x) noexcept {
  x.store_unaligned(y);
}

/// The first `count` doubles at x, 0 <= count <= lanes64; the lanes after them hold `fill`. Memory
/// behind x + count is not touched.
inline batch64 load_first(const double* x, index_t count, double fill) noexcept {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask8>((1u << count) - 1u);
  return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), mask, x);
#else
  std::array<double, batch64::size> padded{};
  for (index_t lane = 0; lane < lanes64; ++lane) {
    padded[static_cast<std::size_t>(lane)] = lane < count ? x[lane] : fill;
  }
  return load(padded.data());
#endif
}

/// Writes the first `count` lanes to y, 0 <= count <= lanes64, and nothing behind them.
inline void store_first(double* y, batch64 x, index_t count) noexcept {
#if defined(__AVX512F__)
  _mm512_mask_storeu_pd(y, static_cast<__mmask8>((1u << count) - 1u), x);
#else
  std::array<double, batch64::size> padded{};
  store(padded.data(), x);
  for (index_t lane = 0; lane < count; ++lane) y[lane] = padded[static_cast<std::size_t>(lane)];
#endif
}

/// a b + c, rounded once where the instruction set fuses, twice on plain SSE and AVX.
inline batch64 multiply_add(batch64 a, batch64 b, batch64 c) noexcept {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#else
  return xsimd::fma(a, b, c);
#endif
}

/// The next lanes64 floats at x, as doubles.
inline batch64 load_widened(const float* x) noexcept {
#if defined(__AVX512F__)
  constexpr __mmask8 all = 0xff;  // a masked form, as g++ 12 warns of the plain one's insides
  return _mm512_maskz_cvtps_pd(all, _mm256_loadu_ps(x));
#elif defined(__AVX__)
  return _mm256_cvtps_pd(_mm_loadu_ps(x));
#else
  std::array<double, batch64::size> wide{};
  for (std::size_t lane = 0; lane < wide.size(); ++lane) wide[lane] = static_cast<double>(x[lane]);
  return load(wide.data());
#endif
}

/// The first `count` floats at x as doubles, 0 <= count <= lanes64; 0 in the lanes after them.
inline batch64 load_widened_first(const float* x, index_t count) noexcept {
#if defined(__AVX512F__)
  constexpr __mmask8 all = 0xff;
  const __m512 padded = load_first(x, count, 0.0f);
  return _mm512_maskz_cvtps_pd(all, _mm512_castps512_ps256(padded));
#else
  std::array<float, batch64::size> padded{};
  for (index_t lane = 0; lane < count; ++lane) {
    padded[static_cast<std::size_t>(lane)] = x[lane];
  }
  return load_widened(padded.data());
#endif
}

/// The sum of the lanes, halves added to halves.
inline double sum(batch64 x) noexcept {
  std::array<double, batch64::size> values{};
  store(values.data(), x);
  for (std::size_t half = batch64::size / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
