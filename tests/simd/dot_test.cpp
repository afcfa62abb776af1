// SPDX-License-Identifier: MIT
#include "kvfit/simd/dot.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::simd::dot;
using kvfit::simd::dot32;
using kvfit::simd::lanes;
using kvfit::test::most;
using kvfit::test::row;

struct reference {
  double value = 0.0;      ///< sum of products
  double magnitude = 0.0;  ///< sum of their absolute values
};

reference exact_dot(const std::vector<float>& x, const std::vector<float>& y) {
  reference sum;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double product = static_cast<double>(x[i]) * static_cast<double>(y[i]);
    sum.value += product;
    sum.magnitude += std::abs(product);
  }
  return sum;
}

TEST_CASE("dot and dot32 keep their error bounds at any offset and length", "[simd]") {
  const std::vector<float> xs = kvfit::test::normal_values(most, 3.0f, 5);
  const std::vector<float> ys = kvfit::test::normal_values(most, 2.0f, 6);
  constexpr float outside = std::numeric_limits<float>::quiet_NaN();  // shows if it is read
  bool within = true;
  bool same_at_any_offset = true;
  for (index_t n = 0; n <= most; ++n) {
    const std::vector<float> x_head(xs.begin(), xs.begin() + n);
    const std::vector<float> y_head(ys.begin(), ys.begin() + n);
    const reference exact = exact_dot(x_head, y_head);
    const double first = dot(x_head.data(), y_head.data(), n);
    for (index_t offset = 0; offset < lanes; ++offset) {
      row<float> x(x_head, offset, outside);
      row<float> y(y_head, (offset * 5) % lanes, outside);
      const double wide = dot(x.data(), y.data(), n);
      const auto narrow = static_cast<double>(dot32(x.data(), y.data(), n));
      const double unit = 0x1p-24 * exact.magnitude;
      within = within && std::abs(wide - exact.value) <= 30 * unit;
      within = within && std::abs(narrow - exact.value) <= 13 * unit;
      same_at_any_offset = same_at_any_offset && wide == first;
    }
  }
  CHECK(within);
  CHECK(same_at_any_offset);
}

TEST_CASE("dot of whole numbers is exact on both sides of a block border", "[simd]") {
  for (index_t n : {64 * lanes - 1, 64 * lanes, 64 * lanes + 1, 200 * lanes + 3}) {
    std::vector<float> x;
    std::vector<float> y;
    for (index_t i = 0; i < n; ++i) {
      x.push_back(static_cast<float>(i % 7 - 3));
      y.push_back(static_cast<float>(i % 5 - 1));
    }
    INFO(n);
    CHECK(dot(x.data(), y.data(), n) == exact_dot(x, y).value);
    CHECK(static_cast<double>(dot32(x.data(), y.data(), n)) == exact_dot(x, y).value);
  }
}

TEST_CASE("dot does not lose digits with length", "[simd]") {
  constexpr index_t n = 1'000'001;
  const std::vector<float> x = kvfit::test::normal_values(n, 1.0f, 7);
  const reference exact = exact_dot(x, x);
  const double error = std::abs(dot(x.data(), x.data(), n) / exact.value - 1.0);
  const double error32 =
      std::abs(static_cast<double>(dot32(x.data(), x.data(), n)) / exact.value - 1.0);
  INFO("relative error " << error << ", in fp32 " << error32);
  CHECK(error < 30 * 0x1p-24);
  CHECK(error32 < 1e-3);
}

TEST_CASE("dot of nothing is zero, and infinity and NaN come through", "[simd]") {
  CHECK(dot(nullptr, nullptr, 0) == 0.0);
  CHECK(dot32(nullptr, nullptr, 0) == 0.0f);
  for (index_t n = 1; n <= most; ++n) {
    INFO(n);
    std::vector<float> x(static_cast<std::size_t>(n), 1.0f);
    const std::vector<float> y = x;
    x.back() = std::numeric_limits<float>::infinity();
    REQUIRE(std::isinf(dot(x.data(), y.data(), n)));
    x.front() = std::numeric_limits<float>::quiet_NaN();
    REQUIRE(std::isnan(dot(x.data(), y.data(), n)));
    REQUIRE(std::isnan(dot32(x.data(), y.data(), n)));
  }
}

TEST_CASE("square_sum32 and largest_product follow their definitions at any offset and length",
          "[simd]") {
  const std::vector<float> xs = kvfit::test::normal_values(most, 3.0f, 15);
  const std::vector<float> ys = kvfit::test::normal_values(most, 2.0f, 16);
  constexpr float outside = std::numeric_limits<float>::quiet_NaN();  // shows if it is read
  bool within = true;
  bool same_at_any_offset = true;
  for (index_t n = 0; n <= most; ++n) {
    const std::vector<float> x_head(xs.begin(), xs.begin() + n);
    const std::vector<float> y_head(ys.begin(), ys.begin() + n);
    double squares = 0.0;
    float largest = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < x_head.size(); ++i) {
      const double product = static_cast<double>(x_head[i]) * static_cast<double>(y_head[i]);
      squares += product * product;
      largest = std::max(largest, x_head[i] * y_head[i]);
    }
    const float first = kvfit::simd::square_sum32(x_head.data(), y_head.data(), n);
    within = within && std::abs(static_cast<double>(first) - squares) <= 0x1p-19 * squares;
    for (index_t offset = 0; offset < lanes; ++offset) {
      row<float> x(x_head, offset, outside);
      row<float> y(y_head, (offset * 5) % lanes, outside);
      same_at_any_offset =
          same_at_any_offset && kvfit::simd::square_sum32(x.data(), y.data(), n) == first;
      within = within && kvfit::simd::largest_product(x.data(), y.data(), n) == largest;
    }
  }
  CHECK(within);
  CHECK(same_at_any_offset);
}

TEST_CASE("largest_product passes over NaN", "[simd]") {
  const std::vector<float> x = {std::numeric_limits<float>::quiet_NaN(), -4.0f, -2.0f};
  const std::vector<float> y = {1.0f, 1.0f, 1.0f};
  CHECK(kvfit::simd::largest_product(x.data(), y.data(), 3) == -2.0f);
}

}  // namespace
