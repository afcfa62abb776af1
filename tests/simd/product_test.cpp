// SPDX-License-Identifier: MIT
#include "kvfit/simd/product.hpp"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::simd::product_mode;

/// a b + c as the library's registers do it: one lane of it.
float fused(float a, float b, float c) {
  std::vector<float> out(static_cast<std::size_t>(kvfit::simd::lanes));
  using kvfit::simd::batch;
  kvfit::simd::store(out.data(), kvfit::simd::multiply_add(batch(a), batch(b), batch(c)));
  return out[0];
}
double fused(double a, double b, double c) {
  std::vector<double> out(static_cast<std::size_t>(kvfit::simd::lanes64));
  using kvfit::simd::batch64;
  kvfit::simd::store(out.data(), kvfit::simd::multiply_add(batch64(a), batch64(b), batch64(c)));
  return out[0];
}

/// A product of these sizes, left factor transposed or not, against a plain loop: every byte of the
/// target, the room around it included.
template <class Scalar>
bool is_exact(index_t rows, index_t cols, index_t depth, bool is_transposed, product_mode mode) {
  std::mt19937_64 bits(static_cast<std::uint64_t>(rows * 10007 + cols * 101 + depth));
  std::normal_distribution<Scalar> normal;
  const auto draw = [&](index_t size) {
    std::vector<Scalar> out(static_cast<std::size_t>(size));
    for (auto& x : out) x = normal(bits);
    return out;
  };
  const index_t a_stride = (is_transposed ? rows : depth) + 3;
  const index_t b_stride = cols + 2;
  const index_t c_stride = cols + 5;
  const auto a = draw(a_stride * (is_transposed ? depth : rows));
  const auto b = draw(b_stride * depth);
  auto c = draw(c_stride * (rows + 1) + 1);
  auto expected = c;
  const auto at = [](const std::vector<Scalar>& m, index_t i) {
    return m[static_cast<std::size_t>(i)];
  };
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      Scalar& out = expected[static_cast<std::size_t>(i * c_stride + j)];
      Scalar sum = mode == product_mode::assign ? Scalar{0} : out;
      if (mode == product_mode::subtract) sum = -sum;
      for (index_t k = 0; k < depth; ++k) {
        sum = fused(at(a, is_transposed ? k * a_stride + i : i * a_stride + k),
                    at(b, k * b_stride + j), sum);
      }
      out = mode == product_mode::subtract ? -sum : sum;
    }
  }
  const kvfit::simd::basic_left_factor<Scalar> left{a.data(), is_transposed ? 1 : a_stride,
                                                    is_transposed ? a_stride : 1};
  const kvfit::simd::basic_row_factor<Scalar> right{b.data(), b_stride};
  const kvfit::simd::basic_row_target<Scalar> target{c.data(), c_stride};
  kvfit::simd::multiply(left, right, target, rows, cols, depth, mode);
  return c == expected;
}

template <class Scalar>
void check_sizes(index_t lanes) {
  const auto mode = GENERATE(product_mode::assign, product_mode::add, product_mode::subtract);
  const bool is_transposed = GENERATE(false, true);
  for (const index_t rows : {1, 3, 4, 5, 6, 7, 8, 9, 17}) {
    for (const index_t whole : {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11}) {
      for (const index_t rest : {-1, 0, 1}) {
        const index_t cols = whole * lanes + rest;
        if (cols < 1) continue;
        for (const index_t depth : {1, 2, 19}) {
          INFO(rows << " x " << cols << ", depth " << depth << ", mode " << static_cast<int>(mode));
          CHECK(is_exact<Scalar>(rows, cols, depth, is_transposed, mode));
        }
      }
    }
  }
}

TEST_CASE("a product is one fused sum an element, in order, and writes nothing else", "[simd]") {
  check_sizes<float>(kvfit::simd::lanes);
}

TEST_CASE("so is a product in double", "[simd]") {
  check_sizes<double>(kvfit::simd::lanes64);
}

TEST_CASE("a product without rows, columns or depth does what that means", "[simd]") {
  std::vector<float> c = {1, 2, 3, 4};
  const std::vector<float> before = c;
  kvfit::simd::multiply({nullptr, 0, 1}, {nullptr, 0}, {c.data(), 2}, 0, 2, 3);
  kvfit::simd::multiply({nullptr, 0, 1}, {nullptr, 0}, {c.data(), 2}, 2, 0, 3);
  kvfit::simd::multiply({nullptr, 0, 1}, {nullptr, 0}, {c.data(), 2}, 2, 2, 0, product_mode::add);
  CHECK(c == before);
  kvfit::simd::multiply({nullptr, 0, 1}, {nullptr, 0}, {c.data(), 2}, 2, 2, 0);
  CHECK(c == std::vector<float>(4, 0.0F));
}

TEST_CASE("what is fetched ahead changes no byte of a product, whatever its size", "[simd]") {
  const std::vector<float> a(12 * 7, 0.3F);
  const std::vector<float> b(7 * 70, 0.7F);
  std::vector<float> plain(12 * 70);
  kvfit::simd::multiply({a.data(), 7, 1}, {b.data(), 70}, {plain.data(), 70}, 12, 70, 7);
  const std::vector<float> next(100000, 1.0F);
  for (const index_t bytes : {-1, 0, 1, 63, 64, 4000, 400000}) {
    std::vector<float> c(12 * 70);
    kvfit::simd::multiply({a.data(), 7, 1}, {b.data(), 70}, {c.data(), 70}, 12, 70, 7,
                          product_mode::assign, {next.data(), bytes});
    CHECK(c == plain);
  }
}

TEST_CASE("floats widen to doubles, the first few too, and lanes add up", "[simd]") {
  using namespace kvfit::simd;
  std::vector<float> x;
  for (index_t k = 0; k < lanes64; ++k) x.push_back(static_cast<float>(k + 1) * 0.1F);
  double expected = 0;
  for (index_t count = 0; count <= lanes64; ++count) {
    CHECK(sum(load_widened_first(x.data(), count)) == Approx(expected).epsilon(1e-15));
    if (count < lanes64) expected += static_cast<double>(x[static_cast<std::size_t>(count)]);
  }
  CHECK(sum(load_widened(x.data())) == Approx(expected).epsilon(1e-15));
}

}  // namespace
