// SPDX-License-Identifier: MIT
/// Blocks of 32 numbers with one scale: q8_0 and q4_0 as ggml defines them (ggml-common.h,
/// ggml-quants.c of ggml-org/ggml), and groups of int8 and fp8 with scales elsewhere.
///
/// - q8_0, 34 bytes: fp16 scale, 32 × int8; element j is scale · q_j.
/// - q4_0, 18 bytes: fp16 scale, 16 bytes of two nibbles; element j is scale · (nibble − 8), the
///   nibble the low half of byte j for j < 16, else the high half of byte j − 16.
///
/// The functions here are the specification; simd/blocks.hpp must give these very bits. Products of
/// an fp16 and a byte are exact in fp32.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"

namespace kvfit {

/// Elements of a block of q8_0 or q4_0.
inline constexpr std::int64_t block_length = 32;

/// One block of q8_0.
struct q8_0_block {
  fp16 scale;
  std::array<std::int8_t, 32> numbers{};
  friend constexpr bool operator==(const q8_0_block&, const q8_0_block&) = default;
};

/// One block of q4_0.
struct q4_0_block {
  fp16 scale;
  std::array<std::uint8_t, 16> nibbles{};
  friend constexpr bool operator==(const q4_0_block&, const q4_0_block&) = default;
};

static_assert(sizeof(q8_0_block) == 34 && sizeof(q4_0_block) == 18);

/// Element j of a block, 0 ≤ j < 32.
constexpr float element(const q8_0_block& block, std::size_t j) noexcept {
  return to_float(block.scale) * static_cast<float>(block.numbers[j]);
}
constexpr float element(const q4_0_block& block, std::size_t j) noexcept {
  const auto pair = static_cast<unsigned>(block.nibbles[j % 16]);
  const int nibble = static_cast<int>(j < 16 ? pair & 15U : pair >> 4U);
  return to_float(block.scale) * static_cast<float>(nibble - 8);
}

/// What the number of greatest magnitude of a group is stored as, of a type with scales: 127 of
/// int8, the largest finite number of fp8 (448, 57344).
constexpr float largest_stored(dtype type) noexcept {
  if (type == dtype::fp8_e4m3) return 448;
  return type == dtype::fp8_e5m2 ? 57344 : 127;
}

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// 1 / scale, or 0 where that is no number: the scale is 0 or so small that its fp16 is.
inline float inverse(float scale) noexcept {
  const float inverse = 1.0F / scale;
  return std::isfinite(inverse) ? inverse : 0.0F;
}

inline float largest_magnitude(std::span<const float> x) noexcept {
  float largest = 0;
  for (const float value : x) largest = (std::max)(largest, std::abs(value));
  return largest;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// 32 finite numbers as q8_0, by ggml's reference: scale = max |x| / 127, q = x · (1 / scale)
/// rounded to nearest, ties away from 0. The scale overflows fp16 where max |x| ≥ 65520 · 127.
inline q8_0_block to_q8_0(std::span<const float, 32> x) noexcept {
  const float scale = detail::largest_magnitude(x) / 127.0F;
  const float inverse = detail::inverse(scale);
  q8_0_block block{.scale = to_fp16(scale)};
  for (std::size_t j = 0; j < 32; ++j) {
    block.numbers[j] = static_cast<std::int8_t>(std::round(x[j] * inverse));
  }
  return block;
}

/// 32 finite numbers as q4_0, by ggml's reference: scale = (the first number of greatest
/// magnitude) / −8, nibble = min(15, ⌊x · (1 / scale) + 8.5⌋). The scale overflows fp16 where
/// max |x| ≥ 65520 · 8.
inline q4_0_block to_q4_0(std::span<const float, 32> x) noexcept {
  float extreme = 0;
  for (const float value : x) {
    if (std::abs(value) > std::abs(extreme)) extreme = value;
  }
  const float scale = extreme / -8.0F;
  const float inverse = detail::inverse(scale);
  const auto nibble = [&](float value) {
    // The sum is rounded to fp32 once, as in the reference; in fp32 throughout, a compiler may fuse
    // product and sum.
    const auto sum = static_cast<float>(static_cast<double>(value * inverse) + 8.5);
    return static_cast<unsigned>((std::min)(15, static_cast<int>(sum)));
  };
  q4_0_block block{.scale = to_fp16(scale)};
  for (std::size_t j = 0; j < 16; ++j) {
    block.nibbles[j] = static_cast<std::uint8_t>(nibble(x[j]) | (nibble(x[j + 16]) << 4U));
  }
  return block;
}

/// The scale that a group of a type with scales is given, to be stored in `scale_type`:
/// max |x| / largest_stored(type), but no less than keeps small numbers. fp8 has exponents of its
/// own and gets a normal scale; a subnormal one of int8 is rounded up, so that nothing is clamped
/// and only 0 has the scale 0.
inline float scale_of(dtype type, dtype scale_type, float largest_magnitude) noexcept {
  const bool is_half = scale_type == dtype::fp16;
  const float normal = is_half ? 0x1p-14F : 0x1p-126F;
  const float scale = largest_magnitude / largest_stored(type);
  if (scale >= normal || !(largest_magnitude > 0)) return scale;
  if (type != dtype::int8) return normal;
  return is_half ? std::ceil(scale * 0x1p24F) * 0x1p-24F : (std::max)(scale, 0x1p-149F);
}

/// x / scale in fp32; 0 where both, or the scale as it is stored, are 0.
inline float over_scale(float x, float scale) noexcept {
  return scale == 0 ? 0.0F : x / scale;
}

/// The byte of a type with scales for x, which was divided by its scale: to nearest, ties of int8
/// away from 0 and of fp8 to even. |x| must not exceed the type's largest number by half a step.
inline std::uint8_t to_byte(dtype type, float x) noexcept {
  if (type == dtype::fp8_e4m3) return to_fp8_e4m3(x).bits;
  if (type == dtype::fp8_e5m2) return to_fp8_e5m2(x).bits;
  return static_cast<std::uint8_t>(static_cast<std::int8_t>(std::round(x)));
}

/// The number that a byte of a type with scales stands for, without its scale.
inline float of_byte(dtype type, std::uint8_t byte) noexcept {
  if (type == dtype::fp8_e4m3) return to_float(fp8_e4m3{byte});
  if (type == dtype::fp8_e5m2) return to_float(fp8_e5m2{byte});
  return static_cast<float>(static_cast<std::int8_t>(byte));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
