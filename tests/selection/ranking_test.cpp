// SPDX-License-Identifier: MIT
#include "kvfit/selection/ranking.hpp"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/core/random.hpp"
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
    return kvfit::selection::highest_rows(problem, scores.data(), count);
  };
  CHECK(best(0) == rows{});
  CHECK(best(1) == rows{2});
  CHECK(best(2) == rows{2, 1});
  CHECK(best(4) == rows{2, 1, 4, 0});
  CHECK(best(7) == rows{2, 1, 4, 0, 3, 6});
}

TEST_CASE("the best rows of any order are the first of all rows sorted", "[selection][ranking]") {
  kvfit::random_source draw(7);
  kvfit::selection::best_rows best;
  for (const kvfit::index_t rows : {0, 1, 5, 40, 300}) {
    std::vector<kvfit::selection::ranked_row> all;
    for (kvfit::index_t row = 0; row < rows; ++row) {
      all.push_back({static_cast<double>(draw.below(20)), row});  // most scores several times
    }
    for (std::size_t k = all.size(); k > 1; --k) std::swap(all[k - 1], all[draw.below(k)]);
    for (const kvfit::index_t most : {0, 1, 3, 37, 300, 1000}) {
      best.restart(most);
      for (const auto& one : all) best.offer(one.row, one.score);
      auto expected = all;
      std::sort(expected.begin(), expected.end(), kvfit::selection::ranks_before());
      expected.resize(std::min(expected.size(), static_cast<std::size_t>(most)));
      for (int again = 0; again < 2; ++again) {  // to look changes nothing
        const auto found = best.sorted();
        INFO(rows << " rows, of them " << most);
        REQUIRE(found.size() == expected.size());
        for (std::size_t k = 0; k < found.size(); ++k) CHECK(found[k].row == expected[k].row);
      }
    }
  }
}
