// SPDX-License-Identifier: MIT
#include "kvfit/linalg/detail/row_sweep.hpp"

#include <cstddef>

#include "support/catch.hpp"
#include "support/linalg_oracle.hpp"

TEST_CASE("rows times several vectors are the products with each of them, bit for bit",
          "[linalg][row_sweep]") {
  const kvfit::index_t size = GENERATE(0, 1, 7, 8, 33, 200);
  const kvfit::matrix rows = oracle::gaussian(4, size + 3, 31);  // rows longer than what is used
  const Eigen::Matrix<double, 3, Eigen::Dynamic, Eigen::RowMajor> vectors =
      oracle::gaussian(3, size + 5, 32).cast<double>();
  const kvfit::linalg::detail::row_group<4> group{rows.data(), size + 3, size};
  const auto together = group.times<3>(vectors.data(), size + 5);
  for (std::size_t v = 0; v < 3; ++v) {
    const auto alone = group.times(vectors.data() + static_cast<kvfit::index_t>(v) * (size + 5));
    for (std::size_t r = 0; r < 4; ++r) CHECK(together[r * 3 + v] == alone[r]);
  }
}
