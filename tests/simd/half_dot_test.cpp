// SPDX-License-Identifier: MIT
#include "kvfit/simd/half_dot.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kvfit/core/element.hpp"
#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::simd::half_words;
using kvfit::simd::lanes;

/// `x` rounded one by one, as a row of words, zeros behind.
std::vector<std::uint32_t> packed_halves(const std::vector<float>& x) {
  std::vector<std::uint32_t> words(
      static_cast<std::size_t>(half_words(static_cast<index_t>(x.size()))), 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const kvfit::bf16 half = kvfit::to_bf16(x[i]);
    std::memcpy(reinterpret_cast<std::byte*>(words.data()) + 2 * i, &half, sizeof half);
  }
  return words;
}

TEST_CASE("products of rows in bf16 keep their error bound at any length", "[simd][half_dot]") {
  const std::vector<float> xs = kvfit::test::normal_values(kvfit::test::most, 3.0F, 15);
  const std::vector<float> ys = kvfit::test::normal_values(kvfit::test::most, 2.0F, 16);
  for (index_t n = 0; n <= kvfit::test::most; ++n) {
    const std::vector<float> x(xs.begin(), xs.begin() + n);
    const auto words = packed_halves(x);
    const auto count = static_cast<index_t>(words.size());
    std::vector<float> split(2 * words.size(), std::numeric_limits<float>::quiet_NaN());
    kvfit::simd::split_for_halves(ys.data(), n, split.data());
    double exact = 0;
    double magnitude = 0;
    for (index_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double product =
          static_cast<double>(kvfit::to_float(kvfit::to_bf16(x[at]))) * static_cast<double>(ys[at]);
      exact += product;
      magnitude += std::abs(product);
    }
    INFO("n " << n);
    const double allowed =
        (static_cast<double>(count) / (2.0 * static_cast<double>(lanes)) + 12) * 0x1p-24;
    const float got = kvfit::simd::half_dot(words.data(), split.data(), count, words.data());
    REQUIRE(std::abs(static_cast<double>(got) - exact) <= allowed * magnitude);
  }
}

TEST_CASE("rounding to bf16 says what it took, and touches nothing else", "[simd][half_dot]") {
  const std::vector<float> xs = kvfit::test::normal_values(kvfit::test::most, 3.0F, 17);
  const std::vector<float> factors = kvfit::test::normal_values(kvfit::test::most, 1.0F, 18);
  for (index_t n = 0; n <= kvfit::test::most; ++n) {
    std::vector<kvfit::bf16> rounded(static_cast<std::size_t>(n) + 2, kvfit::bf16{0x1234});
    const float lost =
        kvfit::simd::round_to_halves(xs.data(), factors.data(), n, rounded.data() + 1);
    double expected = 0;
    bool is_rounded = true;
    for (index_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      is_rounded = is_rounded && rounded[at + 1] == kvfit::to_bf16(xs[at]);
      const double off = (static_cast<double>(xs[at]) -
                          static_cast<double>(kvfit::to_float(kvfit::to_bf16(xs[at])))) *
                         static_cast<double>(factors[at]);
      expected += off * off;
    }
    INFO("n " << n);
    REQUIRE(is_rounded);
    REQUIRE(rounded.front() == kvfit::bf16{0x1234});
    REQUIRE(rounded.back() == kvfit::bf16{0x1234});
    const double allowed = (static_cast<double>(n / lanes) + 16) * 0x1p-24;
    REQUIRE(std::abs(static_cast<double>(lost) - expected) <= allowed * expected);
  }
}

}  // namespace
