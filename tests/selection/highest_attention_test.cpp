// SPDX-License-Identifier: MIT
#include "kvfit/selection/highest_attention.hpp"

#include <algorithm>
#include <vector>

#include "selection/heads.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"

using kvfit::importance_kind;
using kvfit::pooling_kind;
using kvfit::selection::highest_attention;
namespace selection = kvfit::selection;

namespace {

std::vector<kvfit::index> ranking_of(const Eigen::VectorXd& scores) {
  std::vector<kvfit::index> rows = kvfit_test::rows_up_to(scores.size());
  std::stable_sort(rows.begin(), rows.end(),
                   [&](kvfit::index a, kvfit::index b) { return scores[a] > scores[b]; });
  return rows;
}

}  // namespace

TEST_CASE(
    "highest attention ranks as the double-precision oracle does, by every measure and pooling",
    "[selection][highest_attention]") {
  const auto kind = GENERATE(importance_kind::mean, importance_kind::rms, importance_kind::max);
  const auto pooling = GENERATE(pooling_kind::none, pooling_kind::average, pooling_kind::max);
  const kvfit::index width =
      pooling == pooling_kind::none ? 7 : GENERATE(kvfit::index{3}, kvfit::index{7});
  const highest_attention policy{kind, pooling, width};
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const auto head = kvfit_test::make_head(seed);
    const kvfit_test::scored_head scored(head.cache(), head.queries,
                                         selection::wanted_scores(policy));
    const auto full = kvfit_test::attend_in_double(head.queries, head.cache());
    const Eigen::VectorXd expected =
        kvfit_test::pool_of(kvfit_test::importance_of(full.weights, kind), pooling, width);
    const std::vector<kvfit::index> ranking = ranking_of(expected);
    const kvfit::index budget = 20;
    const auto chosen = select(policy, scored.problem(budget));
    REQUIRE(chosen);
    REQUIRE(chosen->positions.size() == 20);
    CHECK(chosen->weights.empty());

    // Ties are exact where one score is the maximum of both windows; other scores nearer than this
    // may be told apart differently in fp32 (logits of magnitude 30 carry 30 · 2⁻²⁴ · depth).
    constexpr double resolution = 5e-5;
    double narrowest = 1;
    for (std::size_t k = 0; k < 20; ++k) {
      const double gap = 1 - expected[ranking[k + 1]] / expected[ranking[k]];
      if (gap > 0) narrowest = std::min(narrowest, gap);
    }
    INFO("seed " << seed << ", narrowest relative gap " << narrowest);
    if (narrowest < resolution) continue;
    ++compared;
    CHECK(chosen->positions == std::vector<kvfit::index>(ranking.begin(), ranking.begin() + 20));
  }
  INFO(compared << " of 6 heads were clear enough to compare");
  CHECK(compared >= 3);
}

TEST_CASE("keys of equal importance are kept from the front", "[selection][highest_attention]") {
  // Queries of zero and a bias: logits are equal to the last bit, so importance is too.
  kvfit_test::head head = kvfit_test::make_head(2, {.queries = 20, .keys = 32});
  head.queries.setZero();
  std::vector<float> bias(32, 0.0F);
  bias[9] = bias[3] = 1;
  bias[1] = -1;
  kvfit::kv_block cache = head.cache();
  cache.bias = bias;
  const auto kind = GENERATE(importance_kind::mean, importance_kind::rms, importance_kind::max);
  const kvfit_test::scored_head scored(cache, head.queries, {.importance = kind});
  const auto chosen = select(highest_attention{.importance = kind}, scored.problem(7));
  REQUIRE(chosen);
  CHECK(chosen->positions == std::vector<kvfit::index>{3, 9, 0, 2, 4, 5, 6});
}

TEST_CASE("highest attention without a measure is refused", "[selection][highest_attention]") {
  const auto head = kvfit_test::make_head(3, {.queries = 5, .keys = 6});
  const kvfit_test::scored_head scored(head.cache(), head.queries);
  const auto chosen =
      select(highest_attention{.importance = importance_kind::none}, scored.problem(2));
  REQUIRE_FALSE(chosen);
  CHECK(chosen.error().code == kvfit::errc::invalid_option);
  CHECK(chosen.error().argument == "importance");
}
