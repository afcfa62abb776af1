// SPDX-License-Identifier: MIT
// The conversions of core/element.hpp are what simd/convert.hpp is held to, so they are tested
// here.
#include "kvfit/core/element.hpp"

#include <cmath>
#include <limits>
#include <random>

#include "simd/row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::bf16;
using kvfit::dtype;
using kvfit::fp16;
using kvfit::to_bf16;
using kvfit::to_float;
using kvfit::to_fp16;
using kvfit::test::bits;
using kvfit::test::float_of;

/// The value of a small float from the definition: (-1)^s 2^e (1 + f), or 2^e_min f.
double defined_value(unsigned pattern, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto fraction = static_cast<double>(pattern & ((1u << fraction_bits) - 1u));
  const int exponent = static_cast<int>(pattern >> fraction_bits) & ((1 << exponent_bits) - 1);
  const double sign = (pattern & 0x8000u) != 0 ? -1.0 : 1.0;
  const double part = std::ldexp(fraction, -fraction_bits);
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(part, 1 - bias);
  return sign * std::ldexp(1.0 + part, exponent - bias);
}

/// Whether y is the nearest element to x, with ties to the even pattern. Neighbours of a magnitude
/// are the neighbouring patterns; infinity stands where the next power of two would.
template <class Half>
bool is_nearest(double x, Half y, double infinity_as) {
  const unsigned magnitude = y.bits & 0x7fffu;
  const auto value = [=](unsigned pattern) {
    const double v = static_cast<double>(to_float(Half{static_cast<std::uint16_t>(pattern)}));
    return std::isinf(v) ? infinity_as : v;
  };
  const double error = std::abs(std::abs(x) - value(magnitude));
  const bool is_infinite = std::isinf(to_float(Half{static_cast<std::uint16_t>(magnitude)}));
  const double below = magnitude == 0 ? 1e300 : std::abs(std::abs(x) - value(magnitude - 1));
  const double above = is_infinite ? 1e300 : std::abs(std::abs(x) - value(magnitude + 1));
  const bool even = magnitude % 2 == 0;
  if (std::abs(x) > infinity_as) return is_infinite;
  return even ? error <= below && error <= above : error < below && error < above;
}

constexpr bool is_nan_pattern(fp16 x) {
  return (x.bits & 0x7fffu) > 0x7c00u;
}
constexpr bool is_nan_pattern(bf16 x) {
  return (x.bits & 0x7fffu) > 0x7f80u;
}

static_assert(to_fp16(1.0f).bits == 0x3c00 && to_float(fp16{0x3c00}) == 1.0f);
static_assert(to_bf16(1.0f).bits == 0x3f80 && to_float(bf16{0x3f80}) == 1.0f);
static_assert(kvfit::dtype_of<float> == dtype::fp32);
static_assert(kvfit::dtype_of<const fp16> == dtype::fp16);
static_assert(kvfit::dtype_of<Eigen::half> == dtype::fp16);
static_assert(kvfit::dtype_of<bf16> == dtype::bf16);
static_assert(kvfit::dtype_of<const Eigen::bfloat16> == dtype::bf16);
static_assert(!kvfit::storable<double> && !kvfit::storable<std::uint16_t>);

TEST_CASE("every fp16 and bf16 becomes the float it stands for", "[core][element]") {
  unsigned wrong = 0;
  for (unsigned pattern = 0; pattern < 0x10000u; ++pattern) {
    const fp16 half{static_cast<std::uint16_t>(pattern)};
    const bf16 brain{static_cast<std::uint16_t>(pattern)};
    const double half_value = defined_value(pattern, 5, 10);
    const double brain_value = defined_value(pattern, 8, 7);
    if (is_nan_pattern(half)) {
      wrong += !(std::isnan(to_float(half)) && std::isnan(half_value));
    } else {
      wrong += bits(to_float(half)) != bits(static_cast<float>(half_value));
    }
    if (is_nan_pattern(brain)) {
      wrong += !(std::isnan(to_float(brain)) && std::isnan(brain_value));
    } else {
      wrong += bits(to_float(brain)) != bits(static_cast<float>(brain_value));
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("§9.22 every fp16 and bf16, those beyond 65504 too, survives the way through float",
          "[core][element]") {
  unsigned wrong = 0;
  for (unsigned pattern = 0; pattern < 0x10000u; ++pattern) {
    const fp16 half{static_cast<std::uint16_t>(pattern)};
    const bf16 brain{static_cast<std::uint16_t>(pattern)};
    const unsigned quiet_half = is_nan_pattern(half) ? pattern | 0x0200u : pattern;
    const unsigned quiet_brain = is_nan_pattern(brain) ? pattern | 0x0040u : pattern;
    wrong += to_fp16(to_float(half)).bits != quiet_half;
    wrong += to_bf16(to_float(brain)).bits != quiet_brain;
  }
  CHECK(wrong == 0);
}

TEST_CASE("floats go to the nearest fp16 and bf16, ties to even", "[core][element]") {
  unsigned wrong = 0;
  const auto check = [&wrong](float x) {
    wrong += !is_nearest(static_cast<double>(x), to_fp16(x), 65536.0);
    wrong += !is_nearest(static_cast<double>(x), to_bf16(x), 0x1p+128);
    wrong += std::signbit(x) != ((to_fp16(x).bits & 0x8000u) != 0);
    wrong += std::signbit(x) != ((to_bf16(x).bits & 0x8000u) != 0);
  };
  for (std::uint32_t b = 0; b < 0x7f800000u; b += 20011) {
    check(float_of(b));
    check(float_of(b | 0x80000000u));
  }
  for (unsigned pattern = 0; pattern < 0x7c00u; ++pattern) {  // ties of fp16 and their neighbours
    const auto next = static_cast<std::uint16_t>(pattern + 1);
    const float low = to_float(fp16{static_cast<std::uint16_t>(pattern)});
    const float high = next == 0x7c00u ? 65536.0f : to_float(fp16{next});
    const float tie = low + (high - low) / 2;
    for (float x : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)}) check(x);
  }
  for (std::uint32_t pattern = 0; pattern < 0x7f80u; pattern += 3) {  // and of bf16
    for (std::uint32_t b : {0x7fffu, 0x8000u, 0x8001u}) check(float_of(pattern << 16 | b));
  }
  CHECK(wrong == 0);
}

TEST_CASE("overflow becomes infinity and NaN stays NaN", "[core][element]") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  CHECK(to_fp16(65504.0f).bits == 0x7bff);
  CHECK(to_fp16(std::nextafter(65520.0f, 0.0f)).bits == 0x7bff);
  CHECK(to_fp16(65520.0f).bits == 0x7c00);
  CHECK(to_fp16(-1e30f).bits == 0xfc00);
  CHECK(to_fp16(inf).bits == 0x7c00);
  CHECK(to_fp16(0x1p-25f).bits == 0x0000);
  CHECK(to_fp16(-0x1.000002p-25f).bits == 0x8001);
  CHECK(to_bf16(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(to_bf16(-inf).bits == 0xff80);
  for (std::uint32_t pattern : {0x7fc00000u, 0x7f800001u, 0xffffffffu, 0xff800001u, 0x7fbfffffu}) {
    INFO(pattern);
    CHECK(std::isnan(to_float(to_fp16(float_of(pattern)))));
    CHECK(std::isnan(to_float(to_bf16(float_of(pattern)))));
  }
}

TEST_CASE("element types know their size and name", "[core][element]") {
  CHECK(kvfit::size_of(dtype::fp32) == 4);
  CHECK(kvfit::size_of(dtype::fp16) == 2);
  CHECK(kvfit::size_of(dtype::bf16) == 2);
  CHECK(kvfit::name(dtype::fp32) == "fp32");
  CHECK(kvfit::name(dtype::fp16) == "fp16");
  CHECK(kvfit::name(dtype::bf16) == "bf16");
}

}  // namespace
