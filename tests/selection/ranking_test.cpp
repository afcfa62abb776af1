// SPDX-License-Identifier: MIT
#include "kvfit/selection/ranking.hpp"

#include <limits>
#include <vector>

#include "selection/heads.hpp"
#include "support/catch.hpp"

TEST_CASE("scores in double, -infinity among them, are ranked with ties to the earlier row",
          "[selection][ranking]") {
  constexpr double lowest = -std::numeric_limits<double>::infinity();
  const auto head = kvfit_test::make_head(1, {.queries = 3, .keys = 7});
  std::vector<float> bias(7, 0.0F);
  bias[5] = kvfit_test::hidden_key;
  kvfit::kv_block cache = head.cache();
  cache.bias = bias;
  const kvfit_test::scored_head scored(cache, head.queries);
  const kvfit::selection_problem problem = scored.problem(1);
  Eigen::VectorXd scores(7);
  scores << lowest, -1e9, -1e9 + 1e-6, lowest, -1e9, 3, lowest;  // one number in fp32, three here
  using rows = std::vector<kvfit::index_t>;
  const auto best = [&](kvfit::index_t count) {
    return kvfit::selection::highest_rows(problem, scores, count);
  };
  CHECK(best(0) == rows{});
  CHECK(best(1) == rows{2});
  CHECK(best(2) == rows{2, 1});
  CHECK(best(4) == rows{2, 1, 4, 0});
  CHECK(best(7) == rows{2, 1, 4, 0, 3, 6});
}
