// SPDX-License-Identifier: MIT
#include "kvfit/cache/layer_ranking.hpp"

#include <limits>
#include <vector>

#include "cache/budget_cases.hpp"
#include "cache/cache_case.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/plan_cache.hpp"
#include "kvfit/parallel/serial.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::errc;
using kvfit::index_t;
using kvfit::rank_in_layers;
using kvfit_test::equal_heads;

/// Two layers of two heads of ten keys: within each layer the second head's keys are looked at
/// more, and all of the first layer more than all of the second.
std::vector<std::vector<float>> looked_at() {
  std::vector<std::vector<float>> importance;
  for (const float most : {0.8F, 0.9F, 0.01F, 0.02F}) {
    std::vector<float>& keys = importance.emplace_back();
    for (int j = 0; j < 10; ++j) keys.push_back(most - 0.001F * static_cast<float>(j));
  }
  return importance;
}

kvfit_test::cache_case cache_of_two_lengths() {
  return kvfit_test::cache_case(
      {{.number = 0, .rows = 64}, {.number = 3, .rows = 96, .key_size = 10}});
}

}  // namespace

TEST_CASE("a ranking within layers moves no row from one layer to another",
          "[cache][layer_ranking]") {
  const auto heads = equal_heads(2, 2, 10);
  const auto bounds = kvfit::bounds_of(heads, {.at_least = 0});
  auto importance = looked_at();
  const auto rows = rank_in_layers(importance, heads, *bounds, 20, 0);
  REQUIRE(rows);
  CHECK(*rows == std::vector<index_t>{0, 10, 0, 10});
  importance = looked_at();
  const auto all = kvfit::rank_globally(importance, *bounds, 20);
  REQUIRE(all);
  CHECK(*all == std::vector<index_t>{10, 10, 0, 0});
}

TEST_CASE("a safeguard leaves every head its share of what uniform budgets give",
          "[cache][layer_ranking]") {
  const auto heads = equal_heads(2, 2, 10);
  const auto bounds = kvfit::bounds_of(heads);
  const auto rows_at = [&](double safeguard) {
    auto importance = looked_at();
    const auto rows = rank_in_layers(importance, heads, *bounds, 20, safeguard);
    return rows ? *rows : std::vector<index_t>{};
  };
  CHECK(rows_at(0) == std::vector<index_t>{1, 9, 1, 9});  // the bounds' own least
  CHECK(rows_at(0.4) == std::vector<index_t>{2, 8, 2, 8});
  CHECK(rows_at(0.5) == std::vector<index_t>{2, 8, 2, 8});  // rounded down
  CHECK(rows_at(1) == std::vector<index_t>{5, 5, 5, 5});
}

TEST_CASE("heads of a layer are ranked together wherever they stand in the list",
          "[cache][layer_ranking]") {
  const auto sorted = equal_heads(2, 2, 10);
  const std::vector<kvfit::head_rows> heads = {sorted[0], sorted[2], sorted[1], sorted[3]};
  const auto bounds = kvfit::bounds_of(heads);
  auto keys = looked_at();
  std::vector<std::vector<float>> importance = {keys[0], keys[2], keys[1], keys[3]};
  const auto rows = rank_in_layers(importance, heads, *bounds, 20, 0.4);
  REQUIRE(rows);
  CHECK(*rows == std::vector<index_t>{2, 2, 8, 8});
}

TEST_CASE("a ranking within layers refuses what does not fit", "[cache][layer_ranking]") {
  const auto heads = equal_heads(2, 2, 10);
  const auto bounds = kvfit::bounds_of(heads);
  auto importance = looked_at();
  for (const double wrong : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    const auto refused = rank_in_layers(importance, heads, *bounds, 20, wrong);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::invalid_option);
    CHECK(refused.error().argument == "safeguard");
  }
  importance.pop_back();
  CHECK(rank_in_layers(importance, heads, *bounds, 20, 0).error().code == errc::shape_mismatch);
  importance = looked_at();
  CHECK(rank_in_layers(importance, heads, *bounds, 3, 0).error().code == errc::budget_out_of_range);
}

TEST_CASE("a cache is planned by one ranking a layer", "[cache][layer_ranking]") {
  const kvfit_test::cache_case given = cache_of_two_lengths();
  kvfit::cache_options options{.budget = 40};
  options.shares = kvfit::budgets::layer_ranking{.by = {.importance = kvfit::importance_kind::max},
                                                 .safeguard = 0.25};
  const auto plan = kvfit::plan_cache(given.view, given.queries, options, kvfit::serial{});
  REQUIRE(plan);
  std::vector<std::vector<float>> importance;
  std::vector<kvfit::head_rows> heads;
  for (std::size_t l = 0; l < 2; ++l) {
    for (std::size_t h = 0; h < 2; ++h) {
      const auto& block = given.view.layers[l].heads[h];
      const auto scores = kvfit::score_pass(block, given.pair(l, h), {},
                                            {.importance = kvfit::importance_kind::max});
      REQUIRE(scores);
      importance.emplace_back(scores->importance.begin(), scores->importance.end());
      heads.push_back({{given.view.layers[l].number, static_cast<index_t>(h)}, block.keys.rows()});
    }
  }
  const auto bounds = kvfit::bounds_of(heads);
  const auto rows = rank_in_layers(importance, heads, *bounds, 40, 0.25);
  REQUIRE(rows);
  CHECK(plan->rows == *rows);
  CHECK(plan->rows != std::vector<index_t>{8, 8, 12, 12});  // uniform
  CHECK(plan->rows[0] + plan->rows[1] == 16);
  CHECK(plan->rows[2] + plan->rows[3] == 24);
  options.shares = kvfit::budgets::layer_ranking{.safeguard = 2};
  const auto refused = kvfit::plan_cache(given.view, given.queries, options, kvfit::serial{});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().argument == "safeguard");
}
