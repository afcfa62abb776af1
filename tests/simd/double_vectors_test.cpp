// SPDX-License-Identifier: MIT
#include "kvfit/simd/double_vectors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"

namespace {

using kvfit::index_t;

std::vector<double> numbers(index_t n, double first) {
  std::vector<double> out(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) {
    out[static_cast<std::size_t>(i)] = first + std::sin(static_cast<double>(7 * i));
  }
  return out;
}

}  // namespace

TEST_CASE("sums over doubles agree with long double at every length", "[double_vectors]") {
  for (index_t n = 0; n < 70; ++n) {
    const std::vector<double> x = numbers(n, 0.3);
    const std::vector<double> y = numbers(n, -0.7);
    long double products = 0;
    long double sizes = 0;
    double most = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      products += static_cast<long double>(x[i]) * static_cast<long double>(y[i]);
      sizes += std::abs(static_cast<long double>(x[i]) * static_cast<long double>(y[i]));
      most = std::max(most, std::abs(x[i]));
    }
    const double allowed = 1e-15 * static_cast<double>(sizes);
    CHECK(std::abs(kvfit::simd::dot(x.data(), y.data(), n) - static_cast<double>(products)) <=
          allowed);
    CHECK(kvfit::simd::squared_norm(x.data(), n) == kvfit::simd::dot(x.data(), x.data(), n));
    CHECK(kvfit::simd::largest_size(x.data(), n) == most);
  }
}

TEST_CASE("floats are squared and added in double, beyond what fp32 holds", "[double_vectors]") {
  for (index_t n = 0; n < 70; ++n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    double squares = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(std::sin(static_cast<double>(3 * i + 1))) *
             (i % 2 == 0 ? 1e30F : 1e-30F);
      squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    CHECK(std::abs(kvfit::simd::squared_norm(x.data(), n) - squares) <= 1e-14 * squares);
    const std::vector<float> tiny(static_cast<std::size_t>(n), 1e-30F);
    CHECK(std::abs(kvfit::simd::squared_norm(tiny.data(), n) - 1e-60 * static_cast<double>(n)) <=
          1e-66 * static_cast<double>(n));
  }
}

TEST_CASE("updates of doubles change n numbers and no more", "[double_vectors]") {
  for (index_t n = 0; n < 40; ++n) {
    const std::vector<double> x = numbers(n, 0.1);
    std::vector<double> y = numbers(n, 2);
    y.push_back(5);
    const std::vector<double> before = y;
    kvfit::simd::add_scaled(y.data(), -1.5, x.data(), n);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = before[i] - 1.5 * x[i];
      CHECK(std::abs(y[i] - exact) <= 1e-15 * (std::abs(before[i]) + std::abs(x[i])));
    }
    kvfit::simd::scale(y.data(), 0.5, n);
    CHECK(y.back() == 5);
  }
}

TEST_CASE("the largest size passes NaN over", "[double_vectors]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> x = {1, nan, -3, 2};
  CHECK(kvfit::simd::largest_size(x.data(), 4) == 3);
}

TEST_CASE("the squared norm of floats is taken in double", "[double_vectors]") {
  for (index_t n = 0; n < 70; ++n) {
    std::vector<float> x;
    long double squares = 0;
    for (const double number : numbers(n, 0.3)) {
      x.push_back(static_cast<float>(1e30 * number));  // whose squares exceed fp32
      squares += static_cast<long double>(x.back()) * static_cast<long double>(x.back());
    }
    const double exact = static_cast<double>(squares);
    CHECK(std::abs(kvfit::simd::squared_norm(x.data(), n) - exact) <= 1e-15 * exact);
  }
}

TEST_CASE("one double that is no number is found wherever it stands", "[double_vectors]") {
  for (index_t n = 0; n < 40; ++n) {
    std::vector<double> x = numbers(n, 0.1);
    CHECK(kvfit::simd::all_finite(x.data(), n));
    for (double& number : x) {
      const double before = number;
      for (const double bad :
           {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
        number = bad;
        CHECK_FALSE(kvfit::simd::all_finite(x.data(), n));
      }
      number = before;
    }
  }
}
