// SPDX-License-Identifier: MIT
/// Inner products of rows kept in bf16 with a float vector, in fp32.
///
/// Two numbers of a row lie in one word of 32 bits; masked and shifted they are floats as they are,
/// on any machine. The vector is therefore taken apart once (`split_for_halves`), and a product
/// costs half the memory traffic of one in fp32.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/convert.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// Numbers that one step of `half_dot` takes.
inline constexpr index_t half_step = 2 * lanes;

/// Words of a row of n numbers: whole steps, so that zeros belong behind the last number.
constexpr index_t half_words(index_t n) noexcept {
  return (n + half_step - 1) / half_step * lanes;
}

/// y ← x for `half_dot`: of every step first the numbers at even places, then those at odd ones. y
/// has 2 · `half_words(n)` floats. Allocates nothing.
inline void split_for_halves(const float* x, index_t n, float* y) noexcept {
  static_assert(std::endian::native == std::endian::little, "the first of two is the lower half");
  for (index_t i = 0; i < 2 * half_words(n); ++i) {
    const index_t within = i % half_step;
    y[i - within + within / 2 + within % 2 * lanes] = i < n ? x[i] : 0.0F;
  }
}

/// Σ_i x_i y_i of a row of `words` words (a multiple of `lanes`) and a vector taken apart by
/// `split_for_halves`; meanwhile as many words at `next` are fetched, for the row after this one.
/// Error at most (words / (2 lanes) + 12) 2⁻²⁴ Σ|x_i y_i|. Deterministic for one instruction set.
/// Allocates nothing.
[[nodiscard]] inline float half_dot(const std::uint32_t* x, const float* y, index_t words,
                                    const std::uint32_t* next) noexcept {
  const auto at = [&](index_t word) {
    return widen_words(xsimd::batch<std::uint32_t>::load_unaligned(x + word));
  };
  batch a(0.0F), b(0.0F), c(0.0F), d(0.0F);
  index_t w = 0;
  for (; w + 2 * lanes <= words; w += 2 * lanes) {
    // Not to stay in the cache: rows go by once, others are meant to stay.
    __builtin_prefetch(next + w, 0, 0);
    if constexpr (lanes >= 16) __builtin_prefetch(next + w + lanes, 0, 0);
    const batch_pair first = at(w);
    const batch_pair second = at(w + lanes);
    a = multiply_add(first.even, load(y + 2 * w), a);
    b = multiply_add(first.odd, load(y + 2 * w + lanes), b);
    c = multiply_add(second.even, load(y + 2 * w + 2 * lanes), c);
    d = multiply_add(second.odd, load(y + 2 * w + 3 * lanes), d);
  }
  if (w < words) {
    const batch_pair last = at(w);
    a = multiply_add(last.even, load(y + 2 * w), a);
    b = multiply_add(last.odd, load(y + 2 * w + lanes), b);
  }
  return sum((a + b) + (c + d));
}

/// Rounds n floats at x to n bf16 at `rounded` (any alignment) and returns
/// Σ_i (factors_i (x_i − rounded_i))² in fp32, relative error at most (n / lanes + 16) 2⁻²⁴.
/// Allocates nothing.
[[nodiscard]] inline float round_to_halves(const float* x, const float* factors, index_t n,
                                           void* rounded) noexcept {
  narrow(dtype::bf16, x, rounded, n);
  const auto* halves = static_cast<const std::byte*>(rounded);
  std::array<float, batch::size> wide{};
  batch lost(0.0F);
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    widen(dtype::bf16, halves + 2 * i, wide.data(), lanes);
    const batch weighted = (load(x + i) - load(wide.data())) * load(factors + i);
    lost = multiply_add(weighted, weighted, lost);
  }
  if (i < n) {
    widen(dtype::bf16, halves + 2 * i, wide.data(), n - i);
    const batch weighted = (load_first(x + i, n - i, 0.0F) - load_first(wide.data(), n - i, 0.0F)) *
                           load_first(factors + i, n - i, 0.0F);
    lost = multiply_add(weighted, weighted, lost);
  }
  return sum(lost);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
