// SPDX-License-Identifier: MIT
/// Floats rounded to bf16 and packed in pairs, as instructions that multiply bf16 take them.
///
/// A pair is a word of 32 bits: two neighbouring numbers along the sum, the first in its lower
/// half; where there is no second, 0. Rounding is to nearest even; what lies beyond the largest
/// finite bf16, infinity too, becomes that one (a finite number is then off by less than 2⁻⁸ of
/// itself), so that no product overflows for having been packed. NaN stays NaN. Numbers under 2⁻¹²⁶
/// in magnitude may become 0, for the instructions take them for 0.
///
/// With memory for `rests`, what is lost in rounding is rounded and packed alike: x ≈ number +
/// rest, off by at most 2⁻¹⁶ of x. Nothing overlaps; nothing is allocated.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "kvfit/core/element.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/convert.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// Words that hold `count` numbers.
constexpr index_t pairs_of(index_t count) noexcept {
  return (count + 1) / 2;
}

namespace detail {

inline constexpr float largest_bf16 = 0x1.fep127F;
inline constexpr index_t pack_step = 16;  ///< numbers rounded at once

/// Some numbers as bf16, and what that leaves of them.
struct rounded_step {
  std::array<std::uint16_t, pack_step> numbers;
  std::array<float, pack_step> rests;
};

/// The first `count` ≤ 16 numbers at x, zeros behind them.
inline void round_step(const float* x, index_t count, rounded_step& out) noexcept {
  std::array<float, pack_step> within{};
  std::array<bf16, pack_step> halves;
  std::array<float, pack_step> wide;
  for (index_t i = 0; i < count; ++i) {  // written so that NaN comes through
    const float most = x[i] > largest_bf16 ? largest_bf16 : x[i];
    within[static_cast<std::size_t>(i)] = most < -largest_bf16 ? -largest_bf16 : most;
  }
  simd::narrow(within.data(), halves.data(), pack_step);
  simd::widen(halves.data(), wide.data(), pack_step);
  for (std::size_t i = 0; i < pack_step; ++i) {
    out.numbers[i] = halves[i].bits;
    out.rests[i] = i < static_cast<std::size_t>(count) ? x[i] - wide[i] : 0.0F;
  }
}

inline std::uint32_t pair_of(std::uint16_t even, std::uint16_t odd) noexcept {
  return static_cast<std::uint32_t>(even) | static_cast<std::uint32_t>(odd) << 16U;
}

#if defined(__AVX512BF16__) && defined(__AVX512F__)

inline constexpr __mmask16 all_lanes = 0xffff;  // masked forms: g++ 12 warns of the plain ones

/// Sixteen numbers, each as bf16 in the lower half of a word.
inline __m512i round_words(__m512 x) noexcept {
  const __m512 most = _mm512_set1_ps(largest_bf16);
  const __m512 least = _mm512_set1_ps(-largest_bf16);
  // The second operand comes through where one is NaN.
  const __m512 within =
      _mm512_maskz_max_ps(all_lanes, least, _mm512_maskz_min_ps(all_lanes, most, x));
  const auto halves = _mm512_cvtneps_pbh(within);
  return _mm512_maskz_cvtepu16_epi32(all_lanes, (__m256i)halves);  // NOLINT(*-cstyle-cast)
}
inline __m512 rest_of(__m512 x, __m512i words) noexcept {
  return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_lanes, words, 16)));
}
inline __m512i join(__m512i even, __m512i odd) noexcept {
  return _mm512_or_si512(even, _mm512_maskz_slli_epi32(all_lanes, odd, 16));
}
inline __mmask16 first_lanes(index_t count) noexcept {
  return count >= 16 ? all_lanes
                     : static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
}

/// Words 0 … count − 1 ≤ 15 of evens and odds.
inline void pack_step_pairs(const float* even, const float* odd, index_t count,
                            std::uint32_t* words, std::uint32_t* rests) noexcept {
  const __mmask16 mask = first_lanes(count);
  const __m512 a = _mm512_maskz_loadu_ps(mask, even);
  const __m512 b = odd == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, odd);
  const __m512i a_words = round_words(a);
  const __m512i b_words = round_words(b);
  _mm512_mask_storeu_epi32(words, mask, join(a_words, b_words));
  if (rests == nullptr) return;
  _mm512_mask_storeu_epi32(
      rests, mask, join(round_words(rest_of(a, a_words)), round_words(rest_of(b, b_words))));
}
/// The first `count` ≤ 16 numbers at x in pairs.
inline void pack_step_row(const float* x, index_t count, std::uint32_t* words,
                          std::uint32_t* rests) noexcept {
  const __m512 a = _mm512_maskz_loadu_ps(first_lanes(count), x);
  const __mmask16 mask = first_lanes(pairs_of(count));
  const auto put = [&](std::uint32_t* to, __m512i halves) {
    const __m256i dense = _mm512_maskz_cvtepi32_epi16(all_lanes, halves);
    _mm512_mask_storeu_epi32(to, mask,
                             _mm512_maskz_inserti64x4(0xff, _mm512_setzero_si512(), dense, 0));
  };
  const __m512i numbers = round_words(a);
  put(words, numbers);
  if (rests != nullptr) put(rests, round_words(rest_of(a, numbers)));
}

#else

inline void pack_step_pairs(const float* even, const float* odd, index_t count,
                            std::uint32_t* words, std::uint32_t* rests) noexcept {
  rounded_step a;
  rounded_step b;
  const auto put = [&](std::uint32_t* to) {
    for (index_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      to[i] = pair_of(a.numbers[at], b.numbers[at]);
    }
  };
  round_step(even, count, a);
  round_step(odd, odd == nullptr ? 0 : count, b);
  put(words);
  if (rests == nullptr) return;
  const rounded_step first = a;
  const rounded_step second = b;
  round_step(first.rests.data(), count, a);
  round_step(second.rests.data(), count, b);
  put(rests);
}
inline void pack_step_row(const float* x, index_t count, std::uint32_t* words,
                          std::uint32_t* rests) noexcept {
  rounded_step a;
  const auto put = [&](std::uint32_t* to) {
    for (std::size_t p = 0; p < static_cast<std::size_t>(pairs_of(count)); ++p) {
      to[p] = pair_of(a.numbers[2 * p], a.numbers[2 * p + 1]);
    }
  };
  round_step(x, count, a);
  put(words);
  if (rests == nullptr) return;
  const rounded_step first = a;
  round_step(first.rests.data(), count, a);
  put(rests);
}

#endif

}  // namespace detail

/// Pairs along each row: `rows` rows of `cols` floats, `stride` apart, become rows of
/// `pairs_of(cols)` words without gaps. `rests` may be null.
inline void pack_rows(const float* x, index_t stride, index_t rows, index_t cols,
                      std::uint32_t* words, std::uint32_t* rests) noexcept {
  const index_t pairs = pairs_of(cols);
  for (index_t i = 0; i < rows; ++i) {
    for (index_t k = 0; k < cols; k += detail::pack_step) {
      detail::pack_step_row(x + i * stride + k, (std::min)(detail::pack_step, cols - k),
                            words + i * pairs + k / 2,
                            rests == nullptr ? nullptr : rests + i * pairs + k / 2);
    }
  }
}

/// Pairs of neighbouring rows: of rows 2p and 2p + 1, `stride` apart, come `cols` words, row p of
/// `pairs_of(rows)` without gaps. `rests` may be null.
inline void pack_row_pairs(const float* x, index_t stride, index_t rows, index_t cols,
                           std::uint32_t* words, std::uint32_t* rests) noexcept {
  for (index_t p = 0; p < pairs_of(rows); ++p) {
    const float* even = x + 2 * p * stride;
    const float* odd = 2 * p + 1 < rows ? even + stride : nullptr;
    for (index_t j = 0; j < cols; j += detail::pack_step) {
      detail::pack_step_pairs(even + j, odd == nullptr ? nullptr : odd + j,
                              (std::min)(detail::pack_step, cols - j), words + p * cols + j,
                              rests == nullptr ? nullptr : rests + p * cols + j);
    }
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
