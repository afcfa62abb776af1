// SPDX-License-Identifier: MIT
#include "kvfit/simd/softmax.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::simd::exp_shifted_sum;
using kvfit::simd::max_value;
using kvfit::test::a_nan;
using kvfit::test::bits;
using kvfit::test::inf;
using kvfit::test::most;
using kvfit::test::row;

TEST_CASE("max_value finds the largest float at any place, offset and length", "[simd]") {
  const std::vector<float> values = kvfit::test::normal_values(most, 5.0f, 2);
  bool right = true;
  for (index_t offset = 0; offset < kvfit::simd::lanes; ++offset) {
    for (index_t n = 1; n <= most; ++n) {
      std::vector<float> head(values.begin(), values.begin() + n);
      right = right && max_value(row<float>(head, offset, inf).data(), n) ==
                           *std::max_element(head.begin(), head.end());
      const index_t place = (offset * 7 + n) % n;
      head[static_cast<std::size_t>(place)] = 100.0f;
      right = right && max_value(row<float>(head, offset, inf).data(), n) == 100.0f;
    }
  }
  CHECK(right);
}

TEST_CASE("max_value of nothing, of masked logits, of infinities and NaN is defined", "[simd]") {
  CHECK(max_value(nullptr, 0) == -inf);
  for (index_t n = 1; n <= most; ++n) {
    INFO(n);
    std::vector<float> x(static_cast<std::size_t>(n), -inf);
    REQUIRE(max_value(x.data(), n) == -inf);
    x.back() = -3e38f;
    REQUIRE(max_value(x.data(), n) == -3e38f);
    std::fill(x.begin(), x.end(), a_nan);
    REQUIRE(max_value(x.data(), n) == -inf);
    x[static_cast<std::size_t>(n / 2)] = 1.0f;
    REQUIRE(max_value(x.data(), n) == 1.0f);
    x.front() = inf;
    REQUIRE(max_value(x.data(), n) == inf);
  }
}

TEST_CASE("exp_shifted_sum writes exp(x - shift) and returns the sum of what it wrote", "[simd]") {
  const std::vector<float> values = kvfit::test::normal_values(most, 20.0f, 3);
  const float shift = max_value(values.data(), most);
  std::vector<float> expected;
  for (float value : values) expected.push_back(value - shift);
  kvfit::simd::exp(expected.data(), expected.data(), most);

  bool same = true;
  bool intact = true;
  double worst = 0.0;
  for (index_t offset = 0; offset < kvfit::simd::lanes; ++offset) {
    for (index_t n = 0; n <= most; ++n) {
      row<float> x(std::vector<float>(values.begin(), values.begin() + n), offset, 7.0f);
      const double sum = exp_shifted_sum(x.data(), n, shift);
      double written = 0.0;
      for (index_t i = 0; i < n; ++i) {
        same = same && bits(x[i]) == bits(expected[static_cast<std::size_t>(i)]);
        written += static_cast<double>(x[i]);
      }
      worst = std::max(worst, std::abs(sum - written) - 20 * 0x1p-24 * written);
      intact = intact && x.borders_intact();
    }
  }
  CHECK(same);
  CHECK(intact);
  CHECK(worst <= 0.0);
}

TEST_CASE("exp_shifted_sum stays accurate over a million logits", "[simd]") {
  constexpr index_t n = 1'000'003;
  std::vector<float> x = kvfit::test::normal_values(n, 4.0f, 4);
  const float shift = max_value(x.data(), n);
  double exact = 0.0;
  for (float value : x) exact += std::exp(static_cast<double>(value) - static_cast<double>(shift));
  const double sum = exp_shifted_sum(x.data(), n, shift);
  double written = 0.0;
  for (float value : x) written += static_cast<double>(value);
  const double fold_error = std::abs(sum / written - 1.0);
  const double error = std::abs(sum / exact - 1.0);
  INFO("relative error " << fold_error << " against the sum of the weights, " << error
                         << " against the exact mass");
  CHECK(fold_error < 20 * 0x1p-24);
  CHECK(error < 40 * 0x1p-24);  // the subtraction and exp add theirs
}

TEST_CASE("exp_shifted_sum of an all-masked row is zeros with sum zero", "[simd]") {
  CHECK(exp_shifted_sum(nullptr, 0, -inf) == 0.0);
  CHECK(exp_shifted_sum(nullptr, 0, 1.0f) == 0.0);
  for (index_t n = 1; n <= most; ++n) {
    INFO(n);
    std::vector<float> x(static_cast<std::size_t>(n), -inf);
    REQUIRE(exp_shifted_sum(x.data(), n, max_value(x.data(), n)) == 0.0);
    REQUIRE(std::all_of(x.begin(), x.end(), [](float w) { return bits(w) == bits(0.0f); }));
  }
}

TEST_CASE("exp_shifted_sum gives masked logits no weight and the largest weight one", "[simd]") {
  for (index_t n = 1; n <= most; ++n) {
    for (float largest : {-3e38f, -1e30f, 0.0f, 1e30f, 3e38f}) {
      INFO(n << " logits, largest " << largest);
      std::vector<float> x(static_cast<std::size_t>(n), -inf);
      x.back() = largest;
      const double sum = exp_shifted_sum(x.data(), n, max_value(x.data(), n));
      REQUIRE(sum == 1.0);
      REQUIRE(x.back() == 1.0f);
      REQUIRE(std::count(x.begin(), x.end(), 0.0f) == n - 1);
    }
  }
}

TEST_CASE("exp_shifted_sum shows NaN in its weight and in the sum alone", "[simd]") {
  for (index_t n = 2; n <= most; ++n) {
    INFO(n);
    std::vector<float> x(static_cast<std::size_t>(n), 1.0f);
    x.back() = a_nan;
    REQUIRE(std::isnan(exp_shifted_sum(x.data(), n, max_value(x.data(), n))));
    REQUIRE(std::isnan(x.back()));
    REQUIRE(std::count(x.begin(), x.end(), 1.0f) == n - 1);
  }
}

TEST_CASE("exp_shifted_columns gives every column what exp_shifted_sum gives a row", "[simd]") {
  for (const index_t cols : {index_t{1}, kvfit::simd::lanes - 1, kvfit::simd::lanes, most}) {
    for (const index_t rows : {1, 15, 16, 17, 50}) {
      const index_t stride = cols + 3;
      std::vector<float> matrix =
          kvfit::test::normal_values(rows * stride, 20.0f, static_cast<unsigned>(cols + rows));
      std::vector<float> shifts(static_cast<std::size_t>(cols));
      std::vector<std::vector<float>> columns(static_cast<std::size_t>(cols));
      for (std::size_t i = 0; i < columns.size(); ++i) {
        for (index_t j = 0; j < rows; ++j) {
          float& x = matrix[static_cast<std::size_t>(j * stride) + i];
          if (i % 5 == 4) x = -inf;  // nothing to see in this column
          columns[i].push_back(x);
        }
        shifts[i] = max_value(columns[i].data(), rows);
      }
      std::vector<double> sums(columns.size(), 2.5);
      const std::vector<float> before = matrix;
      kvfit::simd::exp_shifted_columns(matrix.data(), stride, rows, cols, shifts.data(),
                                       sums.data());
      bool same = true;
      for (std::size_t i = 0; i < columns.size(); ++i) {
        const double sum = exp_shifted_sum(columns[i].data(), rows, shifts[i]);
        same = same && std::abs(sums[i] - 2.5 - sum) <= 2e-6 * sum;
        for (index_t j = 0; j < rows; ++j) {
          same = same && bits(matrix[static_cast<std::size_t>(j * stride) + i]) ==
                             bits(columns[i][static_cast<std::size_t>(j)]);
        }
      }
      for (index_t j = 0; j < rows; ++j) {  // the gap between rows
        for (index_t i = cols; i < stride; ++i) {
          const auto at = static_cast<std::size_t>(j * stride + i);
          same = same && bits(matrix[at]) == bits(before[at]);
        }
      }
      INFO(rows << " x " << cols);
      CHECK(same);
    }
  }
}

}  // namespace
