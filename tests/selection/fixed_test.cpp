// SPDX-License-Identifier: MIT
#include "kvfit/selection/fixed.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/selection/expected_attention.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit_test::hidden_key;
namespace selection = kvfit::selection;

namespace {

using row_list = std::vector<kvfit::index_t>;

/// Ten keys, of which those in `hidden` have a bias of −∞.
struct ten_keys {
  explicit ten_keys(const row_list& hidden = row_list()) {
    for (const kvfit::index_t row : hidden) bias[static_cast<std::size_t>(row)] = hidden_key;
  }

  [[nodiscard]] kvfit::selection_problem problem(kvfit::index_t budget) {
    if (!scored) {
      kvfit::kv_block cache = head.cache();
      cache.bias = bias;
      scored.emplace(cache, head.queries);
    }
    return scored->problem(budget);
  }

  kvfit_test::head head = kvfit_test::make_head(1, {.queries = 12, .keys = 10});
  std::vector<float> bias = std::vector<float>(10, 0.5F);
  std::optional<kvfit_test::scored_head> scored;
};

template <class Policy>
row_list kept(const Policy& policy, ten_keys& keys, kvfit::index_t budget) {
  const auto chosen = select(policy, keys.problem(budget));
  INFO((chosen ? "chosen" : chosen.error().message()));
  REQUIRE(chosen);
  CHECK((chosen->weights.empty() || chosen->weights.size() == chosen->positions.size()));
  return chosen->positions;
}

row_list sorted(row_list some) {
  std::sort(some.begin(), some.end());
  return some;
}

const std::vector<std::pair<std::string, kvfit::any_selection>> every_free_policy = {
    {"first", selection::first{}},
    {"last", selection::last{}},
    {"random", selection::random{.seed = 3}},
    {"highest attention", selection::highest_attention{}},
    {"highest attention of a window", selection::highest_attention{.window = 3}},
    {"expected attention", selection::expected_attention{}},
    {"omp", selection::omp{}},
    {"omp, four keys a round, dropping",
     selection::omp{.keys_per_round = 4, .refit_interval = 2, .drop_below = -7.0}},
};

}  // namespace

TEST_CASE("first and last keep the ends of what is visible", "[selection][fixed]") {
  ten_keys all;
  CHECK(kept(selection::first{}, all, 3) == row_list{0, 1, 2});
  CHECK(kept(selection::last{}, all, 3) == row_list{7, 8, 9});
  CHECK(kept(selection::first{}, all, 10) == kvfit_test::rows_up_to(10));
  CHECK(kept(selection::last{}, all, 10) == kvfit_test::rows_up_to(10));

  const row_list hidden = {0, 2, 9};
  ten_keys ends_hidden(hidden);
  CHECK(kept(selection::first{}, ends_hidden, 3) == row_list{1, 3, 4});
  CHECK(kept(selection::last{}, ends_hidden, 3) == row_list{6, 7, 8});
}

TEST_CASE("H: first and last go by the positions of keys, where they are given",
          "[selection][fixed]") {
  const kvfit_test::head head = kvfit_test::make_head(1, {.queries = 12, .keys = 10});
  std::vector<float> bias(10, 0.0F);
  bias[5] = hidden_key;
  const std::vector<kvfit::index_t> positions = {16, 17, 18, 19, 20, 99, 11, 11, 14, 15};  // a ring
  kvfit::kv_block cache = head.cache();
  cache.bias = bias;
  cache.positions = positions;
  const kvfit_test::scored_head scored(cache, head.queries);
  const auto first = select(selection::first{}, scored.problem(4));
  const auto last = select(selection::last{}, scored.problem(4));
  REQUIRE(first);
  REQUIRE(last);
  CHECK(first->positions == row_list{6, 7, 8, 9});
  CHECK(last->positions == row_list{1, 2, 3, 4});
}

TEST_CASE("§9.28 a seed always draws the same rows, another seed others", "[selection][fixed]") {
  ten_keys all;
  std::set<row_list> draws;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const row_list once = kept(selection::random{.seed = seed}, all, 4);
    CHECK(once == kept(selection::random{.seed = seed}, all, 4));
    draws.insert(sorted(once));
  }
  INFO(draws.size() << " different sets in 40 draws of 4 from 10 (210 sets)");
  CHECK(draws.size() > 30);  // 40 · 39 / 2 / 210 = 4 coincidences expected
}

TEST_CASE("random rows are drawn without replacement, each row as often as any other",
          "[selection][fixed]") {
  const row_list hidden = {4};
  ten_keys some(hidden);  // nine rows to draw from
  constexpr int draws = 3000;
  constexpr double share = 3.0 / 9.0;
  std::vector<int> count(10, 0);
  for (std::uint64_t seed = 0; seed < draws; ++seed) {
    const row_list drawn = kept(selection::random{.seed = seed}, some, 3);
    REQUIRE(std::set<kvfit::index_t>(drawn.begin(), drawn.end()).size() == 3);
    for (const kvfit::index_t row : drawn) ++count[static_cast<std::size_t>(row)];
  }
  CHECK(count[4] == 0);
  const double deviation = std::sqrt(draws * share * (1 - share));
  for (std::size_t row = 0; row < 10; ++row) {
    if (row == 4) continue;
    INFO("row " << row << ": " << count[row] << " of " << draws * share << " ± " << deviation);
    CHECK(std::abs(count[row] - draws * share) < 5 * deviation);
  }
}

TEST_CASE("given rows are taken as given, in their order", "[selection][fixed]") {
  ten_keys all;
  CHECK(kept(selection::given{{8, 1, 5}}, all, 3) == row_list{8, 1, 5});
}

TEST_CASE("given rows that can't be kept are refused, each for its reason", "[selection][fixed]") {
  const row_list hidden = {6};
  ten_keys keys(hidden);
  const auto refused = [&](const row_list& positions, kvfit::index_t budget) {
    const auto chosen = select(selection::given{positions}, keys.problem(budget));
    REQUIRE_FALSE(chosen);
    return chosen.error();
  };
  const kvfit::error beyond = refused({1, 10}, 2);
  CHECK(beyond.code == errc::invalid_position);
  CHECK(beyond.actual == 10);
  CHECK(beyond.expected == 10);
  CHECK(refused({1, -1}, 2).code == errc::invalid_position);
  CHECK(refused({1, -1}, 2).actual == -1);
  const kvfit::error twice = refused({3, 7, 3}, 3);
  CHECK(twice.code == errc::invalid_position);
  CHECK(twice.actual == 3);
  const kvfit::error unseen = refused({1, 6}, 2);
  CHECK(unseen.code == errc::invalid_position);
  CHECK(unseen.actual == 6);
  const kvfit::error few = refused({1, 2}, 3);
  CHECK(few.code == errc::shape_mismatch);
  CHECK(few.actual == 2);
  CHECK(few.expected == 3);
}

TEST_CASE("§9.27 a budget of 0, below it or above T is refused with both sizes by every selection",
          "[selection]") {
  ten_keys all;
  std::vector<std::pair<std::string, kvfit::any_selection>> policies = every_free_policy;
  policies.emplace_back("given", selection::given{{1}});
  for (const auto& [name, policy] : policies) {
    for (const kvfit::index_t budget :
         {kvfit::index_t{0}, kvfit::index_t{-4}, kvfit::index_t{11}}) {
      INFO(name << ", budget " << budget);
      const auto chosen = select(policy, all.problem(budget));
      REQUIRE_FALSE(chosen);
      CHECK(chosen.error().code == errc::budget_out_of_range);
      CHECK(chosen.error().actual == budget);
      CHECK(chosen.error().expected == 10);
    }
  }
}

TEST_CASE("origins of other query blocks are refused by every selection", "[selection]") {
  ten_keys all;
  const std::vector<kvfit::block_origin> origins(2);
  kvfit::selection_problem problem = all.problem(3);
  for (const auto& [name, policy] : every_free_policy) {
    INFO(name);
    problem.origins = origins;
    const auto refused = select(policy, problem);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::shape_mismatch);
    CHECK(refused.error().argument == "origins");
    CHECK(refused.error().actual == 2);
    CHECK(refused.error().expected == 1);
    problem.origins = std::span(origins).first(1);
    CHECK(select(policy, problem));
  }
}

TEST_CASE("§9.3 keys hidden by their bias are never kept, whatever the selection", "[selection]") {
  const row_list hidden = {0, 3, 4, 9};
  const row_list visible = {1, 2, 5, 6, 7, 8};
  for (const auto& [name, policy] : every_free_policy) {
    INFO(name);
    for (kvfit::index_t budget = 1; budget <= 10; ++budget) {
      ten_keys keys(hidden);
      const row_list chosen = sorted(kept(policy, keys, budget));
      CHECK(std::includes(visible.begin(), visible.end(), chosen.begin(), chosen.end()));
      CHECK(static_cast<kvfit::index_t>(chosen.size()) == std::min<kvfit::index_t>(budget, 6));
      CHECK(std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end());
      if (budget >= 6) CHECK(chosen == visible);  // fewer visible than the budget: all of them
    }
  }
}

TEST_CASE("a caller's rows are not to be replaced, found ones may be", "[selection]") {
  using kvfit::may_replace;
  CHECK_FALSE(may_replace(selection::given{}));
  CHECK_FALSE(may_replace(selection::first{}));
  CHECK_FALSE(may_replace(selection::last{}));
  CHECK_FALSE(may_replace(selection::random{}));
  CHECK(may_replace(selection::omp{}));
  CHECK(may_replace(selection::highest_attention{}));
  CHECK(may_replace(selection::expected_attention{}));
  CHECK_FALSE(may_replace(kvfit::any_selection{selection::given{}}));
  CHECK(may_replace(kvfit::any_selection{selection::omp{}}));
}
