// SPDX-License-Identifier: MIT
/// `batch`: one vector register of floats, and the few operations the module is written in.
///
/// The only includer of xsimd, so every name that differs between its versions (8.1 to 14) is dealt
/// with here. What the C++ code must decide itself, it decides here too: products are fused where
/// the instruction set has it (xsimd 8 does not fuse on AVX-512), NaN is treated alike on every
/// machine (the operand order of xsimd's `max` changed), and horizontal sums have a fixed order.
///
/// Never compiled with -ffast-math (core/config.hpp): that may remove the treatment of NaN and
/// infinity.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

// xsimd calls functions named min and max. windows.h defines macros of these names, unless NOMINMAX
// is defined: they are put aside meanwhile. kvfit itself writes (std::min) and (std::max).
#pragma push_macro("min")
#pragma push_macro("max")
#undef min
#undef max
#include <xsimd/xsimd.hpp>
#pragma pop_macro("max")
#pragma pop_macro("min")

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// One register of floats. Operators +, -, *, <, > work by lane.
using batch = xsimd::batch<float>;

/// Floats in one register: 4 (SSE, NEON), 8 (AVX), 16 (AVX-512).
inline constexpr index_t lanes = static_cast<index_t>(batch::size);

/// The next `lanes` floats at x; any alignment.
inline batch load(const float* x) noexcept {
  return batch::load_unaligned(x);
}

/// Writes `lanes` floats to y; any alignment.
inline void store(float* y, batch x) noexcept {
  x.store_unaligned(y);
}

/// The first `count` floats at x, 0 <= count <= lanes; the lanes after them hold `fill`. Memory
/// behind x + count is not touched.
inline batch load_first(const float* x, index_t count, float fill) noexcept {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1u);
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, x);
#else
  std::array<float, batch::size> padded{};
  for (index_t lane = 0; lane < lanes; ++lane) {
    padded[static_cast<std::size_t>(lane)] = lane < count ? x[lane] : fill;
  }
  return load(padded.data());
#endif
}

/// Writes the first `count` lanes to y, 0 <= count <= lanes, and nothing behind them.
inline void store_first(float* y, batch x, index_t count) noexcept {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(y, static_cast<__mmask16>((1u << count) - 1u), x);
#else
  std::array<float, batch::size> padded{};
  store(padded.data(), x);
  for (index_t lane = 0; lane < count; ++lane) y[lane] = padded[static_cast<std::size_t>(lane)];
#endif
}

/// a b + c, rounded once where the instruction set fuses (FMA, AVX-512, NEON), twice on plain SSE
/// and AVX. Written out wherever a sum follows a product, so that no compiler has a choice.
inline batch multiply_add(batch a, batch b, batch c) noexcept {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#else
  return xsimd::fma(a, b, c);
#endif
}

/// The larger of the two; `known` where x is NaN.
inline batch larger(batch x, batch known) noexcept {
  return xsimd::select(x > known, x, known);
}

/// x, but 0 where it equals `what`.
inline batch zero_where(batch x, float what) noexcept {
  return xsimd::select(x == batch(what), batch(0.0f), x);
}

/// x 2^n where `in_range`, 0 elsewhere. The low bits of `whole` = 1.5 * 2^23 + n are added to the
/// exponent field of x, so in range both x and the product must be normal or infinite.
inline batch scale_or_zero(batch x, batch whole, batch::batch_bool_type in_range) noexcept {
#if defined(__AVX512F__)
  constexpr __mmask16 all = 0xffff;  // masked forms, as g++ 12 warns of the plain ones' insides
  const __m512i power = _mm512_maskz_slli_epi32(all, _mm512_castps_si512(whole), 23);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(in_range, _mm512_castps_si512(x), power));
#else
  using bits = xsimd::batch<std::uint32_t>;
  // xsimd 8 is told the batch to cast to, later ones its element. A generic lambda, so that only
  // the branch that exists is compiled.
  const auto scale = [](auto value, auto power) {
    if constexpr (requires {
                    { xsimd::bitwise_cast<float>(bits()) } -> std::same_as<batch>;
                  }) {
      return xsimd::bitwise_cast<float>(xsimd::bitwise_cast<std::uint32_t>(value) +
                                        (xsimd::bitwise_cast<std::uint32_t>(power) << 23));
    } else {
      return xsimd::bitwise_cast<batch>(xsimd::bitwise_cast<bits>(value) +
                                        (xsimd::bitwise_cast<bits>(power) << 23));
    }
  };
  return xsimd::select(in_range, scale(x, whole), batch(0.0f));
#endif
}

/// Numbers of sixteen bits, two to a word: the lower halves of `lanes` words at x, and the upper
/// ones, each the upper half of a float whose other bits are 0.
struct batch_pair {
  batch even;
  batch odd;
};
inline batch_pair widen_words(xsimd::batch<std::uint32_t> words) noexcept {
#if defined(__AVX512F__)
  constexpr __mmask16 all = 0xffff;  // see above
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(all, words, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(words, upper))};
#else
  const auto floats = [](auto word) {
    if constexpr (requires {
                    { xsimd::bitwise_cast<float>(word) } -> std::same_as<batch>;
                  }) {
      return xsimd::bitwise_cast<float>(word);
    } else {
      return xsimd::bitwise_cast<batch>(word);
    }
  };
  return {floats(words << 16), floats(words & xsimd::batch<std::uint32_t>(0xffff0000U))};
#endif
}

/// x where `kept`, a + b elsewhere.
inline batch keep_or_add(batch::batch_bool_type kept, batch x, batch a, batch b) noexcept {
#if defined(__AVX512F__)
  return _mm512_mask_add_ps(x, _mm512_knot(kept), a, b);
#else
  return xsimd::select(kept, x, a + b);
#endif
}

namespace detail {

// x_i + x_{i + n/2}, again and again: the same order in every register and every xsimd, whose own
// horizontal sum takes several.
#if defined(__SSE2__)
inline float sum_by_halves(__m128 x) noexcept {
  const __m128 two = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
#if defined(__AVX__)
inline float sum_by_halves(__m256 x) noexcept {
  return sum_by_halves(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}
#endif
#if defined(__AVX512F__)
inline float sum_by_halves(__m512 x) noexcept {
  constexpr __mmask8 all = 0xff;  // masked forms throughout, see above
  const __m512d pairs = _mm512_castps_pd(x);
  return sum_by_halves(
      _mm256_add_ps(_mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(all, pairs, 0)),
                    _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(all, pairs, 1))));
}
#endif
#else
inline float sum_by_halves(batch x) noexcept {
  std::array<float, batch::size> values{};
  store(values.data(), x);
  for (std::size_t half = batch::size / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}
#endif

}  // namespace detail

/// The sum of the lanes in fp32, in a fixed order.
inline float sum(batch x) noexcept {
  return detail::sum_by_halves(static_cast<batch::register_type>(x));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
