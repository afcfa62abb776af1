// SPDX-License-Identifier: MIT
/// Numbers of eight bits: fp8 E4M3 ("fn") and E5M2, and their exact conversions to and from
/// `float`.
///
/// Both are defined in "FP8 Formats for Deep Learning" (arXiv:2209.05433). Like those of
/// core/element.hpp, the conversions are the specification: plain bit arithmetic, `constexpr`.
///
/// | type     | exponent, fraction, bias | infinity, NaN          | largest | smallest > 0 |
/// |----------|--------------------------|------------------------|---------|--------------|
/// | fp8_e4m3 | 4, 3, 7                  | none; NaN is S.1111.111 | 448     | 2⁻⁹          |
/// | fp8_e5m2 | 5, 2, 15                 | as in IEEE 754         | 57344   | 2⁻¹⁶         |
#pragma once

#include <bit>
#include <cstdint>

namespace kvfit {

/// Four exponent bits, three of fraction, as it lies in memory. Equality compares bits.
struct fp8_e4m3 {
  std::uint8_t bits = 0;
  friend constexpr bool operator==(fp8_e4m3, fp8_e4m3) = default;
};

/// Five exponent bits, two of fraction: the upper half of an fp16. Equality compares bits.
struct fp8_e5m2 {
  std::uint8_t bits = 0;
  friend constexpr bool operator==(fp8_e5m2, fp8_e5m2) = default;
};

static_assert(sizeof(fp8_e4m3) == 1 && sizeof(fp8_e5m2) == 1);

namespace detail {

/// Bits of the float that a finite, positive number of `fraction` and some exponent bits stands
/// for.
constexpr std::uint32_t widen_small(std::uint32_t magnitude, unsigned fraction,
                                    unsigned bias) noexcept {
  if (magnitude >> fraction != 0) return (magnitude << (23U - fraction)) + ((127U - bias) << 23U);
  // Subnormal: that many times 2^(1 − bias − fraction), whose float has no fraction bits.
  const float unit = std::bit_cast<float>((128U - bias - fraction) << 23U);
  return std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * unit);
}

/// The nearest number with `fraction` bits, ties to even, for a magnitude that is not far above
/// the largest; a carry may reach the codes above it.
constexpr std::uint32_t narrow_small(std::uint32_t magnitude, unsigned fraction,
                                     unsigned bias) noexcept {
  if (magnitude >= (128U - bias) << 23U) {
    const unsigned cut = 23U - fraction;
    const std::uint32_t odd = (magnitude >> cut) & 1U;
    return (magnitude + (1U << (cut - 1U)) - 1U + odd - ((127U - bias) << 23U)) >> cut;
  }
  // A float whose spacing is that of the subnormals, so the addition rounds for us.
  const auto spaced = std::bit_cast<float>((128U - bias - fraction + 23U) << 23U);
  const float shifted = std::bit_cast<float>(magnitude) + spaced;
  return std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(spaced);
}

}  // namespace detail

/// The number's value, exactly; NaN keeps its sign.
constexpr float to_float(fp8_e4m3 x) noexcept {
  const std::uint32_t sign = (x.bits & 0x80U) << 24U;
  const std::uint32_t magnitude = x.bits & 0x7FU;
  return std::bit_cast<float>(
      sign | (magnitude == 0x7FU ? 0x7FC00000U : detail::widen_small(magnitude, 3, 7)));
}

/// The number's value, exactly. NaN stays NaN: sign and payload kept, quiet bit set.
constexpr float to_float(fp8_e5m2 x) noexcept {
  const std::uint32_t sign = (x.bits & 0x80U) << 24U;
  const std::uint32_t magnitude = x.bits & 0x7FU;
  std::uint32_t wide = detail::widen_small(magnitude, 2, 15);
  if (magnitude >= 0x7CU) {
    wide = 0x7F800000U | ((magnitude & 3U) << 21U) | (magnitude > 0x7CU ? 0x00400000U : 0U);
  }
  return std::bit_cast<float>(sign | wide);
}

/// The nearest E4M3, ties to even; above 464, halfway to the number that would follow 448, NaN, as
/// the type has no infinity.
constexpr fp8_e4m3 to_fp8_e4m3(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  constexpr std::uint32_t most = 0x43E80000U;  // 464
  const std::uint32_t small = magnitude > most ? 0x7FU : detail::narrow_small(magnitude, 3, 7);
  return {static_cast<std::uint8_t>(((bits >> 24U) & 0x80U) | small)};
}

/// The nearest E5M2, ties to even; from 61440 on, infinity. NaN stays NaN: sign and the highest
/// payload bit but one kept, quiet bit set.
constexpr fp8_e5m2 to_fp8_e5m2(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t small = 0x7CU;
  if (magnitude > 0x7F800000U) {
    small = 0x7EU | ((magnitude >> 21U) & 1U);
  } else if (magnitude < 0x47800000U) {  // 2^16
    small = detail::narrow_small(magnitude, 2, 15);
  }
  return {static_cast<std::uint8_t>(((bits >> 24U) & 0x80U) | small)};
}

}  // namespace kvfit
