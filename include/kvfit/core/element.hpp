// SPDX-License-Identifier: MIT
/// How numbers are stored, and fp32, fp16 and bf16 with their exact conversions to and from
/// `float`.
///
/// The conversions here are the specification. They are plain bit arithmetic, `constexpr`, the same
/// on every machine; the array versions in simd/convert.hpp must give these very bits.
///
/// | type | sign, exponent, fraction bits | largest finite | smallest normal | smallest > 0 |
/// |------|-------------------------------|----------------|-----------------|--------------|
/// | fp32 | 1, 8, 23                      | 3.4e38         | 1.2e-38         | 1.4e-45      |
/// | fp16 | 1, 5, 10                      | 65504          | 6.1e-5          | 6.0e-8       |
/// | bf16 | 1, 8, 7                       | 3.4e38         | 1.2e-38         | 9.2e-41      |
#pragma once

#include <Eigen/Core>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "kvfit/core/fp8.hpp"

namespace kvfit {

/// IEEE 754 binary16 as it lies in memory. Equality compares bits.
struct fp16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(fp16, fp16) = default;
};

/// The upper half of a binary32 as it lies in memory. Equality compares bits.
struct bf16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(bf16, bf16) = default;
};

/// How numbers are stored: each on its own (the first five), in blocks of 32 with a scale before
/// them (q8_0, q4_0; core/quantised.hpp), as bytes whose scales lie elsewhere (int8), or so that
/// only a function of the caller can tell (decoded).
enum class dtype : std::uint8_t {
  fp32,
  fp16,
  bf16,
  fp8_e4m3,
  fp8_e5m2,
  q8_0,
  q4_0,
  int8,
  decoded,
};

/// Whether each number stands on its own, so that it can be read without any other.
constexpr bool is_number(dtype type) noexcept {
  return type <= dtype::fp8_e5m2;
}

/// Whether numbers stand in blocks of 32 along the contiguous direction of memory.
constexpr bool is_block(dtype type) noexcept {
  return type == dtype::q8_0 || type == dtype::q4_0;
}

/// Whether numbers may be multiplied by scales that lie elsewhere: int8 always are, fp8 where there
/// are any.
constexpr bool takes_scales(dtype type) noexcept {
  return type == dtype::int8 || type == dtype::fp8_e4m3 || type == dtype::fp8_e5m2;
}

/// Bytes of one number, of one block, or of one int8 without its scale; 0 for `decoded`.
constexpr std::size_t size_of(dtype type) noexcept {
  constexpr std::array<std::size_t, 9> sizes = {4, 2, 2, 1, 1, 34, 18, 1, 0};
  const auto place = static_cast<std::size_t>(type);
  return place < sizes.size() ? sizes[place] : 0;
}

/// As written above: "fp32".
constexpr std::string_view name(dtype type) noexcept {
  constexpr std::array<std::string_view, 9> names = {"fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2",
                                                     "q8_0", "q4_0", "int8", "decoded"};
  const auto place = static_cast<std::size_t>(type);
  return place < names.size() ? names[place] : "unknown";
}

// clang-format off
/// A C++ type of a number that a `dtype` describes, const or not.
template <class T>
concept storable =
    std::same_as<std::remove_cv_t<T>, float> || std::same_as<std::remove_cv_t<T>, fp16> ||
    std::same_as<std::remove_cv_t<T>, bf16> || std::same_as<std::remove_cv_t<T>, Eigen::half> ||
    std::same_as<std::remove_cv_t<T>, Eigen::bfloat16> ||
    std::same_as<std::remove_cv_t<T>, fp8_e4m3> || std::same_as<std::remove_cv_t<T>, fp8_e5m2>;
// clang-format on

/// The `dtype` of a C++ type: `dtype_of<Eigen::half> == dtype::fp16`.
template <storable T>
inline constexpr dtype dtype_of = [] {
  using type = std::remove_cv_t<T>;
  if constexpr (std::same_as<type, float>) return dtype::fp32;
  if constexpr (std::same_as<type, fp16> || std::same_as<type, Eigen::half>) return dtype::fp16;
  if constexpr (std::same_as<type, bf16> || std::same_as<type, Eigen::bfloat16>) return dtype::bf16;
  if constexpr (std::same_as<type, fp8_e4m3>) return dtype::fp8_e4m3;
  if constexpr (std::same_as<type, fp8_e5m2>) return dtype::fp8_e5m2;
}();

static_assert(sizeof(fp16) == 2 && sizeof(bf16) == 2 && sizeof(float) == 4);
static_assert(sizeof(Eigen::half) == 2 && sizeof(Eigen::bfloat16) == 2);

/// The value itself. Lets generic code write `to_float(x)` for every storage type.
constexpr float to_float(float x) noexcept {
  return x;
}

/// The fp16's value, exactly. NaN stays NaN: sign and payload kept, quiet bit set.
constexpr float to_float(fp16 x) noexcept {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const std::uint32_t fraction = x.bits & 0x3ffu;
  std::uint32_t magnitude = 0;
  if (exponent == 0x1fu) {  // infinity, NaN
    magnitude = 0x7f800000u | (fraction << 13) | (fraction != 0 ? 0x00400000u : 0u);
  } else if (exponent != 0) {
    magnitude = ((exponent + 112u) << 23) | (fraction << 13);  // 112 = 127 - 15, the biases
  } else {                                                     // subnormal in fp16, normal in fp32
    magnitude = std::bit_cast<std::uint32_t>(static_cast<float>(fraction) * 0x1p-24f);
  }
  return std::bit_cast<float>(sign | magnitude);
}

/// The bf16's value, exactly; even the bits of a signalling NaN are kept.
constexpr float to_float(bf16 x) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

/// The nearest fp16, ties to even; from 65520 on, infinity. NaN stays NaN: sign and the upper
/// payload bits kept, quiet bit set.
constexpr fp16 to_fp16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {  // NaN
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x47800000u) {  // 2^16 and more
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14 and more: normal; a carry may reach infinity
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    half = (rounded - 0x38000000u) >> 13;
  } else {  // 0.5 has the spacing 2^-24 of fp16's subnormals, so the addition rounds for us
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    half = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5f);
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

/// The nearest bf16, ties to even; beyond the largest finite, infinity. NaN stays NaN: sign and the
/// upper payload bits kept, quiet bit set.
constexpr bf16 to_bf16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = is_nan ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<std::uint16_t>(rounded >> 16)};
}

/// The nearest number of a type that is one of `is_number`, as fp32: infinite, or NaN of fp8_e4m3,
/// where x does not fit.
constexpr float as_stored(float x, dtype type) noexcept {
  switch (type) {
    case dtype::fp16:
      return to_float(to_fp16(x));
    case dtype::bf16:
      return to_float(to_bf16(x));
    case dtype::fp8_e4m3:
      return to_float(to_fp8_e4m3(x));
    case dtype::fp8_e5m2:
      return to_float(to_fp8_e5m2(x));
    default:
      return x;
  }
}

}  // namespace kvfit
