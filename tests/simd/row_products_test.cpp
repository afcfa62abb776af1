// SPDX-License-Identifier: MIT
#include "kvfit/simd/row_products.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "row.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index;
using kvfit::simd::lanes;
using kvfit::simd::row_products;
using kvfit::test::a_nan;
using kvfit::test::bits;
using kvfit::test::normal_values;

/// Rows that lie further apart than they are long; a NaN between them shows a read too far.
struct spaced_rows {
  spaced_rows(index rows, index n, index stride_, unsigned seed) : stride(stride_) {
    memory.assign(static_cast<std::size_t>(rows * stride + 1), a_nan);
    const std::vector<float> values = normal_values(rows * n, 2.0F, seed);
    for (index r = 0; r < rows; ++r) {
      std::copy_n(values.begin() + r * n, n, memory.begin() + r * stride);
    }
  }
  [[nodiscard]] const float* at(index r) const { return memory.data() + r * stride; }

  index stride;
  std::vector<float> memory;
};

/// One element on its own.
float one_product(const float* a, const float* b, index n) {
  float out = a_nan;
  row_products(a, n, 1, b, n, 1, n, &out, 1);
  return out;
}

/// The errors of all elements in their bound, and nothing written but them.
void check_row_products(index rows, index columns, index n) {
  INFO(rows << " x " << columns << " of " << n);
  const spaced_rows a(rows, n, n + 3, 21);
  const spaced_rows b(columns, n, n + 1, 22);
  const index out_stride = columns + 2;
  constexpr float mark = -77.0F;
  std::vector<float> out(static_cast<std::size_t>((rows + 1) * out_stride), mark);
  row_products(a.at(0), a.stride, rows, b.at(0), b.stride, columns, n, out.data(), out_stride);
  const double share = static_cast<double>(n) / static_cast<double>(lanes);
  bool is_close = true;
  bool is_alone = true;
  bool is_kept = true;
  for (index r = 0; r <= rows; ++r) {
    for (index c = 0; c < out_stride; ++c) {
      const float found = out[static_cast<std::size_t>(r * out_stride + c)];
      if (r == rows || c >= columns) {
        is_kept = is_kept && found == mark;
        continue;
      }
      double sum = 0;
      double magnitude = 0;
      for (index i = 0; i < n; ++i) {
        const double product = static_cast<double>(a.at(r)[i]) * static_cast<double>(b.at(c)[i]);
        sum += product;
        magnitude += std::abs(product);
      }
      const double allowed = (share + static_cast<double>(lanes)) * 0x1p-24 * magnitude;
      is_close = is_close && std::abs(static_cast<double>(found) - sum) <= allowed;
      is_alone = is_alone && bits(found) == bits(one_product(a.at(r), b.at(c), n));
    }
  }
  CHECK(is_close);
  CHECK(is_alone);
  CHECK(is_kept);
}

TEST_CASE("row products are sums of products, with the same bytes in any company", "[simd]") {
  for (const index rows : {1, 2, 3, 4, 5, 7, 8, 13}) {
    for (const index columns : {1, 2, 3, 4, 5, 8, 9, 11}) {
      for (const index n : {index{0}, index{1}, index{2}, lanes - 1, lanes, lanes + 1,
                            2 * lanes - 1, 5 * lanes + 2, index{300}}) {
        check_row_products(rows, columns, n);
      }
    }
  }
}

TEST_CASE("row products of no elements are 0, and of no rows or columns nothing", "[simd]") {
  std::vector<float> out(6, a_nan);
  row_products(nullptr, 0, 2, nullptr, 0, 3, 0, out.data(), 3);
  CHECK(out == std::vector<float>(6, 0.0F));
  const std::vector<float> x = {1, 2, 3};
  std::vector<float> kept = {5, 6};
  row_products(x.data(), 3, 0, x.data(), 3, 1, 3, kept.data(), 1);
  row_products(x.data(), 3, 1, x.data(), 3, 0, 3, kept.data(), 1);
  CHECK(kept == std::vector<float>{5, 6});
}

TEST_CASE("row products take every row from its own place", "[simd]") {
  // The only element that isn't 0 is the last, so each product tells its row and column exactly.
  const auto rows = GENERATE(as<index>{}, 2, 6);
  const auto columns = GENERATE(as<index>{}, 1, 7);
  const index n = lanes + 1;
  const index stride = 3 * lanes;
  const auto last_of = [&](index r) { return static_cast<std::size_t>(r * stride + n - 1); };
  const auto left = [](index r) { return 1.0F + 10.0F * static_cast<float>(r); };
  const auto right = [](index c) { return 2.0F + static_cast<float>(c); };
  std::vector<float> a(static_cast<std::size_t>(rows * stride), 0.0F);
  std::vector<float> b(static_cast<std::size_t>(columns * stride), 0.0F);
  for (index r = 0; r < rows; ++r) a[last_of(r)] = left(r);
  for (index c = 0; c < columns; ++c) b[last_of(c)] = right(c);
  std::vector<float> out(static_cast<std::size_t>(rows * columns));
  row_products(a.data(), stride, rows, b.data(), stride, columns, n, out.data(), columns);
  std::vector<float> expected;
  for (index r = 0; r < rows; ++r) {
    for (index c = 0; c < columns; ++c) expected.push_back(left(r) * right(c));
  }
  CHECK(out == expected);
}

TEST_CASE("row products read and write nothing beyond their rows", "[simd]") {
  for (index offset = 0; offset < lanes; offset += 3) {
    for (index n = 0; n <= 2 * lanes + 1; ++n) {
      kvfit::test::row<float> a(normal_values(n, 1.0F, 5), offset,
                                std::numeric_limits<float>::max());
      kvfit::test::row<float> b(normal_values(n, 1.0F, 6), (offset + 1) % lanes,
                                std::numeric_limits<float>::max());
      kvfit::test::row<float> out(1, offset, 3.0F);
      row_products(a.data(), n, 1, b.data(), n, 1, n, out.data(), 1);
      INFO("offset " << offset << ", length " << n);
      CHECK(std::isfinite(out[0]));
      CHECK(out.borders_intact());
      CHECK(bits(out[0]) == bits(one_product(a.data(), b.data(), n)));
    }
  }
}

}  // namespace
