// SPDX-License-Identifier: MIT
#include "kvfit/simd/convert.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::bf16;
using kvfit::dtype;
using kvfit::fp16;
using kvfit::index_t;
using kvfit::simd::narrow;
using kvfit::simd::widen;
using kvfit::test::bits;
using kvfit::test::float_of;
using kvfit::test::most;
using kvfit::test::row;

template <class Half>
std::vector<Half> all_patterns() {
  std::vector<Half> patterns;
  for (unsigned i = 0; i < 0x10000u; ++i) patterns.push_back({static_cast<std::uint16_t>(i)});
  return patterns;
}

/// Floats all over the range, both signs, and those next to what fp16 and bf16 round at.
std::vector<float> dense_sweep() {
  std::vector<float> x;
  for (std::uint64_t b = 0; b <= 0xffffffffu; b += 3001) {
    x.push_back(float_of(static_cast<std::uint32_t>(b)));
  }
  for (std::uint32_t b = 0x33000000u; b < 0x47900000u; b += 0x1000u) {  // fp16's half steps
    for (std::uint32_t near : {b - 1, b, b + 1}) {
      x.push_back(float_of(near));
      x.push_back(float_of(near | 0x80000000u));
    }
  }
  for (std::uint32_t b = 0x7f7f0000u; b < 0x7f820000u; b += 7) x.push_back(float_of(b));
  return x;
}

fp16 specified(float x, fp16) {
  return kvfit::to_fp16(x);
}
bf16 specified(float x, bf16) {
  return kvfit::to_bf16(x);
}

template <class Half>
void check_lengths() {
  bool same = true;
  bool intact = true;
  const std::vector<float> values = kvfit::test::normal_values(most, 100.0f, 10);
  for (index_t offset = 0; offset < kvfit::simd::lanes; ++offset) {
    for (index_t n = 0; n <= most; ++n) {
      row<float> x(std::vector<float>(values.begin(), values.begin() + n), offset, 7.0f);
      row<Half> halves(n, (offset * 5) % kvfit::simd::lanes, Half{0x1234});
      row<float> y(n, offset, 7.0f);
      narrow(x.data(), halves.data(), n);
      widen(halves.data(), y.data(), n);
      for (index_t i = 0; i < n; ++i) {
        same = same && halves[i] == specified(x[i], Half{});
        same = same && bits(y[i]) == bits(kvfit::to_float(halves[i]));
      }
      intact = intact && x.borders_intact() && halves.borders_intact() && y.borders_intact();
    }
  }
  CHECK(same);
  CHECK(intact);
}

template <class Half>
index_t narrow_mismatches() {
  const std::vector<float> x = dense_sweep();
  std::vector<Half> y(x.size());
  narrow(x.data(), y.data(), static_cast<index_t>(x.size()));
  index_t wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += !(y[i] == specified(x[i], Half{}));
  return wrong;
}

template <class Half>
index_t widen_mismatches() {
  const std::vector<Half> x = all_patterns<Half>();
  std::vector<float> y(x.size());
  widen(x.data(), y.data(), static_cast<index_t>(x.size()));
  index_t wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += bits(y[i]) != bits(kvfit::to_float(x[i]));
  return wrong;
}

TEST_CASE("widen gives every pattern the specified bits", "[simd]") {
  CHECK(widen_mismatches<fp16>() == 0);
  CHECK(widen_mismatches<bf16>() == 0);
}

TEST_CASE("narrow gives floats all over the range the specified bits", "[simd]") {
  CHECK(narrow_mismatches<fp16>() == 0);
  CHECK(narrow_mismatches<bf16>() == 0);
}

TEST_CASE("widen and narrow treat every offset and length alike", "[simd]") {
  check_lengths<fp16>();
  check_lengths<bf16>();
}

TEST_CASE("widen and narrow agree with Eigen's own types", "[simd]") {
  const std::vector<float> x = dense_sweep();
  std::vector<Eigen::half> halves(x.size());
  std::vector<Eigen::bfloat16> brains(x.size());
  narrow(x.data(), halves.data(), static_cast<index_t>(x.size()));
  narrow(x.data(), brains.data(), static_cast<index_t>(x.size()));
  index_t wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      wrong += !(Eigen::numext::isnan)(halves[i]) || !(Eigen::numext::isnan)(brains[i]);
    } else {
      wrong += halves[i].x != Eigen::half(x[i]).x || brains[i].value != Eigen::bfloat16(x[i]).value;
    }
  }
  CHECK(wrong == 0);

  std::vector<float> back(x.size());
  widen(halves.data(), back.data(), static_cast<index_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    wrong += !std::isnan(x[i]) && back[i] != static_cast<float>(halves[i]);
  }
  CHECK(wrong == 0);
}

TEST_CASE("the type may be chosen at run time, fp32 included, and no element is no work",
          "[simd]") {
  const std::vector<float> x = {1.0f, -2.5f, 0.25f};
  for (dtype type : {dtype::fp32, dtype::fp16, dtype::bf16}) {
    INFO(kvfit::name(type));
    std::vector<float> stored(3);  // room and alignment for any of them
    std::vector<float> y(3);
    narrow(type, x.data(), stored.data(), 3);
    widen(type, stored.data(), y.data(), 3);
    CHECK(y == x);
    narrow(type, nullptr, nullptr, 0);
    widen(type, nullptr, nullptr, 0);
  }
}

}  // namespace
