// SPDX-License-Identifier: MIT
#include "kvfit/selection/candidate_columns.hpp"

#include <cmath>
#include <vector>

#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

TEST_CASE("columns of some keys are those of all keys, in the order asked for",
          "[selection][joint][candidates]") {
  const auto folded = GENERATE(kvfit::index_t{0}, kvfit::index_t{16});
  const auto made = kvfit_test::make_head(5, {.queries = 70, .keys = 900, .depth = 8});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  const auto problem = scored.problem(10);
  kvfit::mass_columns full(problem, kvfit::mass_weighting::relative);
  kvfit::sketched_columns all(full, folded, problem.memory_cap);
  kvfit::detail::candidate_columns every(all);
  CHECK(every.keys() == 900);
  CHECK(every.row(17) == 17);
  // What is made as it is asked for, from no more than some exponentials.
  kvfit::mass_columns few(problem, kvfit::mass_weighting::relative, nullptr,
                          kvfit::column_use::some);
  kvfit::sketched_columns lazy(few, folded, 0, kvfit::column_use::some);
  kvfit::detail::candidate_columns some(lazy);
  REQUIRE(some.length() == every.length());

  const kvfit::matrix of = kvfit_test::random_matrix(some.length(), 3, 7);
  kvfit::matrix of_all;
  every.correlate(of, of_all);
  kvfit::vector norms_of_all;
  every.squared_norms(norms_of_all);
  std::vector<kvfit::index_t> rows;  // more than one thread takes at a time
  for (kvfit::index_t row = 0; row < 900; row += row % 3 == 0 ? 1 : 2) rows.push_back(row);
  REQUIRE(rows.size() > 512);
  const kvfit::index_t two[] = {40, 3};
  const kvfit::index_t two_rows[] = {rows[40], rows[3]};
  const kvfit::matrix before = every.columns(two_rows);
  some.narrow(rows);

  REQUIRE(some.keys() == static_cast<kvfit::index_t>(rows.size()));
  kvfit::matrix of_some;
  some.correlate(of, of_some);
  REQUIRE(of_some.rows() == some.keys());
  for (kvfit::index_t k = 0; k < some.keys(); ++k) {
    REQUIRE(some.row(k) == rows[static_cast<std::size_t>(k)]);
    for (kvfit::index_t c = 0; c < 3; ++c) {
      const float expected = of_all(some.row(k), c);
      REQUIRE(std::abs(of_some(k, c) - expected) <= 1e-5F * (1 + std::abs(expected)));
    }
  }
  CHECK((some.columns(two) - before).norm() <= 1e-6F * before.norm());
  kvfit::vector norms;
  some.squared_norms(norms);
  for (kvfit::index_t k = 0; k < some.keys(); ++k) {
    REQUIRE(std::abs(norms[k] - norms_of_all[some.row(k)]) <= 1e-5F * norms_of_all[some.row(k)]);
  }
}
