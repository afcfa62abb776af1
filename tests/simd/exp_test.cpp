// SPDX-License-Identifier: MIT
#include "kvfit/simd/exp.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::test::a_nan;
using kvfit::test::bits;
using kvfit::test::float_of;
using kvfit::test::inf;
using kvfit::test::most;
using kvfit::test::row;

float exp_of(float x) {
  kvfit::simd::exp(&x, &x, 1);
  return x;
}

/// The worst error in units of the last place among the normal results; `wrong` counts results that
/// should have been 0 or +inf and are not.
struct accuracy {
  double worst = 0.0;
  float at = 0.0f;
  index_t wrong = 0;

  void check(const std::vector<float>& x) {
    std::vector<float> y(x.size());
    kvfit::simd::exp(x.data(), y.data(), static_cast<index_t>(x.size()));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      if (exact < 0x1p-126) {
        wrong += y[i] != 0.0f;
      } else if (exact >= 0x1.ffffffp+127) {
        wrong += y[i] != inf;
      } else {
        const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
        const double error = std::abs(static_cast<double>(y[i]) - exact) / unit;
        if (!(error <= worst)) {
          worst = error;
          at = x[i];
        }
      }
    }
  }
};

TEST_CASE("exp is within the documented error wherever the result is normal", "[simd]") {
  accuracy measured;
  std::vector<float> x;
  constexpr std::uint32_t stride = 241;  // of the 275 million floats of each sign
  for (std::uint32_t sign : {0x00000000u, 0x80000000u}) {
    for (std::uint32_t b = bits(0x1p-26f); b < bits(110.0f); b += stride) {
      x.push_back(float_of(sign | b));
      if (x.size() == 4096) {
        measured.check(x);
        x.clear();
      }
    }
  }
  measured.check(x);
  INFO("worst error " << measured.worst << " ulp at " << measured.at);
  CHECK(measured.worst < 1.2);
  CHECK(measured.wrong == 0);
}

TEST_CASE("exp turns from normal to zero and to infinity at the right floats", "[simd]") {
  accuracy measured;
  for (float border : {-87.33654f, 88.72283f}) {
    std::vector<float> x;
    for (std::uint32_t b = bits(border) - 5000; b < bits(border) + 5000; ++b) {
      x.push_back(float_of(b));
    }
    measured.check(x);
  }
  INFO("worst error " << measured.worst << " ulp at " << measured.at);
  CHECK(measured.worst < 1.2);
  CHECK(measured.wrong == 0);
}

TEST_CASE("exp handles zeros, subnormals, infinities, huge arguments and NaN", "[simd]") {
  CHECK(exp_of(0.0f) == 1.0f);
  CHECK(exp_of(-0.0f) == 1.0f);
  CHECK(exp_of(0x1p-149f) == 1.0f);
  CHECK(exp_of(-0x1p-149f) == 1.0f);
  CHECK(bits(exp_of(-inf)) == bits(0.0f));
  CHECK(exp_of(inf) == inf);
  for (float huge : {89.0f, 128.0f, 177.5f, 1e4f, 1e10f, 1e30f, 3.4e38f}) {
    INFO(huge);
    CHECK(exp_of(huge) == inf);
    CHECK(bits(exp_of(-huge)) == bits(0.0f));
  }
  for (std::uint32_t payload : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0x7fffffffu, 0xff812345u}) {
    INFO(payload);
    CHECK(std::isnan(exp_of(float_of(payload))));
  }
}

TEST_CASE("exp gives an element the same bytes at any place, offset and length", "[simd]") {
  std::vector<float> values = kvfit::test::normal_values(most, 30.0f, 1);
  values[1] = -inf;
  values[2] = a_nan;
  values[3] = inf;
  values[static_cast<std::size_t>(most) - 1] = -100.0f;
  std::vector<std::uint32_t> alone;
  for (float value : values) alone.push_back(bits(exp_of(value)));

  bool same = true;
  bool intact = true;
  for (index_t offset = 0; offset < kvfit::simd::lanes; ++offset) {
    for (index_t n = 0; n <= most; ++n) {
      const std::vector<float> head(values.begin(), values.begin() + n);
      row<float> x(head, offset, 7.0f);
      row<float> y(n, (offset * 3) % kvfit::simd::lanes, 7.0f);
      kvfit::simd::exp(x.data(), y.data(), n);
      for (index_t i = 0; i < n; ++i)
        same = same && bits(y[i]) == alone[static_cast<std::size_t>(i)];
      kvfit::simd::exp(x.data(), x.data(), n);  // in place
      for (index_t i = 0; i < n; ++i)
        same = same && bits(x[i]) == alone[static_cast<std::size_t>(i)];
      intact = intact && x.borders_intact() && y.borders_intact();
    }
  }
  CHECK(same);
  CHECK(intact);
}

}  // namespace
