// SPDX-License-Identifier: MIT
/// Bytes to fp32: fp8, int8 and the nibbles of q4_0, `byte_step` at once.
///
/// Bit for bit what core/fp8.hpp and core/quantised.hpp specify. An E5M2 is the upper half of an
/// fp16. An E4M3 moved one bit to the right below its sign is an fp16 of 2⁻⁸ times its value,
/// subnormals included; only its NaN is none and is put in by hand.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

#if defined(__AVX512F__)

inline constexpr index_t byte_step = 16;
using wide_floats = __m512;

inline void put(float* y, wide_floats x) noexcept {
  _mm512_storeu_ps(y, x);
}
inline wide_floats times(wide_floats x, float scale) noexcept {
  return _mm512_mul_ps(x, _mm512_set1_ps(scale));
}
inline wide_floats take(const void* x, std::int8_t) noexcept {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(x));
  return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, bytes));
}
inline wide_floats take(const void* x, fp8_e5m2) noexcept {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(x));
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8));
}
inline wide_floats take(const void* x, fp8_e4m3) noexcept {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(x));
  const __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);  // the sign goes along
  const __m256i halves = _mm256_and_si256(words, _mm256_set1_epi16(static_cast<short>(0xbf80)));
  const __m512 values =
      _mm512_mul_ps(_mm512_maskz_cvtph_ps(0xffff, halves), _mm512_set1_ps(256.0F));
  const __m512i wide = _mm512_maskz_cvtepi8_epi32(0xffff, bytes);
  const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi32(0x7f));
  const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
  const __m512i sign = _mm512_and_si512(wide, _mm512_set1_epi32(INT32_MIN));
  const __m512i nan = _mm512_or_si512(sign, _mm512_set1_epi32(0x7fc00000));
  return _mm512_mask_blend_ps(is_nan, values, _mm512_castsi512_ps(nan));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

inline constexpr index_t byte_step = 8;
using wide_floats = __m256;

inline void put(float* y, wide_floats x) noexcept {
  _mm256_storeu_ps(y, x);
}
inline wide_floats times(wide_floats x, float scale) noexcept {
  return _mm256_mul_ps(x, _mm256_set1_ps(scale));
}
inline wide_floats take(const void* x, std::int8_t) noexcept {
  const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i*>(x));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline wide_floats take(const void* x, fp8_e5m2) noexcept {
  const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i*>(x));
  return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 8));
}
inline wide_floats take(const void* x, fp8_e4m3) noexcept {
  const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i*>(x));
  const __m128i words = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);  // the sign goes along
  const __m128i halves = _mm_and_si128(words, _mm_set1_epi16(static_cast<short>(0xbf80)));
  const __m256 values = _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(256.0F));
  const __m256i wide = _mm256_cvtepi8_epi32(bytes);
  const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi32(0x7f));
  const __m256i is_nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
  const __m256i sign = _mm256_and_si256(wide, _mm256_set1_epi32(INT32_MIN));
  const __m256i nan = _mm256_or_si256(sign, _mm256_set1_epi32(0x7fc00000));
  return _mm256_blendv_ps(values, _mm256_castsi256_ps(nan), _mm256_castsi256_ps(is_nan));
}

#elif defined(__aarch64__)

inline constexpr index_t byte_step = 8;
struct wide_floats {
  float32x4_t low;
  float32x4_t high;
};

inline void put(float* y, wide_floats x) noexcept {
  vst1q_f32(y, x.low);
  vst1q_f32(y + 4, x.high);
}
inline wide_floats times(wide_floats x, float scale) noexcept {
  return {vmulq_n_f32(x.low, scale), vmulq_n_f32(x.high, scale)};
}
inline wide_floats from_halves(uint16x8_t halves) noexcept {
  return {vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves))),
          vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves)))};
}
inline wide_floats take(const void* x, std::int8_t) noexcept {
  const int16x8_t words = vmovl_s8(vld1_s8(static_cast<const std::int8_t*>(x)));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))),
          vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)))};
}
inline wide_floats take(const void* x, fp8_e5m2) noexcept {
  return from_halves(vshll_n_u8(vld1_u8(static_cast<const std::uint8_t*>(x)), 8));
}
inline wide_floats take(const void* x, fp8_e4m3) noexcept {
  const int16x8_t wide = vmovl_s8(vld1_s8(static_cast<const std::int8_t*>(x)));
  const uint16x8_t words = vreinterpretq_u16_s16(vshlq_n_s16(wide, 7));  // the sign goes along
  const wide_floats values = times(from_halves(vandq_u16(words, vdupq_n_u16(0xbf80))), 256.0F);
  const auto with_nan = [](float32x4_t value, int16x4_t bytes) {
    const int32x4_t bits = vmovl_s16(bytes);
    const uint32x4_t is_nan = vceqq_s32(vandq_s32(bits, vdupq_n_s32(0x7f)), vdupq_n_s32(0x7f));
    const int32x4_t sign = vandq_s32(bits, vdupq_n_s32(INT32_MIN));
    const int32x4_t nan = vorrq_s32(sign, vdupq_n_s32(0x7fc00000));
    return vbslq_f32(is_nan, vreinterpretq_f32_s32(nan), value);
  };
  return {with_nan(values.low, vget_low_s16(wide)), with_nan(values.high, vget_high_s16(wide))};
}

#else  // the specification, byte by byte

inline constexpr index_t byte_step = 1;
using wide_floats = float;

inline void put(float* y, wide_floats x) noexcept {
  *y = x;
}
inline wide_floats times(wide_floats x, float scale) noexcept {
  return x * scale;
}
inline wide_floats take(const void* x, std::int8_t) noexcept {
  return static_cast<float>(*static_cast<const std::int8_t*>(x));
}
template <class Fp8>
wide_floats take(const void* x, Fp8) noexcept {
  return to_float(Fp8{*static_cast<const std::uint8_t*>(x)});
}

#endif

/// n bytes, whole steps first; the last few through a copy that is a whole step. `make(bytes)`:
/// what is stored of a step.
template <class Make>
void for_byte_steps(const void* x, float* y, index_t n, Make make) noexcept {
  const auto* bytes = static_cast<const std::byte*>(x);
  const index_t whole = n - n % byte_step;
  for (index_t i = 0; i < whole; i += byte_step) put(y + i, make(bytes + i));
  if (whole == n) return;
  std::array<std::byte, static_cast<std::size_t>(byte_step)> last{};
  std::array<float, static_cast<std::size_t>(byte_step)> values;  // NOLINT(*-init)
  std::memcpy(last.data(), bytes + whole, static_cast<std::size_t>(n - whole));
  put(values.data(), make(last.data()));
  std::memcpy(y + whole, values.data(), static_cast<std::size_t>(n - whole) * sizeof(float));
}

/// `Byte` is one of int8, fp8_e4m3 and fp8_e5m2.
template <class Byte>
void widen_bytes(const void* x, float* y, index_t n, Byte type) noexcept {
  for_byte_steps(x, y, n, [&](const std::byte* at) { return take(at, type); });
}

/// n of them times one scale.
template <class Byte>
void widen_scaled(const void* x, float scale, float* y, index_t n, Byte type) noexcept {
  for_byte_steps(x, y, n, [&](const std::byte* at) { return times(take(at, type), scale); });
}

/// The fp16 at x, as fp32.
inline float take_scale(const void* x) noexcept {
  fp16 half;
  std::memcpy(&half, x, sizeof half);
#if defined(__F16C__)
  return _cvtsh_ss(half.bits);
#else
  return to_float(half);
#endif
}

/// The 32 numbers of q4_0's 16 bytes, less 8: low nibbles, then high ones.
inline void unpack_nibbles(const void* pairs, std::int8_t* numbers) noexcept {
#if defined(__SSE2__)
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(pairs));
  const __m128i mask = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(bytes, mask);
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
  const __m128i eight = _mm_set1_epi8(8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers), _mm_sub_epi8(low, eight));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers + 16), _mm_sub_epi8(high, eight));
#elif defined(__aarch64__)
  const uint8x16_t bytes = vld1q_u8(static_cast<const std::uint8_t*>(pairs));
  const uint8x16_t eight = vdupq_n_u8(8);
  const uint8x16_t low = vsubq_u8(vandq_u8(bytes, vdupq_n_u8(15)), eight);
  vst1q_s8(numbers, vreinterpretq_s8_u8(low));
  vst1q_s8(numbers + 16, vreinterpretq_s8_u8(vsubq_u8(vshrq_n_u8(bytes, 4), eight)));
#else
  const auto* bytes = static_cast<const std::uint8_t*>(pairs);
  for (index_t j = 0; j < 16; ++j) {
    numbers[j] = static_cast<std::int8_t>((bytes[j] & 15) - 8);
    numbers[j + 16] = static_cast<std::int8_t>((bytes[j] >> 4) - 8);
  }
#endif
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
