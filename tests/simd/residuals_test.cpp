// SPDX-License-Identifier: MIT
#include "kvfit/simd/residuals.hpp"

#include <cmath>

#include "support/catch.hpp"
#include "support/random_matrix.hpp"

TEST_CASE("scaled residuals, their squares and products are those of the plain loop",
          "[simd][residuals]") {
  const kvfit::index_t rows = GENERATE(1, 5, 64);
  const kvfit::index_t cols = GENERATE(1, 3, 15, 16, 17, 100);
  const kvfit::index_t gap = GENERATE(0, 3);
  const kvfit::matrix y = kvfit_test::random_matrix(rows, cols + gap, 1, 1);
  const kvfit::matrix before = kvfit_test::random_matrix(rows, cols + gap, 2, 1);
  const kvfit::vector factors = kvfit_test::random_matrix(1, cols, 3, 1).transpose();
  kvfit::matrix a = before;
  kvfit::vector squares(cols + 1);
  kvfit::vector along(cols + 1);
  squares[cols] = along[cols] = -7;
  kvfit::simd::scaled_residuals(y.data(), a.data(), cols + gap, rows, cols, factors.data(),
                                squares.data(), along.data());
  CHECK(a.rightCols(gap) == before.rightCols(gap));
  CHECK(squares[cols] == -7);
  CHECK(along[cols] == -7);
  for (kvfit::index_t i = 0; i < cols; ++i) {
    double square = 0;
    double product = 0;
    double size = 0;
    for (kvfit::index_t k = 0; k < rows; ++k) {
      const float missing = y(k, i) - before(k, i);
      REQUIRE(a(k, i) == missing * factors[i]);
      square += static_cast<double>(missing) * missing;
      product += static_cast<double>(missing) * y(k, i);
      size += std::abs(static_cast<double>(missing) * y(k, i));
    }
    const double allowed = static_cast<double>(rows + 3) * 0x1p-24;
    REQUIRE(std::abs(squares[i] - square) <= allowed * square);
    REQUIRE(std::abs(along[i] - product) <= allowed * size);
  }
}

TEST_CASE("a column's residuals have the same bytes wherever it stands", "[simd][residuals]") {
  const kvfit::matrix y = kvfit_test::random_matrix(20, 70, 5, 1);
  const kvfit::matrix start = kvfit_test::random_matrix(20, 70, 6, 1);
  const kvfit::vector factors = kvfit::vector::Constant(70, 0.3F);
  kvfit::matrix whole = start;
  kvfit::vector squares(70);
  kvfit::vector along(70);
  kvfit::simd::scaled_residuals(y.data(), whole.data(), 70, 20, 70, factors.data(), squares.data(),
                                along.data());
  for (const kvfit::index_t first : {0, 1, 13, 64}) {
    kvfit::matrix part = start;
    kvfit::vector one(70);
    kvfit::vector other(70);
    kvfit::simd::scaled_residuals(y.data() + first, part.data() + first, 70, 20, 70 - first,
                                  factors.data(), one.data(), other.data());
    REQUIRE(part.rightCols(70 - first) == whole.rightCols(70 - first));
    REQUIRE(one.head(70 - first) == squares.tail(70 - first));
    REQUIRE(other.head(70 - first) == along.tail(70 - first));
  }
}
