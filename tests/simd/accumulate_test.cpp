// SPDX-License-Identifier: MIT
#include "kvfit/simd/accumulate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index;
using kvfit::simd::lanes;
using kvfit::test::a_nan;
using kvfit::test::bits;
using kvfit::test::inf;
using kvfit::test::most;
using kvfit::test::row;


using operation = void (*)(float*, const float*, float, index);

/// Whether `run` at every offset and length gives each element the bytes it gets alone, and writes
/// nothing else.
bool is_elementwise(operation run) {
  const std::vector<float> xs = kvfit::test::normal_values(most, 3.0f, 8);
  const std::vector<float> old = kvfit::test::normal_values(most, 3.0f, 9);
  std::vector<float> alone = old;
  for (std::size_t i = 0; i < alone.size(); ++i) run(&alone[i], &xs[i], 0.7f, 1);

  bool same = true;
  for (index offset = 0; offset < lanes; ++offset) {
    for (index n = 0; n <= most; ++n) {
      row<float> x(std::vector<float>(xs.begin(), xs.begin() + n), (offset * 5) % lanes, 7.0f);
      row<float> acc(std::vector<float>(old.begin(), old.begin() + n), offset, 7.0f);
      run(acc.data(), x.data(), 0.7f, n);
      for (index i = 0; i < n; ++i) {
        same = same && bits(acc[i]) == bits(alone[static_cast<std::size_t>(i)]);
      }
      same = same && acc.borders_intact() && x.borders_intact();
    }
  }
  return same;
}

TEST_CASE("add_scaled adds a x, element by element", "[simd]") {
  CHECK(is_elementwise(kvfit::simd::add_scaled));
  for (float old : {0.0f, 1.0f, -2.1f}) {
    for (float x : {0.3f, -3.0f, 1e10f}) {
      float acc = old;
      kvfit::simd::add_scaled(&acc, &x, 0.7f, 1);
      const double product = static_cast<double>(0.7f) * static_cast<double>(x);
      const double magnitude = std::abs(static_cast<double>(old)) + std::abs(product);
      INFO(old << " + 0.7 * " << x);
      CHECK(std::abs(static_cast<double>(acc) - (static_cast<double>(old) + product)) <=
            0x1p-23 * magnitude);
    }
  }
}

TEST_CASE("add_scaled_squares adds (a x)^2, element by element", "[simd]") {
  CHECK(is_elementwise(kvfit::simd::add_scaled_squares));
  for (float x : {0.3f, -3.0f, 1e10f, -1e-10f}) {
    float acc = 2.0f;
    kvfit::simd::add_scaled_squares(&acc, &x, 0.7f, 1);
    const double scaled = static_cast<double>(0.7f) * static_cast<double>(x);
    INFO(x);
    const double exact = 2.0 + scaled * scaled;
    CHECK(std::abs(static_cast<double>(acc) - exact) <= 0x1p-22 * exact);
  }
}

TEST_CASE("max_scaled keeps the larger, element by element, and passes over NaN", "[simd]") {
  CHECK(is_elementwise(kvfit::simd::max_scaled));
  std::vector<float> acc = {1.0f, 1.0f, -inf, -inf, 2.0f, -5.0f};
  const std::vector<float> x = {4.0f, 1.0f, -inf, -8.0f, a_nan, inf};
  kvfit::simd::max_scaled(acc.data(), x.data(), 0.5f, 6);
  CHECK(acc == std::vector<float>{2.0f, 1.0f, -inf, -4.0f, 2.0f, inf});
}

TEST_CASE("accumulating nothing touches nothing", "[simd]") {
  kvfit::simd::add_scaled(nullptr, nullptr, 1.0f, 0);
  kvfit::simd::add_scaled_squares(nullptr, nullptr, 1.0f, 0);
  kvfit::simd::max_scaled(nullptr, nullptr, 1.0f, 0);
  SUCCEED();
}

}  // namespace
