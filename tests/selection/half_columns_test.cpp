// SPDX-License-Identifier: MIT
#include "kvfit/selection/half_columns.hpp"

#include <cmath>
#include <limits>

#include "selection/heads.hpp"
#include "support/catch.hpp"

TEST_CASE("columns in bf16 are off by no more than they say, stored or made in panels",
          "[selection][half_columns]") {
  const bool is_stored = GENERATE(true, false);
  const kvfit::index_t queries = GENERATE(1, 77, 150);
  const auto head = kvfit_test::make_head(4, {.queries = queries, .keys = 60});
  const kvfit_test::scored_head scored(head.cache(), head.queries);
  kvfit::selection_problem problem = scored.problem(5);
  if (!is_stored) problem.memory_cap = 0;
  kvfit::mass_columns columns(problem, kvfit::mass_weighting::relative);
  REQUIRE(columns.is_stored() == is_stored);
  kvfit::vector norms_too;
  kvfit::half_columns halves(columns, norms_too);
  REQUIRE_FALSE(halves.is_empty());
  kvfit::vector norms;
  columns.norms(norms);
  CHECK(norms_too == norms);
  const kvfit::vector residual = kvfit_test::random_matrix(queries, 1, 9);
  const auto norm = static_cast<double>(residual.norm());
  columns.set_residual(residual);
  halves.set_weighted_residual(columns.weighted_residual());
  const double rounding = (static_cast<double>(queries) + 30) * 0x1p-23;
  int differ = 0;
  for (kvfit::index_t j = 0; j < 60; ++j) {
    const kvfit::index_t one[] = {j};
    const Eigen::VectorXd column = columns.columns(one).row(0).cast<double>();
    const double exact = column.dot(residual.cast<double>());
    const double off = std::abs(static_cast<double>(halves.correlation(j, 0)) - exact);
    const double slack = rounding * column.norm() * norm;
    CHECK(off <= static_cast<double>(halves.lost(j)) * norm + slack);
    CHECK(halves.lost(j) <= 0x1p-8F * norms[j]);
    differ += off > slack ? 1 : 0;
  }
  CHECK(differ > 10);  // they are rounded
}

TEST_CASE("without columns in bf16 there are none", "[selection][half_columns]") {
  CHECK(kvfit::half_columns().is_empty());
}

TEST_CASE("a cap has room for columns in bf16 beside those in fp32, for these alone, or for none",
          "[selection][half_columns][memory]") {
  const kvfit::index_t halves = 4 * kvfit::simd::half_words(100) * 30;
  const kvfit::index_t floats = 4 * 100 * 30;
  CHECK(kvfit::may_hold_halves(100, 30, true, halves + floats));
  CHECK_FALSE(kvfit::may_hold_halves(100, 30, true, halves + floats - 1));
  CHECK(kvfit::may_hold_halves(100, 30, false, halves));
  CHECK_FALSE(kvfit::may_hold_halves(100, 30, false, halves - 1));
  CHECK(kvfit::may_hold_halves(100, 30, true, std::numeric_limits<kvfit::index_t>::max()));
}
