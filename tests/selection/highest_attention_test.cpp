// SPDX-License-Identifier: MIT
#include "kvfit/selection/highest_attention.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "kvfit/core/random.hpp"
#include "selection/heads.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"

using kvfit::importance_kind;
using kvfit::pooling_kind;
using kvfit::selection::highest_attention;
namespace selection = kvfit::selection;

namespace {

std::vector<kvfit::index_t> ranking_of(const Eigen::VectorXd& scores) {
  std::vector<kvfit::index_t> rows = kvfit_test::rows_up_to(scores.size());
  std::stable_sort(rows.begin(), rows.end(),
                   [&](kvfit::index_t a, kvfit::index_t b) { return scores[a] > scores[b]; });
  return rows;
}

}  // namespace

TEST_CASE(
    "highest attention ranks as the double-precision oracle does, by every measure and pooling",
    "[selection][highest_attention]") {
  const auto kind = GENERATE(importance_kind::mean, importance_kind::rms, importance_kind::max);
  const auto pooling = GENERATE(pooling_kind::none, pooling_kind::average, pooling_kind::max);
  const kvfit::index_t width =
      pooling == pooling_kind::none ? 7 : GENERATE(kvfit::index_t{3}, kvfit::index_t{7});
  const highest_attention policy{kind, pooling, width};
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const auto head = kvfit_test::make_head(seed);
    const kvfit_test::scored_head scored(head.cache(), head.queries,
                                         selection::wanted_scores(policy));
    const auto full = kvfit_test::attend_in_double(head.queries, head.cache());
    const Eigen::VectorXd expected =
        kvfit_test::pool_of(kvfit_test::importance_of(full.weights, kind), pooling, width);
    const std::vector<kvfit::index_t> ranking = ranking_of(expected);
    const kvfit::index_t budget = 20;
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
    CHECK(chosen->positions == std::vector<kvfit::index_t>(ranking.begin(), ranking.begin() + 20));
  }
  INFO(compared << " of 6 heads were clear enough to compare");
  CHECK(compared >= 3);
}

TEST_CASE("an observation window ranks by the last queries of every head alone",
          "[selection][highest_attention]") {
  const kvfit::index_t window = GENERATE(kvfit::index_t{1}, kvfit::index_t{9}, kvfit::index_t{40});
  CAPTURE(window);
  const highest_attention policy{.importance = importance_kind::mean,
                                 .pooling = pooling_kind::max,
                                 .pooling_width = 3,
                                 .window = window};
  int compared = 0;
  int different = 0;  // from the ranking by all queries
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const auto head = kvfit_test::make_head(seed);
    const kvfit::row_view rows(head.queries);
    const std::vector<kvfit::query_block> heads = {rows.middle_rows(0, 60),
                                                   rows.middle_rows(60, 36)};
    const std::span<const kvfit::query_block> queries(heads);
    const kvfit_test::scored_head scored(head.cache(), queries, selection::wanted_scores(policy));
    const auto full = kvfit_test::attend_in_double(queries, head.cache());
    const auto ranking_by = [&](kvfit::index_t from_each) {
      const kvfit::index_t second = std::min<kvfit::index_t>(from_each, 36);
      const kvfit::index_t first = std::min<kvfit::index_t>(from_each, 60);
      Eigen::MatrixXd seen(first + second, 64);
      seen << full.weights.middleRows(60 - first, first), full.weights.bottomRows(second);
      return kvfit_test::pool_of(kvfit_test::importance_of(seen, importance_kind::mean),
                                 pooling_kind::max, 3);
    };
    const Eigen::VectorXd expected = ranking_by(window);
    const std::vector<kvfit::index_t> ranking = ranking_of(expected);
    double narrowest = 1;
    for (std::size_t k = 0; k < 20; ++k) {
      const double gap = 1 - expected[ranking[k + 1]] / expected[ranking[k]];
      if (gap > 0) narrowest = std::min(narrowest, gap);
    }
    if (narrowest < 5e-5) continue;
    ++compared;
    const auto chosen = select(policy, scored.problem(20));
    REQUIRE(chosen);
    INFO("seed " << seed);
    const std::vector<kvfit::index_t> best(ranking.begin(), ranking.begin() + 20);
    CHECK(chosen->positions == best);
    const std::vector<kvfit::index_t> of_all = ranking_of(ranking_by(1000));
    different += std::equal(best.begin(), best.end(), of_all.begin()) ? 0 : 1;
  }
  INFO(compared << " of 6 heads were clear enough to compare, " << different << " differ");
  CHECK(compared >= 3);
  CHECK(different >= 3);
}

TEST_CASE("an observation window that sees no key is refused, not read as equal importance",
          "[selection][highest_attention]") {
  const auto head = kvfit_test::make_head(3, {.queries = 12, .keys = 6});
  kvfit::matrix mask = kvfit::matrix::Zero(12, 6);
  mask.bottomRows(4).setConstant(kvfit_test::hidden_key);
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = head.cache();
  cache.masks = masks;
  for (const kvfit::index_t window : {4, 5}) {
    CAPTURE(window);
    const highest_attention policy{.window = window};
    const kvfit_test::scored_head scored(cache, head.queries, selection::wanted_scores(policy));
    const auto chosen = select(policy, scored.problem(2));
    REQUIRE(chosen.has_value() == (window == 5));
    if (chosen) continue;
    CHECK(chosen.error().code == kvfit::errc::invalid_option);
    CHECK(chosen.error().argument == "window");
    CHECK(chosen.error().actual == 4);
  }
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
  CHECK(chosen->positions == std::vector<kvfit::index_t>{3, 9, 0, 2, 4, 5, 6});
}

TEST_CASE("the best rows are those of a full stable sort, whatever the order and ties",
          "[selection][highest_attention]") {
  const auto order = GENERATE(0, 1, 2, 3);  // few values, rising, falling, spread
  kvfit_test::head head = kvfit_test::make_head(4, {.queries = 3, .keys = 300});
  std::vector<float> bias(300, 0.0F);
  bias[17] = bias[200] = -std::numeric_limits<float>::infinity();
  kvfit::kv_block cache = head.cache();
  cache.bias = bias;
  const kvfit_test::scored_head scored(cache, head.queries);
  kvfit::attention_scores scores = scored.scores();
  kvfit::random_source draw(5);
  for (kvfit::index_t j = 0; j < 300; ++j) {
    const auto place = static_cast<float>(j);
    scores.importance[j] = order == 0   ? static_cast<float>(draw.below(4))
                           : order == 1 ? place
                           : order == 2 ? -place
                                        : static_cast<float>(draw.uniform());
  }
  std::vector<kvfit::index_t> ranking = ranking_of(scores.importance.cast<double>());
  std::erase_if(ranking, [](kvfit::index_t row) { return row == 17 || row == 200; });
  kvfit::selection_problem problem = scored.problem(1);
  problem.scores = &scores;
  for (const kvfit::index_t count : {0, 1, 2, 7, 150, 298, 299, 300, 1000}) {
    INFO("order " << order << ", " << count << " rows");
    const auto found = selection::rank_by_importance(problem, count);
    const auto length = std::min<std::size_t>(ranking.size(), static_cast<std::size_t>(count));
    CHECK(found == std::vector<kvfit::index_t>(
                       ranking.begin(), ranking.begin() + static_cast<std::ptrdiff_t>(length)));
  }
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

TEST_CASE("highest attention says itself which widths and windows it can't do",
          "[selection][highest_attention]") {
  CHECK(selection::check_settings(highest_attention{}));
  const auto even = selection::check_settings(highest_attention{.pooling_width = 4});
  REQUIRE_FALSE(even);
  CHECK(even.error().argument == "pooling_width");
  const auto negative = selection::check_settings(highest_attention{.window = -1});
  REQUIRE_FALSE(negative);
  CHECK(negative.error().code == kvfit::errc::invalid_option);
  CHECK(negative.error().argument == "window");
  CHECK(negative.error().actual == -1);
}
