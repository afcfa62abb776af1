// SPDX-License-Identifier: MIT
#include "kvfit/compact/replacement_rows.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvfit/attention/score_pass.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using kvfit::index_t;

TEST_CASE("rows that agree with missing mass are all, or those that agree most at first",
          "[stages][replacement]") {
  const auto made = kvfit_test::make_head(4, {.queries = 80, .keys = 3000, .depth = 8});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  const auto problem = scored.problem(20);
  std::vector<float> prior(3000, 1);
  prior[77] = 0;
  const kvfit::selection::joint some{.prior = prior};
  const kvfit::selection::joint every{.candidates = 0, .prior = prior};
  REQUIRE(kvfit::detail::search_candidates(some, 3000, 20) == 2048);
  std::vector<char> is_taken(3000, 0);
  is_taken[5] = 1;
  const auto equation = kvfit_test::make_mass_equation(made.cache(), made.queries, {},
                                                       kvfit::mass_weighting::relative);
  const auto expected = [&](const kvfit::vector& missing) {
    Eigen::VectorXd out = oracle::transposed_product(equation.columns, missing.cast<double>());
    out[77] = 0;
    return out;
  };
  kvfit::detail::replacement_rows among_all(problem, &every);
  kvfit::detail::replacement_rows among_some(problem, &some);
  kvfit::vector missing = kvfit_test::random_matrix(80, 1, 1).cwiseAbs();  // all agree
  const kvfit::vector first = among_some.agreement(missing, is_taken);
  CHECK(first == among_all.agreement(missing, is_taken));
  const Eigen::VectorXd of_first = expected(missing);
  const double size = of_first.cwiseAbs().maxCoeff();
  CHECK((first.cast<double>() - of_first).cwiseAbs().maxCoeff() <= 1e-5 * size);

  // The second time, none but the 2,048 best of the first are looked at.
  std::vector<double> positive;
  for (index_t j = 0; j < 3000; ++j) {
    if (j != 5 && first[j] > 0) positive.push_back(static_cast<double>(first[j]));
  }
  std::sort(positive.begin(), positive.end(), std::greater<>());
  REQUIRE(positive.size() == 2998);
  const double least = positive[2047];
  missing = kvfit_test::random_matrix(80, 1, 2);
  const kvfit::vector second = among_some.agreement(missing, is_taken);
  const Eigen::VectorXd of_second = expected(missing);
  index_t looked_at = 0;
  for (index_t j = 0; j < 3000; ++j) {
    const bool is_kept = j != 5 && first[j] > 0 && static_cast<double>(first[j]) >= least;
    const double wanted = is_kept ? of_second[j] : 0.0;
    REQUIRE(std::abs(static_cast<double>(second[j]) - wanted) <= 1e-5 * size);
    looked_at += is_kept ? 1 : 0;
  }
  CHECK(looked_at == 2048);
  const kvfit::vector all = among_all.agreement(missing, is_taken);
  CHECK((all.cast<double>() - of_second).cwiseAbs().maxCoeff() <= 1e-5 * size);
}
