// SPDX-License-Identifier: MIT
/// Arrays of fp16, bf16 and fp8 to fp32 and back, and int8 and fp8 with scales to fp32.
///
/// Bit for bit what core/element.hpp and core/fp8.hpp specify, on every machine: exact on the way
/// up; to nearest even on the way down, overflow to infinity (E4M3: NaN), NaN stays NaN. AVX-512
/// BF16's own conversion is not used: it flushes subnormals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/simd/bytes.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

// One element, by the specification; memory is touched bytewise, so any 16-bit type may lie there.
template <class Half>
float widen_one(const void* x) noexcept {
  Half half;
  std::memcpy(&half, x, sizeof half);
  return kvfit::to_float(half);
}
inline void narrow_one(float x, void* y, fp16) noexcept {
  const fp16 half = kvfit::to_fp16(x);
  std::memcpy(y, &half, sizeof half);
}
inline void narrow_one(float x, void* y, bf16) noexcept {
  const bf16 half = kvfit::to_bf16(x);
  std::memcpy(y, &half, sizeof half);
}

// `convert_step` elements at once; the last argument says which type lies at x or y.
#if defined(__AVX512F__)

inline constexpr index_t convert_step = 16;
// Every lane: the masked forms are used, as g++ 12 warns of the plain ones' insides.
inline constexpr __mmask16 all_16 = 0xffff;

inline void widen_step(const void* x, float* y, fp16) noexcept {
  const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(x));
  _mm512_storeu_ps(y, _mm512_maskz_cvtph_ps(all_16, halves));
}
inline void widen_step(const void* x, float* y, bf16) noexcept {
  const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(x));
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(all_16, halves);
  _mm512_storeu_si512(y, _mm512_maskz_slli_epi32(all_16, wide, 16));
}
inline void narrow_step(const float* x, void* y, fp16) noexcept {
  constexpr int nearest_even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256i halves = _mm512_maskz_cvtps_ph(all_16, _mm512_loadu_ps(x), nearest_even);
  _mm256_storeu_si256(static_cast<__m256i*>(y), halves);
}
inline void narrow_step(const float* x, void* y, bf16) noexcept {
  const __m512 values = _mm512_loadu_ps(x);
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i upper = _mm512_maskz_srli_epi32(all_16, bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_set1_epi32(0x00400000);
  const __m512i result = _mm512_mask_or_epi32(rounded, is_nan, bits, quiet);
  const __m512i shifted = _mm512_maskz_srli_epi32(all_16, result, 16);
  _mm256_storeu_si256(static_cast<__m256i*>(y), _mm512_maskz_cvtepi32_epi16(all_16, shifted));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

inline constexpr index_t convert_step = 8;

inline void widen_step(const void* x, float* y, fp16) noexcept {
  const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(x));
  _mm256_storeu_ps(y, _mm256_cvtph_ps(halves));
}
inline void widen_step(const void* x, float* y, bf16) noexcept {
  const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(x));
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
  _mm256_storeu_ps(y, _mm256_castsi256_ps(bits));
}
inline void narrow_step(const float* x, void* y, fp16) noexcept {
  const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(static_cast<__m128i*>(y), halves);
}
inline void narrow_step(const float* x, void* y, bf16) noexcept {
  const __m256 values = _mm256_loadu_ps(x);
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i result = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  const __m128i halves =
      _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
  _mm_storeu_si128(static_cast<__m128i*>(y), halves);
}

#elif defined(__aarch64__)

inline constexpr index_t convert_step = 4;

inline void widen_step(const void* x, float* y, fp16) noexcept {
  const uint16x4_t halves = vld1_u16(static_cast<const std::uint16_t*>(x));
  vst1q_f32(y, vcvt_f32_f16(vreinterpret_f16_u16(halves)));
}
inline void widen_step(const void* x, float* y, bf16) noexcept {
  const uint16x4_t halves = vld1_u16(static_cast<const std::uint16_t*>(x));
  vst1q_f32(y, vreinterpretq_f32_u32(vshll_n_u16(halves, 16)));
}
inline void narrow_step(const float* x, void* y, fp16) noexcept {
  const uint16x4_t halves = vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x)));
  vst1_u16(static_cast<std::uint16_t*>(y), halves);
}
inline void narrow_step(const float* x, void* y, bf16) noexcept {
  const float32x4_t values = vld1q_f32(x);
  const uint32x4_t bits = vreinterpretq_u32_f32(values);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
  const uint32x4_t is_number = vceqq_f32(values, values);
  const uint16x4_t halves = vshrn_n_u32(vbslq_u32(is_number, rounded, quiet), 16);
  vst1_u16(static_cast<std::uint16_t*>(y), halves);
}

#else  // no conversion instructions: the specification, element by element

inline constexpr index_t convert_step = 1;

template <class Half>
void widen_step(const void* x, float* y, Half) noexcept {
  *y = widen_one<Half>(x);
}
template <class Half>
void narrow_step(const float* x, void* y, Half type) noexcept {
  narrow_one(*x, y, type);
}

#endif

template <class Half>
void widen(const void* x, float* y, index_t n, Half type) noexcept {
  const auto* bytes = static_cast<const std::byte*>(x);
  const index_t whole = n - n % convert_step;
  for (index_t i = 0; i < whole; i += convert_step) widen_step(bytes + 2 * i, y + i, type);
  for (index_t i = whole; i < n; ++i) y[i] = widen_one<Half>(bytes + 2 * i);
}
template <class Half>
void narrow(const float* x, void* y, index_t n, Half type) noexcept {
  auto* bytes = static_cast<std::byte*>(y);
  const index_t whole = n - n % convert_step;
  for (index_t i = 0; i < whole; i += convert_step) narrow_step(x + i, bytes + 2 * i, type);
  for (index_t i = whole; i < n; ++i) narrow_one(x[i], bytes + 2 * i, type);
}

}  // namespace detail

/// y_i <- x_i: n contiguous elements of `type` at x, aligned as that type, become floats; those of
/// int8 without their scales. Exact. x and y must not overlap. Allocates nothing. Not for blocks
/// (simd/blocks.hpp).
inline void widen(dtype type, const void* x, float* y, index_t n) noexcept {
  if (n <= 0) return;
  switch (type) {
    case dtype::fp32:
      std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case dtype::fp16:
      detail::widen(x, y, n, fp16{});
      return;
    case dtype::bf16:
      detail::widen(x, y, n, bf16{});
      return;
    case dtype::fp8_e4m3:
      detail::widen_bytes(x, y, n, fp8_e4m3{});
      return;
    case dtype::fp8_e5m2:
      detail::widen_bytes(x, y, n, fp8_e5m2{});
      return;
    case dtype::int8:
      detail::widen_bytes(x, y, n, std::int8_t{});
      return;
    case dtype::q8_0:
    case dtype::q4_0:
    case dtype::decoded:
      return;
  }
}

/// y_i <- scale · x_i: n numbers of a type with scales at x (int8, fp8), each product rounded once.
/// x and y must not overlap. Allocates nothing.
inline void widen_scaled(dtype type, const void* x, float scale, float* y, index_t n) noexcept {
  if (n <= 0) return;
  if (type == dtype::fp8_e4m3) return detail::widen_scaled(x, scale, y, n, fp8_e4m3{});
  if (type == dtype::fp8_e5m2) return detail::widen_scaled(x, scale, y, n, fp8_e5m2{});
  if (type == dtype::int8) detail::widen_scaled(x, scale, y, n, std::int8_t{});
}

/// y_i <- x_i, rounded to nearest even: n floats become contiguous elements of `type` at y, aligned
/// as that type: one of `is_number`. Beyond the largest finite element the result is infinite
/// (E4M3: NaN), so test the range first if that matters. x and y must not overlap. Allocates
/// nothing.
inline void narrow(dtype type, const float* x, void* y, index_t n) noexcept {
  if (n <= 0) return;
  switch (type) {
    case dtype::fp32:
      std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case dtype::fp16:
      detail::narrow(x, y, n, fp16{});
      return;
    case dtype::bf16:
      detail::narrow(x, y, n, bf16{});
      return;
    case dtype::fp8_e4m3:
      for (index_t i = 0; i < n; ++i) static_cast<fp8_e4m3*>(y)[i] = to_fp8_e4m3(x[i]);
      return;
    case dtype::fp8_e5m2:
      for (index_t i = 0; i < n; ++i) static_cast<fp8_e5m2*>(y)[i] = to_fp8_e5m2(x[i]);
      return;
    case dtype::q8_0:
    case dtype::q4_0:
    case dtype::int8:
    case dtype::decoded:
      return;
  }
}

/// The same with the type known when compiling: `widen(const Eigen::half*, float*, n)`.
template <storable T>
void widen(const T* x, float* y, index_t n) noexcept {
  simd::widen(dtype_of<T>, static_cast<const void*>(x), y, n);
}

/// The same with the type known when compiling: `narrow(const float*, Eigen::half*, n)`.
template <storable T>
void narrow(const float* x, T* y, index_t n) noexcept {
  simd::narrow(dtype_of<T>, x, static_cast<void*>(y), n);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
