// SPDX-License-Identifier: MIT
#include "kvfit/selection/mass_columns.hpp"

#include <limits>
#include <vector>

#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using kvfit::mass_columns;
using kvfit::mass_weighting;

namespace {

/// Two query blocks (of 70 and 30 rows: more than one panel), a bias, and masks that hide one
/// query's keys and one key.
struct masked_head {
  masked_head() {
    mask_of_first.row(5).setConstant(kvfit_test::hidden_key);
    mask_of_first.col(9).setConstant(kvfit_test::hidden_key);
    mask_of_second.col(9).setConstant(kvfit_test::hidden_key);
    mask_of_second(2, 3) = 1.5F;
    for (std::size_t j = 0; j < bias.size(); ++j) bias[j] = 0.01F * static_cast<float>(j);
  }
  [[nodiscard]] kvfit::kv_block cache() const {
    return {.keys = head.keys, .values = head.values, .bias = bias, .masks = masks};
  }
  [[nodiscard]] kvfit::query_set queries() const {
    return std::span<const kvfit::query_block>(blocks);
  }

  kvfit_test::head head = kvfit_test::make_head(21, {.queries = 70});
  kvfit_test::head other = kvfit_test::make_head(22, {.queries = 30});
  kvfit::matrix mask_of_first = kvfit::matrix::Zero(70, 64);
  kvfit::matrix mask_of_second = kvfit::matrix::Zero(30, 64);
  std::vector<kvfit::row_view> masks = {mask_of_first, mask_of_second};
  std::vector<kvfit::query_block> blocks = {kvfit::row_view(head.queries),
                                            kvfit::row_view(other.queries)};
  std::vector<float> bias = std::vector<float>(64);
};

}  // namespace

TEST_CASE("the mass equation's columns, norms, products and target are the oracle's, stored or not",
          "[selection][mass_columns]") {
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  const masked_head made;
  const bool is_kept = GENERATE(false, true);  // by the score pass
  const bool is_stored = is_kept || GENERATE(true, false);
  const kvfit_test::scored_head scored(made.cache(), made.queries(),
                                       {.keep_exponentials = is_kept ? 100 * 64 * 4 : 0});
  kvfit::selection_problem problem = scored.problem(1);
  CHECK(problem.scores->exponentials.size() == (is_kept ? 100 * 64 : 0));
  if (is_kept || !is_stored) problem.memory_cap = 0;
  mass_columns columns(problem, weighting);
  const auto expected = kvfit_test::make_mass_equation(made.cache(), made.queries(), {}, weighting);
  REQUIRE(columns.is_stored() == is_stored);
  REQUIRE(columns.queries() == 100);
  REQUIRE(columns.keys() == 64);

  // Logits of magnitude 40 with 16 terms: 40 · 32 · 2⁻²⁴ = 8e-5 at worst, relative to each entry,
  // and sums of up to 100 of them in fp32 add 100 · 2⁻²⁴ at worst.
  constexpr double relative = 1e-4;
  const std::vector<kvfit::index_t> some = {60, 0, 9, 31};
  const Eigen::MatrixXd found = oracle::to_double(columns.columns(some).transpose());
  const Eigen::MatrixXd wanted = expected.columns_of(some);
  const double column_error =
      ((found - wanted).cwiseAbs() - relative * wanted.cwiseAbs()).maxCoeff();
  INFO("columns exceed their bound by " << column_error);
  CHECK(column_error <= 0);
  CHECK(found.row(5).isZero(0.0));
  CHECK(found.col(2).isZero(0.0));

  const double target_error = (columns.target().cast<double>() - expected.target)
                                  .cwiseQuotient(expected.target.cwiseMax(1.0))
                                  .cwiseAbs()
                                  .maxCoeff();
  INFO("target off by " << target_error);
  CHECK(target_error < 1e-5);
  CHECK(columns.target()[5] == 0);

  kvfit::vector norms;
  columns.norms(norms);
  const Eigen::VectorXd wanted_norms = expected.columns.colwise().norm();
  CHECK(oracle::largest_difference(norms.cast<double>(), wanted_norms) <=
        relative * wanted_norms.maxCoeff());

  kvfit::vector agreement;
  columns.correlate(columns.target(), agreement);
  const Eigen::VectorXd wanted_agreement =
      oracle::transposed_product(expected.columns, expected.target);
  const double error = (agreement.cast<double>() - wanted_agreement)
                           .cwiseQuotient(wanted_agreement.cwiseMax(1e-30))
                           .cwiseAbs()
                           .maxCoeff();
  INFO("correlations off by " << error);
  CHECK(error < 2 * relative);
}

TEST_CASE("all ones solve the mass equation over all keys", "[selection][mass_columns]") {
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  const masked_head made;
  const kvfit_test::scored_head scored(made.cache(), made.queries());
  const mass_columns columns(scored.problem(1), weighting);
  const kvfit::matrix all = columns.columns(kvfit_test::rows_up_to(64)).transpose();
  const double error = (all.rowwise().sum() - columns.target())
                           .cwiseQuotient(columns.target().cwiseMax(1.0F))
                           .cwiseAbs()
                           .maxCoeff();
  INFO("off by " << error);
  CHECK(error < 1e-5);
}

TEST_CASE("relative weighting asks every query for 1, absolute for its mass", "[bias][weighting]") {
  const masked_head made;
  const kvfit_test::scored_head scored(made.cache(), made.queries());
  for (kvfit::index_t i = 0; i < 100; ++i) {
    const auto relative = weighted_mass_row(scored.scores(), i, mass_weighting::relative);
    const auto absolute = weighted_mass_row(scored.scores(), i, mass_weighting::absolute);
    if (i == 5) {  // sees nothing, asks for nothing
      CHECK((relative.factor == 0 && relative.target == 0));
      CHECK((absolute.factor == 0 && absolute.target == 0));
      continue;
    }
    CHECK(relative.target == 1);
    CHECK(absolute.factor == 1);
    CHECK(relative.factor * absolute.target == Approx(1).epsilon(1e-6));
    CHECK(relative.shift == scored.scores().max[i]);
  }
}
