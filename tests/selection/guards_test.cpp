// SPDX-License-Identifier: MIT
// Each case fails where the guard it is named after is taken away (docs/requirements.md, Guards).
#include <algorithm>
#include <vector>

#include "kvfit/selection/correlation_bounds.hpp"
#include "kvfit/selection/omp.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;

TEST_CASE("O: a pursuit that explains too much picks no hidden key, and ends where keys do",
          "[selection][omp][guard]") {
  // Weights of 2 and more overshoot, so that all keys seen disagree with what is left, and a hidden
  // one, which agrees with nothing, would be the best.
  const head made = make_head(3, {.queries = 40, .keys = 12});
  std::vector<float> bias(12, 0.0F);
  for (const std::size_t row : {1, 4, 5, 9}) bias[row] = hidden_key;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  const kvfit::selection::omp policy{.keys_per_round = GENERATE(index_t{1}, index_t{3}),
                                     .lower = 2};
  const scored_head scored(cache, made.queries, wanted_scores(policy));
  for (const index_t budget : {3, 6, 8, 10}) {
    const auto chosen = select(policy, scored.problem(budget));
    REQUIRE(chosen);
    CHECK(static_cast<index_t>(chosen->positions.size()) == std::min<index_t>(budget, 8));
    for (const index_t row : chosen->positions) CHECK(bias[static_cast<std::size_t>(row)] == 0);
  }
}

TEST_CASE("O: a bound leaves room for what fp32 may add to a product",
          "[selection][correlation_bounds][guard]") {
  constexpr index_t keys = 12;
  constexpr index_t queries = 30;
  constexpr float slack = 0.01F;
  const kvfit::matrix columns = random_matrix(keys, queries, 3);
  const kvfit::vector norms = columns.rowwise().norm();
  kvfit::vector residual = random_matrix(queries, 1, 4);
  kvfit::correlation_bounds exact(keys, queries);
  kvfit::correlation_bounds roomy(keys, queries);
  for (int round = 0; round < 3; ++round) {
    exact.move_to(residual, norms, 0);
    roomy.move_to(residual, norms, slack);
    for (index_t j = 0; j < keys; ++j) {
      CHECK(roomy.bounds()[j] - exact.bounds()[j] > 0.9F * slack * norms[j]);
      const float product = columns.row(j).dot(residual.transpose());
      if (j % 2 == 0 && round == 0) {
        exact.set(j, product);
        roomy.set(j, product);
      }
    }
    residual[3] *= 1.01F;
  }
}
