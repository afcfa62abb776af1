// SPDX-License-Identifier: MIT
#include "kvfit/simd/transpose.hpp"

#include "support/catch.hpp"
#include "support/random_matrix.hpp"

TEST_CASE("a transposed matrix is scaled row by row, and nothing beside it is written",
          "[simd][transpose]") {
  const kvfit::index_t rows = GENERATE(1, 3, 4, 5, 16, 33);
  const kvfit::index_t cols = GENERATE(1, 2, 4, 7, 20);
  const kvfit::index_t gap = GENERATE(0, 3);
  const kvfit::matrix x = kvfit_test::random_matrix(cols, rows + gap, 1, 1);
  const kvfit::vector factors = kvfit_test::random_matrix(1, rows, 2, 1).transpose();
  kvfit::matrix out = kvfit::matrix::Constant(rows, cols + gap, -7);
  kvfit::simd::transpose_scaled(x.data(), rows + gap, factors.data(), rows, cols, out.data(),
                                cols + gap);
  for (kvfit::index_t r = 0; r < rows; ++r) {
    for (kvfit::index_t c = 0; c < cols; ++c) REQUIRE(out(r, c) == factors[r] * x(c, r));
    for (kvfit::index_t c = cols; c < cols + gap; ++c) REQUIRE(out(r, c) == -7);
  }
}
