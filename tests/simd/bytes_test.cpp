// SPDX-License-Identifier: MIT
// fp8, int8, q8_0 and q4_0 to fp32: the bits that core/fp8.hpp and core/quantised.hpp specify.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kvfit/core/random.hpp"
#include "kvfit/simd/blocks.hpp"
#include "kvfit/simd/convert.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::index_t;

namespace {

bool is_same_float(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

/// Floats where `widened(x, y, n)` of n bytes from `start` on is not `value(byte)`, or is too much.
template <class Widened, class Value>
index_t wrong_bytes(Widened widened, Value value) {
  std::array<std::uint8_t, 256 + 3> bytes{};
  for (std::size_t k = 0; k < bytes.size(); ++k) bytes[k] = static_cast<std::uint8_t>(k);
  constexpr float untouched = 12345;
  index_t wrong = 0;
  for (std::size_t start = 0; start < 3; ++start) {
    for (index_t n = 0; n <= 256; ++n) {
      std::vector<float> y(static_cast<std::size_t>(n) + 1, untouched);
      widened(bytes.data() + start, y.data(), n);
      for (index_t k = 0; k < n; ++k) {
        const auto at = static_cast<std::size_t>(k);
        wrong += is_same_float(y[at], value(bytes[start + at])) ? 0 : 1;
      }
      wrong += y.back() == untouched ? 0 : 1;
    }
  }
  return wrong;
}

/// Blocks with every fp16 as a scale, NaN and infinity included, and random bytes.
template <class Block>
std::vector<Block> all_scales() {
  std::vector<Block> blocks(1U << 16U);
  kvfit::random_source random(5);
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    std::array<std::uint8_t, sizeof(Block)> bytes{};
    for (std::uint8_t& x : bytes) x = static_cast<std::uint8_t>(random.next());
    std::memcpy(&blocks[k], bytes.data(), sizeof(Block));
    blocks[k].scale.bits = static_cast<std::uint16_t>(k);
  }
  return blocks;
}

template <class Block>
index_t wrong_blocks(kvfit::dtype type) {
  const std::vector<Block> blocks = all_scales<Block>();
  std::vector<float> y(blocks.size() * 32);
  kvfit::simd::widen_blocks(type, blocks.data(), 0, static_cast<index_t>(y.size()), y.data());
  index_t wrong = 0;
  for (std::size_t k = 0; k < y.size(); ++k) {
    const float expected = element(blocks[k / 32], k % 32);
    // Which NaN a product of NaN is, is the processor's affair.
    const bool both_nan = std::isnan(y[k]) && std::isnan(expected);
    wrong += both_nan || is_same_float(y[k], expected) ? 0 : 1;
  }
  return wrong;
}

}  // namespace

TEST_CASE("Arrays of fp8 and int8 become floats as specified, at every length and alignment",
          "[simd][bytes]") {
  const auto widen = [](kvfit::dtype type) {
    return
        [type](const std::uint8_t* x, float* y, index_t n) { kvfit::simd::widen(type, x, y, n); };
  };
  CHECK(wrong_bytes(widen(kvfit::dtype::fp8_e4m3),
                    [](std::uint8_t bits) { return kvfit::to_float(kvfit::fp8_e4m3{bits}); }) == 0);
  CHECK(wrong_bytes(widen(kvfit::dtype::fp8_e5m2),
                    [](std::uint8_t bits) { return kvfit::to_float(kvfit::fp8_e5m2{bits}); }) == 0);
  const auto as_int8 = [](std::uint8_t bits) {
    return static_cast<float>(static_cast<std::int8_t>(bits));
  };
  CHECK(wrong_bytes(widen(kvfit::dtype::int8), as_int8) == 0);
  for (const float scale : {1.0F, -0.1F, 1e-40F, 3e37F, 0.0F}) {
    CAPTURE(scale);
    const auto scaled = [scale](kvfit::dtype type) {
      return [scale, type](const std::uint8_t* x, float* y, index_t n) {
        kvfit::simd::widen_scaled(type, x, scale, y, n);
      };
    };
    CHECK(wrong_bytes(scaled(kvfit::dtype::int8),
                      [&](std::uint8_t bits) { return as_int8(bits) * scale; }) == 0);
    CHECK(wrong_bytes(scaled(kvfit::dtype::fp8_e4m3), [&](std::uint8_t bits) {
            return kvfit::to_float(kvfit::fp8_e4m3{bits}) * scale;
          }) == 0);
    CHECK(wrong_bytes(scaled(kvfit::dtype::fp8_e5m2), [&](std::uint8_t bits) {
            return kvfit::to_float(kvfit::fp8_e5m2{bits}) * scale;
          }) == 0);
  }
}

TEST_CASE("Blocks of q8_0 and q4_0 become floats as specified, for every scale", "[simd][blocks]") {
  CHECK(wrong_blocks<kvfit::q8_0_block>(kvfit::dtype::q8_0) == 0);
  CHECK(wrong_blocks<kvfit::q4_0_block>(kvfit::dtype::q4_0) == 0);
}

TEST_CASE("Numbers of blocks may start and end anywhere", "[simd][blocks]") {
  const std::vector<kvfit::q4_0_block> all = all_scales<kvfit::q4_0_block>();
  const kvfit::q4_0_block* const blocks = all.data() + 0x3000;  // scales of sane size
  constexpr float untouched = 12345;
  index_t wrong = 0;
  for (index_t first = -40; first < 70; ++first) {
    for (index_t count = 0; count < 100; ++count) {
      std::vector<float> y(static_cast<std::size_t>(count) + 1, untouched);
      kvfit::simd::widen_blocks(kvfit::dtype::q4_0, blocks, first, count, y.data());
      for (index_t k = 0; k < count; ++k) {
        const index_t at = first + k + 64;  // two blocks before the start, too
        const float expected = element(blocks[at / 32 - 2], static_cast<std::size_t>(at % 32));
        wrong += is_same_float(y[static_cast<std::size_t>(k)], expected) ? 0 : 1;
      }
      wrong += y.back() == untouched ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace kvfit_test
