// SPDX-License-Identifier: MIT
#include "kvfit/selection/sketched_columns.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kvfit/core/random.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

namespace {

constexpr kvfit::index_t no_cap = std::numeric_limits<kvfit::index_t>::max();

/// S as the header describes it: query i goes to row i mod `rows` with the sign drawn for it.
Eigen::MatrixXd sketch_in_double(kvfit::index_t rows, kvfit::index_t queries) {
  Eigen::MatrixXd sketch = Eigen::MatrixXd::Zero(rows, queries);
  kvfit::random_source random(0);
  for (kvfit::index_t i = 0; i < queries; ++i) {
    sketch(i % rows, i) = (random.next() >> 63U) != 0 ? 1.0 : -1.0;
  }
  return sketch;
}

double share_off(const kvfit::matrix& found, const Eigen::MatrixXd& expected) {
  return oracle::relative_error(oracle::to_double(found), expected);
}

}  // namespace

TEST_CASE("sketched columns are those of a sketch formed explicitly in double",
          "[selection][sketch]") {
  // 131 keys: more than two blocks of the transposition; 29 rows do not divide 100 queries.
  const bool is_stored = GENERATE(true, false);
  const kvfit::index_t rows = GENERATE(kvfit::index_t{1}, kvfit::index_t{29}, kvfit::index_t{99});
  INFO(rows << " rows" << (is_stored ? ", stored" : ", made anew"));
  const kvfit_test::head made =
      kvfit_test::make_head(1, {.queries = 100, .keys = 131, .depth = 8, .width = 4});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  kvfit::selection_problem problem = scored.problem(10);
  if (!is_stored) problem.memory_cap = 0;
  kvfit::mass_columns full(problem, kvfit::mass_weighting::relative);
  REQUIRE(full.is_stored() == is_stored);
  kvfit::sketched_columns sketched(full, rows, no_cap);
  REQUIRE(sketched.is_folded());
  CHECK(sketched.rows() == rows);
  CHECK(sketched.keys() == 131);

  const auto equation = kvfit_test::make_mass_equation(made.cache(), made.queries, {},
                                                       kvfit::mass_weighting::relative);
  const Eigen::MatrixXd sketch = sketch_in_double(rows, 100);
  const Eigen::MatrixXd expected = oracle::product(sketch, equation.columns);  // rows × T

  CHECK(share_off(sketched.columns(kvfit_test::rows_up_to(131)), expected.transpose()) < 1e-5);
  const std::vector<kvfit::index_t> some = {130, 0, 64, 7, 7};
  const kvfit::matrix picked = sketched.columns(some);
  REQUIRE(picked.rows() == 5);
  for (std::size_t k = 0; k < some.size(); ++k) {
    const auto row = static_cast<kvfit::index_t>(k);
    CHECK(share_off(picked.row(row), expected.col(some[k]).transpose()) < 1e-5);
  }

  kvfit::vector norms;
  sketched.squared_norms(norms);
  CHECK(share_off(norms, expected.colwise().squaredNorm().transpose()) < 1e-5);

  const kvfit::matrix targets = kvfit_test::random_matrix(100, 3, 4);
  const kvfit::matrix folded = sketched.fold(targets);
  const Eigen::MatrixXd expected_fold = oracle::product(sketch, oracle::to_double(targets));
  REQUIRE(folded.rows() == rows);
  CHECK(share_off(folded, expected_fold) < 1e-5);

  kvfit::matrix products;
  sketched.correlate(folded, products);
  REQUIRE(products.rows() == 131);
  REQUIRE(products.cols() == 3);
  CHECK(share_off(products, oracle::transposed_product(expected, expected_fold)) < 2e-5);
}

TEST_CASE("a sketch keeps inner products of columns within a few / sqrt(rows)",
          "[selection][sketch]") {
  const kvfit_test::head made =
      kvfit_test::make_head(2, {.queries = 2000, .keys = 60, .depth = 8, .width = 4});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  kvfit::mass_columns full(scored.problem(10), kvfit::mass_weighting::relative);
  const auto equation = kvfit_test::make_mass_equation(made.cache(), made.queries, {},
                                                       kvfit::mass_weighting::relative);
  const Eigen::MatrixXd exact = oracle::transposed_product(equation.columns, equation.columns);
  double before = kvfit_test::infinity;
  for (const kvfit::index_t rows : {25, 400}) {
    kvfit::sketched_columns sketched(full, rows, no_cap);
    const Eigen::MatrixXd columns =
        oracle::to_double(sketched.columns(kvfit_test::rows_up_to(60)).transpose());
    const Eigen::MatrixXd kept = oracle::transposed_product(columns, columns);
    double worst = 0;
    double squares = 0;
    for (kvfit::index_t a = 0; a < 60; ++a) {
      for (kvfit::index_t b = 0; b < 60; ++b) {
        const double off =
            std::abs(kept(a, b) - exact(a, b)) / std::sqrt(exact(a, a) * exact(b, b));
        worst = std::max(worst, off);
        squares += off * off;
      }
    }
    const double rms = std::sqrt(squares / 3600);
    const double unit = 1 / std::sqrt(static_cast<double>(rows));
    INFO(rows << " rows: rms " << rms / unit << ", worst " << worst / unit << " / sqrt(rows)");
    CHECK(worst <= 5 * unit);
    CHECK(rms <= 1.5 * unit);
    CHECK(rms < 0.5 * before);  // 16 times the rows: a quarter of the error is expected
    before = rms;
  }
}

TEST_CASE("nothing is folded where that saves nothing or does not fit, and all goes to the columns",
          "[selection][sketch]") {
  const kvfit_test::head made =
      kvfit_test::make_head(3, {.queries = 50, .keys = 30, .depth = 8, .width = 4});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  kvfit::mass_columns full(scored.problem(10), kvfit::mass_weighting::relative);
  // 30 · 20 floats are 2400 bytes.
  CHECK(kvfit::sketched_columns(full, 20, 2400).is_folded());
  CHECK_FALSE(kvfit::sketched_columns(full, 20, 2399).is_folded());
  CHECK(kvfit::sketched_columns(full, 49, no_cap).is_folded());
  CHECK_FALSE(kvfit::sketched_columns(full, 50, no_cap).is_folded());
  CHECK_FALSE(kvfit::sketched_columns(full, 51, no_cap).is_folded());
  const kvfit::index_t rows = GENERATE(kvfit::index_t{0}, kvfit::index_t{-1}, kvfit::index_t{50});
  kvfit::sketched_columns plain(full, rows, no_cap);
  REQUIRE_FALSE(plain.is_folded());
  CHECK(plain.rows() == 50);

  const auto equation = kvfit_test::make_mass_equation(made.cache(), made.queries, {},
                                                       kvfit::mass_weighting::relative);
  const std::vector<kvfit::index_t> some = {29, 4};
  const kvfit::matrix picked = plain.columns(some);
  CHECK(share_off(picked.row(0), equation.columns.col(29).transpose()) < 1e-5);
  CHECK(share_off(picked.row(1), equation.columns.col(4).transpose()) < 1e-5);
  kvfit::vector norms;
  plain.squared_norms(norms);
  CHECK(share_off(norms, equation.columns.colwise().squaredNorm().transpose()) < 1e-5);
  const kvfit::matrix targets = kvfit_test::random_matrix(50, 3, 5);
  CHECK(plain.fold(targets) == targets);
  kvfit::matrix products;
  plain.correlate(targets, products);
  REQUIRE(products.cols() == 3);
  CHECK(share_off(products,
                  oracle::transposed_product(equation.columns, oracle::to_double(targets))) < 1e-5);
}

TEST_CASE("products with what is unfolded are those with the folded columns",
          "[selection][sketch]") {
  const kvfit_test::head made =
      kvfit_test::make_head(2, {.queries = 90, .keys = 40, .depth = 8, .width = 4});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  kvfit::mass_columns full(scored.problem(10), kvfit::mass_weighting::relative);
  kvfit::sketched_columns sketched(full, 30, no_cap);
  const kvfit::matrix of = kvfit_test::random_matrix(30, 3, 4);
  const kvfit::matrix unfolded = sketched.unfold(of);
  REQUIRE(unfolded.rows() == 90);
  // (S Φ)ᵀ R = Φᵀ (Sᵀ R): the same products, whichever of the two is folded.
  kvfit::matrix folded_products;
  kvfit::matrix products;
  sketched.correlate(of, folded_products);
  full.correlate(unfolded, products);
  CHECK((products - folded_products).norm() <= 1e-5F * products.norm());

  kvfit::sketched_columns plain(full, 0, no_cap);
  const kvfit::matrix own = kvfit_test::random_matrix(90, 3, 4);
  CHECK(plain.unfold(own) == own);
}
