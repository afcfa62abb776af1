// SPDX-License-Identifier: MIT
#include "kvfit/simd/soft_cap.hpp"

#include <cmath>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::simd::lanes;
using kvfit::test::a_nan;
using kvfit::test::bits;
using kvfit::test::inf;
using kvfit::test::most;
using kvfit::test::row;

float capped(float x, float cap) {
  kvfit::simd::soft_cap(&x, cap, 1);
  return x;
}

}  // namespace

TEST_CASE("the hyperbolic tangent is off by at most 2^-22 of itself", "[simd][soft_cap]") {
  double worst = 0;
  for (std::uint32_t pattern = 0x20000000U; pattern < 0x42000000U; pattern += 9973U) {
    const float x = kvfit::test::float_of(pattern);
    const double exact = std::tanh(static_cast<double>(x));
    worst = std::max(worst, std::abs(static_cast<double>(capped(x, 1)) - exact) / exact);
    CHECK(capped(-x, 1) == -capped(x, 1));
  }
  CHECK(worst < 0x1p-22);
  CHECK(capped(inf, 1) == 1);
  CHECK(capped(-inf, 1) == -1);
  CHECK(std::isnan(capped(a_nan, 1)));
  CHECK(bits(capped(-0.0F, 1)) == bits(-0.0F));
}

TEST_CASE("a soft cap bends logits below it, with their slopes, the same bytes at any offset",
          "[simd][soft_cap]") {
  const std::vector<float> all = kvfit::test::normal_values(most, 60.0F, 11);
  for (index_t offset = 0; offset < lanes; ++offset) {
    for (index_t n = 0; n <= most; ++n) {
      const std::vector<float> given(all.begin(), all.begin() + n);
      row<float> x(given, offset, 7.0F);
      row<float> with_slopes(given, (offset * 3) % lanes, 7.0F);
      row<float> slopes(n, (offset * 5) % lanes, 7.0F);
      kvfit::simd::soft_cap(x.data(), 30, n);
      kvfit::simd::soft_cap(with_slopes.data(), slopes.data(), 30, n);
      bool same = x.borders_intact() && with_slopes.borders_intact() && slopes.borders_intact();
      for (index_t i = 0; i < n; ++i) {
        const float alone = given[static_cast<std::size_t>(i)];
        same = same && bits(x[i]) == bits(capped(alone, 30));
        same = same && bits(with_slopes[i]) == bits(x[i]);
        const double bent = std::tanh(static_cast<double>(alone) / 30);
        same = same && std::abs(static_cast<double>(x[i]) - 30 * bent) <= 0x1p-21 * 30;
        same = same && std::abs(static_cast<double>(slopes[i]) - (1 - bent * bent)) <= 0x1p-21;
      }
      CHECK(same);
    }
  }
}
