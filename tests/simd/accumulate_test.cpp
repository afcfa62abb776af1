// SPDX-License-Identifier: MIT
#include "kvfit/simd/accumulate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
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

using operation = void (*)(float*, const float*, index_t);
using operation_of_two = void (*)(float*, const float*, const float*, index_t);

/// Whether `run` at every offset and length gives each element the bytes it gets alone, and writes
/// nothing else.
bool is_elementwise(operation_of_two run) {
  const std::vector<float> xs = kvfit::test::normal_values(most, 3.0f, 8);
  const std::vector<float> ys = kvfit::test::normal_values(most, 3.0f, 10);
  const std::vector<float> old = kvfit::test::normal_values(most, 3.0f, 9);
  std::vector<float> alone = old;
  for (std::size_t i = 0; i < alone.size(); ++i) run(&alone[i], &xs[i], &ys[i], 1);

  bool same = true;
  for (index_t offset = 0; offset < lanes; ++offset) {
    for (index_t n = 0; n <= most; ++n) {
      row<float> x(std::vector<float>(xs.begin(), xs.begin() + n), (offset * 5) % lanes, 7.0f);
      row<float> y(std::vector<float>(ys.begin(), ys.begin() + n), (offset * 3) % lanes, 7.0f);
      row<float> acc(std::vector<float>(old.begin(), old.begin() + n), offset, 7.0f);
      run(acc.data(), x.data(), y.data(), n);
      for (index_t i = 0; i < n; ++i) {
        same = same && bits(acc[i]) == bits(alone[static_cast<std::size_t>(i)]);
      }
      same = same && acc.borders_intact() && x.borders_intact() && y.borders_intact();
    }
  }
  return same;
}
bool is_elementwise(operation run) {
  const std::vector<float> xs = kvfit::test::normal_values(most, 3.0f, 8);
  const std::vector<float> old = kvfit::test::normal_values(most, 3.0f, 9);
  std::vector<float> alone = old;
  for (std::size_t i = 0; i < alone.size(); ++i) run(&alone[i], &xs[i], 1);

  bool same = true;
  for (index_t offset = 0; offset < lanes; ++offset) {
    for (index_t n = 0; n <= most; ++n) {
      row<float> x(std::vector<float>(xs.begin(), xs.begin() + n), (offset * 5) % lanes, 7.0f);
      row<float> acc(std::vector<float>(old.begin(), old.begin() + n), offset, 7.0f);
      run(acc.data(), x.data(), n);
      for (index_t i = 0; i < n; ++i) {
        same = same && bits(acc[i]) == bits(alone[static_cast<std::size_t>(i)]);
      }
      same = same && acc.borders_intact() && x.borders_intact();
    }
  }
  return same;
}

TEST_CASE("add_each adds, element by element", "[simd]") {
  CHECK(is_elementwise(
      [](float* acc, const float* x, index_t n) { kvfit::simd::add_each(acc, x, n); }));
  float acc = 0.1f;
  const float x = 0.7f;
  kvfit::simd::add_each(&acc, &x, 1);
  CHECK(acc == 0.1f + 0.7f);
}

TEST_CASE("add_then_multiply takes (a + x) y element by element, and sums it", "[simd]") {
  CHECK(is_elementwise([](float* acc, const float* x, const float* y, index_t n) {
    (void)kvfit::simd::add_then_multiply(acc, x, y, n);
  }));
  for (index_t n = 0; n <= most; ++n) {
    const std::vector<float> x = kvfit::test::normal_values(n, 2.0f, 3);
    const std::vector<float> y = kvfit::test::normal_values(n, 2.0f, 4);
    std::vector<float> acc = kvfit::test::normal_values(n, 2.0f, 5);
    double exact = 0;
    double sizes = 0;
    for (std::size_t i = 0; i < acc.size(); ++i) {
      const double term =
          (static_cast<double>(acc[i]) + static_cast<double>(x[i])) * static_cast<double>(y[i]);
      exact += term;
      sizes += (std::abs(static_cast<double>(acc[i])) + std::abs(static_cast<double>(x[i]))) *
               std::abs(static_cast<double>(y[i]));
    }
    const float got = kvfit::simd::add_then_multiply(acc.data(), x.data(), y.data(), n);
    CHECK(std::abs(static_cast<double>(got) - exact) <= 12 * 0x1p-24 * sizes);
    float sum = 0;
    for (const float product : acc) sum += product;
    CHECK(std::abs(static_cast<double>(got - sum)) <= 1e-5 * sizes);
  }
}

TEST_CASE("scale_and_add takes a x + b, element by element", "[simd]") {
  CHECK(is_elementwise([](float* acc, const float*, index_t n) {
    kvfit::simd::scale_and_add(acc, 0.7f, -1.3f, n);
  }));
  for (float b : {0.0f, 1.0f, -2.1f}) {
    for (float x : {0.3f, -3.0f, 1e10f}) {
      float acc = x;
      kvfit::simd::scale_and_add(&acc, 0.7f, b, 1);
      const double product = static_cast<double>(0.7f) * static_cast<double>(x);
      const double magnitude = std::abs(static_cast<double>(b)) + std::abs(product);
      INFO("0.7 * " << x << " + " << b);
      CHECK(std::abs(static_cast<double>(acc) - (static_cast<double>(b) + product)) <=
            0x1p-23 * magnitude);
    }
  }
  float hides = 3.0f;
  kvfit::simd::scale_and_add(&hides, 0.5f, -inf, 1);
  CHECK(hides == -inf);
}

TEST_CASE("keep_larger keeps the larger, element by element, and passes over NaN", "[simd]") {
  CHECK(is_elementwise(kvfit::simd::keep_larger));
  std::vector<float> acc = {1.0f, 1.0f, -inf, -inf, 2.0f, -5.0f};
  const std::vector<float> x = {4.0f, 0.5f, -inf, -8.0f, a_nan, inf};
  kvfit::simd::keep_larger(acc.data(), x.data(), 6);
  CHECK(acc == std::vector<float>{4.0f, 1.0f, -inf, -8.0f, 2.0f, inf});
}

TEST_CASE("multiply_each multiplies, element by element", "[simd]") {
  CHECK(is_elementwise(kvfit::simd::multiply_each));
  std::vector<float> acc = {1.5f, -2.0f, inf};
  const std::vector<float> x = {4.0f, 0.25f, 2.0f};
  kvfit::simd::multiply_each(acc.data(), x.data(), 3);
  CHECK(acc == std::vector<float>{6.0f, -0.5f, inf});
}

/// Whether `found` is the sum of `acc` and the product of a and x but for two roundings.
void check_sums(float a, float x, float acc, float found, double expected) {
  const double product = static_cast<double>(a) * static_cast<double>(x);
  const double magnitude = std::abs(static_cast<double>(acc)) + std::abs(product);
  INFO(acc << " and " << a << " times " << x << " give " << found << ", not " << expected);
  CHECK(std::abs(static_cast<double>(found) - expected) <= 0x1p-23 * magnitude);
}

TEST_CASE("add_products takes a + x y, element by element", "[simd]") {
  CHECK(is_elementwise(kvfit::simd::add_products));
  for (float old : {0.0f, 1.0f, -2.1f}) {
    for (float y : {0.3f, -3.0f, 1e10f}) {
      float acc = old;
      const float x = 0.7f;
      kvfit::simd::add_products(&acc, &x, &y, 1);
      check_sums(x, y, old, acc,
                 static_cast<double>(old) + static_cast<double>(x) * static_cast<double>(y));
    }
  }
  std::vector<float> acc = {1.0f, 2.0f, -inf};
  const std::vector<float> x = {3.0f, -0.5f, 1.0f};
  const std::vector<float> y = {4.0f, 8.0f, 1.0f};
  kvfit::simd::add_products(acc.data(), x.data(), y.data(), 3);
  CHECK(acc == std::vector<float>{13.0f, -2.0f, -inf});
}

TEST_CASE("subtract_scaled takes a - b x, element by element", "[simd]") {
  CHECK(is_elementwise([](float* acc, const float* x, index_t n) {
    kvfit::simd::subtract_scaled(acc, 0.7f, x, n);
  }));
  for (float old : {0.0f, 1.0f, -2.1f}) {
    for (float x : {0.3f, -3.0f, 1e10f}) {
      float acc = old;
      kvfit::simd::subtract_scaled(&acc, 0.7f, &x, 1);
      check_sums(0.7f, x, old, acc,
                 static_cast<double>(old) - static_cast<double>(0.7f) * static_cast<double>(x));
    }
  }
  std::vector<float> acc = {1.0f, 2.0f, inf};
  const std::vector<float> x = {3.0f, -0.5f, 1.0f};
  kvfit::simd::subtract_scaled(acc.data(), 2.0f, x.data(), 3);
  CHECK(acc == std::vector<float>{-5.0f, 3.0f, inf});
}

TEST_CASE("accumulating nothing touches nothing", "[simd]") {
  kvfit::simd::scale_and_add(nullptr, 1.0f, 1.0f, 0);
  kvfit::simd::keep_larger(nullptr, nullptr, 0);
  kvfit::simd::multiply_each(nullptr, nullptr, 0);
  kvfit::simd::add_products(nullptr, nullptr, nullptr, 0);
  kvfit::simd::subtract_scaled(nullptr, 1.0f, nullptr, 0);
  SUCCEED();
}

}  // namespace
