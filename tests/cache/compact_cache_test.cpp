// SPDX-License-Identifier: MIT
#include "kvfit/cache/compact_cache.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"

using kvfit::cache_options;
using kvfit::compact_cache;
using kvfit::errc;
using kvfit::head_outcome;
using kvfit_test::cache_case;

namespace {

/// Two global layers of different lengths and sizes, four KV heads, eight query heads.
cache_case two_layers() {
  return cache_case({{.number = 0, .rows = 64}, {.number = 3, .rows = 96, .key_size = 10}});
}

cache_options whole_options(kvfit::index_t budget) {
  cache_options options{.budget = budget};
  options.head.selection = kvfit::selection::highest_attention{};
  return options;
}

/// A policy of a caller's own that throws for one head.
struct throws_at_width {
  kvfit::index_t width;

  friend kvfit::score_options wanted_scores(const throws_at_width&) { return {}; }
  friend kvfit::result<kvfit::selected_rows> select(const throws_at_width& policy,
                                                    const kvfit::selection_problem& problem) {
    if (problem.cache.keys.cols() == policy.width) throw std::runtime_error("mine");
    return kvfit::selected_rows{.positions = {1}};
  }
};

}  // namespace

TEST_CASE("uniform shares are per-head calls, bit for bit", "[cache][compact_cache]") {
  const cache_case given = two_layers();
  const cache_options options{.budget = 40};  // of 320 rows: one in eight
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  REQUIRE(small->layers.size() == 2);
  CHECK(small->rows_before == 320);
  CHECK(small->rows == 40);
  CHECK(small->fallbacks == 0);
  CHECK(small->skipped.empty());
  for (std::size_t l = 0; l < 2; ++l) {
    const auto& layer = small->layers[l];
    CHECK(layer.number == given.view.layers[l].number);
    REQUIRE(layer.heads.size() == 2);
    for (std::size_t h = 0; h < 2; ++h) {
      auto own = options.head;
      own.budget = l == 0 ? 8 : 12;
      const auto alone = kvfit::compact(given.view.layers[l].heads[h], given.pair(l, h), own);
      REQUIRE(alone);
      CHECK(kvfit_test::is_head(layer, h, *alone));
      CHECK(layer.heads[h].outcome == head_outcome::fitted);
      CHECK(layer.heads[h].rows == own.budget);
      CHECK(layer.heads[h].id == kvfit::head_id{layer.number, static_cast<kvfit::index_t>(h)});
      CHECK(layer.heads[h].report.held_out->output_error == alone->report.held_out->output_error);
    }
  }
}

TEST_CASE("a cache gives the same bytes at any number of threads and of heads at once",
          "[cache][compact_cache]") {
  const cache_case given = two_layers();
  auto options = whole_options(40);
  options.shares = kvfit::budgets::global_ranking{};
  const auto alone = compact_cache(given.view, given.queries, options);
  REQUIRE(alone);
  for (const int threads : {1, 2, 4, 16}) {
    for (const kvfit::index_t at_once : {0, 1, 3}) {
      kvfit::thread_pool pool(threads);
      options.heads_at_once = at_once;
      const auto shared = compact_cache(given.view, given.queries, options, pool);
      REQUIRE(shared);
      CHECK(kvfit_test::same_cache(*alone, *shared));
    }
  }
}

TEST_CASE("each head of a cache is attended over by its block", "[cache][compact_cache]") {
  const cache_case given = two_layers();
  const auto small = compact_cache(given.view, given.queries, whole_options(160));
  REQUIRE(small);
  for (std::size_t l = 0; l < 2; ++l) {
    for (std::size_t h = 0; h < 2; ++h) {
      const auto query = given.queries[l].heads[2 * h];
      const auto full = kvfit::attend(query, {given.view.layers[l].heads[h]});
      const auto fitted = kvfit::attend(query, {small->layers[l].block(h)});
      REQUIRE(full);
      REQUIRE(fitted);
      const float before = full->output.norm();
      CHECK((full->output - fitted->output).norm() < 0.6F * before);
      const auto other = kvfit::attend(query, {small->layers[l].block(1 - h)});
      REQUIRE(other);
      CHECK((full->output - other->output).norm() > 0.9F * before);
    }
  }
}

TEST_CASE("sliding and skipped layers are left, and listed, and recurrent ones refused",
          "[cache][compact_cache]") {
  cache_case given({{.number = 0}, {.number = 1}, {.number = 2}, {.number = 5}});
  given.view.layers[1].kind = kvfit::layer_kind::sliding;
  given.queries.erase(given.queries.begin() + 1);  // nobody asks a sliding layer
  auto options = whole_options(32);
  options.skip = {5};
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  CHECK(small->skipped == std::vector<kvfit::index_t>{1, 5});
  REQUIRE(small->layers.size() == 2);
  CHECK(small->layers[0].number == 0);
  CHECK(small->layers[1].number == 2);
  CHECK(small->rows_before == 4 * 64);

  given.view.layers[1].kind = kvfit::layer_kind::recurrent;
  const auto refused = compact_cache(given.view, given.queries, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::invalid_option);
  CHECK(refused.error().actual == 1);
  options.skip = {1, 5};  // by name it may stand in the view
  CHECK(compact_cache(given.view, given.queries, options));
}

TEST_CASE("a cache that does not fit together is refused with the layer's name",
          "[cache][compact_cache]") {
  cache_case given = two_layers();
  auto options = whole_options(40);
  const auto refusal = [&] {
    const auto found = compact_cache(given.view, given.queries, options);
    REQUIRE_FALSE(found);
    return found.error();
  };
  SECTION("query heads that the KV heads do not divide") {
    given.queries[1].heads.pop_back();
    CHECK(refusal().code == errc::shape_mismatch);
    CHECK(refusal().argument == "layer 3: query heads");
    CHECK(refusal().actual == 3);
    CHECK(refusal().expected == 2);
  }
  SECTION("a layer without queries") {
    given.queries.pop_back();
    CHECK(refusal().code == errc::missing_entry);
    CHECK(refusal().argument == "queries of layer 3");
  }
  SECTION("a layer without heads") {
    given.view.layers[1].heads.clear();
    CHECK(refusal().code == errc::empty_input);
    CHECK(refusal().argument == "layer 3: heads");
  }
  SECTION("heads of one layer of different sizes") {
    std::swap(given.view.layers[0].heads[1], given.view.layers[1].heads[1]);
    CHECK(refusal().code == errc::shape_mismatch);
    CHECK(refusal().argument == "L0H1: keys");
  }
  SECTION("layers out of order") {
    std::swap(given.view.layers[0], given.view.layers[1]);
    CHECK(refusal().code == errc::invalid_option);
    CHECK(refusal().actual == 0);
  }
  SECTION("a layer to skip that is not there") {
    options.skip = {4};
    CHECK(refusal().code == errc::invalid_option);
    CHECK(refusal().actual == 4);
  }
  SECTION("no layer at all") {
    options.skip = {0, 3};
    CHECK(refusal().code == errc::empty_input);
  }
  SECTION("the first of several bad heads, whoever finds it") {
    kvfit::matrix bad = kvfit::matrix::Constant(96, 10, 1.0F);
    bad(5, 7) = std::numeric_limits<float>::quiet_NaN();
    given.view.layers[1].heads[0].keys = bad;
    given.view.layers[1].heads[1].keys = bad;
    kvfit::thread_pool pool(4);
    for (int round = 0; round < 20; ++round) {
      const auto found = compact_cache(given.view, given.queries, options, pool);
      REQUIRE_FALSE(found);
      CHECK(found.error().code == errc::non_finite);
      CHECK(found.error().argument == "L3H0: keys");
      CHECK(found.error().actual == 5);
      CHECK(found.error().expected == 7);
    }
  }
  SECTION("budgets") {
    options.budget = 0;
    CHECK(refusal().code == errc::budget_out_of_range);
    options.budget = 3;  // four heads of at least one row
    CHECK(refusal().code == errc::budget_out_of_range);
    CHECK(refusal().expected == 4);
    options.budget = 12;
    options.head.protect.first = 3;  // and one to choose, in each of four
    CHECK(refusal().code == errc::budget_out_of_range);
    CHECK(refusal().expected == 16);
    options.shares = kvfit::budgets::rows{{4, 4, 4}};
    CHECK(refusal().code == errc::shape_mismatch);
    options.shares = kvfit::budgets::rows{{4, 4, 4, 3}};
    CHECK(refusal().code == errc::budget_out_of_range);
    CHECK(refusal().argument == "L3H1");
    options.heads_at_once = -1;
    CHECK(refusal().code == errc::invalid_option);
  }
}

TEST_CASE("every budget policy meets its total", "[cache][compact_cache]") {
  const cache_case given = two_layers();
  auto options = whole_options(50);
  options.limits = {.at_least = 2, .max_ratio = 0.5};
  const auto rows_by = [&](const kvfit::any_budget& shares) {
    options.shares = shares;
    const auto small = compact_cache(given.view, given.queries, options);
    REQUIRE(small);
    std::vector<kvfit::index_t> rows;
    for (const auto& layer : small->layers) {
      for (const auto& head : layer.heads) rows.push_back(head.rows);
    }
    CHECK(small->rows == std::accumulate(rows.begin(), rows.end(), kvfit::index_t{0}));
    return rows;
  };
  const auto sum = [](const std::vector<kvfit::index_t>& rows) {
    return std::accumulate(rows.begin(), rows.end(), kvfit::index_t{0});
  };
  CHECK(rows_by(kvfit::budgets::uniform{}) == std::vector<kvfit::index_t>{10, 10, 15, 15});
  const auto pyramid = rows_by(kvfit::budgets::pyramid{.last_share = 0.5});
  CHECK(sum(pyramid) == 50);
  CHECK(pyramid[0] > pyramid[2]);
  CHECK(rows_by(kvfit::budgets::given{
            {{{3, 1}, 0.25}, {{0, 0}, 0.25}, {{0, 1}, 0.1}, {{3, 0}, 0.4}}}) ==
        std::vector<kvfit::index_t>{13, 5, 20, 12});
  kvfit::budgets::influence curves;
  for (const double worth : {1.0, 1.0, 8.0, 1.0}) {
    curves.curves.push_back({{{2, worth}, {30, 0.0}}});
  }
  CHECK(rows_by(curves)[2] == 30);
  CHECK(sum(rows_by(kvfit::budgets::global_ranking{})) == 50);
  CHECK(rows_by(kvfit::budgets::rows{{7, 0, 200, 1}}) == std::vector<kvfit::index_t>{7, 0, 96, 1});
  options.budget = 1'000;
  CHECK(rows_by(kvfit::budgets::pyramid{}) == std::vector<kvfit::index_t>{64, 64, 96, 96});
}

TEST_CASE("a global ranking keeps the keys most looked at of all heads together",
          "[cache][compact_cache]") {
  const cache_case given = two_layers();
  auto options = whole_options(30);
  options.shares = kvfit::budgets::global_ranking{};
  options.limits.at_least = 0;
  options.head.queries.per_row = 0;
  options.head.queries.held_out = 0;
  options.head.replace_dead_keys = false;
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  // By brute force: sort all keys of all heads.
  struct key {
    float importance;
    std::size_t layer, head;
    kvfit::index_t row;
  };
  std::vector<key> all;
  for (std::size_t l = 0; l < 2; ++l) {
    for (std::size_t h = 0; h < 2; ++h) {
      const auto scores =
          kvfit::score_pass(given.view.layers[l].heads[h], given.pair(l, h), {}, {});
      REQUIRE(scores);
      for (kvfit::index_t row = 0; row < scores->importance.size(); ++row) {
        all.push_back({scores->importance[row], l, h, row});
      }
    }
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const key& a, const key& b) { return a.importance > b.importance; });
  all.resize(30);
  for (std::size_t l = 0; l < 2; ++l) {
    for (std::size_t h = 0; h < 2; ++h) {
      std::vector<kvfit::index_t> rows;
      for (const key& k : all) {
        if (k.layer == l && k.head == h) rows.push_back(k.row);
      }
      std::sort(rows.begin(), rows.end());
      const auto& layer = small->layers[l];
      CHECK(rows == std::vector<kvfit::index_t>(layer.positions.begin() + layer.offsets[h],
                                                layer.positions.begin() + layer.offsets[h + 1]));
    }
  }
}

TEST_CASE("a ranking stays within bounds and takes the earlier head's key of equal ones",
          "[cache][compact_cache]") {
  std::vector<std::vector<float>> importance = {{1, 9, 8}, {9, 7, 7, 7}, {0, 0}};
  const auto rows_for = [&](std::vector<kvfit::row_bounds> bounds, kvfit::index_t total) {
    const auto rows = kvfit::rank_globally(importance, bounds, total);
    REQUIRE(rows);
    return *rows;
  };
  using rows = std::vector<kvfit::index_t>;
  CHECK(rows_for({{0, 3}, {0, 4}, {0, 2}}, 1) == rows{1, 0, 0});
  CHECK(rows_for({{0, 3}, {0, 4}, {0, 2}}, 4) == rows{2, 2, 0});
  CHECK(rows_for({{0, 3}, {0, 4}, {1, 2}}, 4) == rows{2, 1, 1});
  CHECK(rows_for({{0, 3}, {0, 2}, {0, 2}}, 6) == rows{3, 2, 1});
  CHECK(rows_for({{0, 1}, {0, 4}, {0, 2}}, 7) == rows{1, 4, 2});
  const std::vector<kvfit::row_bounds> too_many = {{0, 4}, {0, 4}, {0, 2}};
  const auto refused = kvfit::rank_globally(importance, too_many, 3);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::shape_mismatch);
}

TEST_CASE("a head without a budget stays empty", "[cache][compact_cache]") {
  const cache_case given = two_layers();
  auto options = whole_options(0);
  options.shares = kvfit::budgets::rows{{0, 6, 5, 0}};
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  CHECK(small->layers[0].offsets == std::vector<kvfit::index_t>{0, 0, 6});
  CHECK(small->layers[1].offsets == std::vector<kvfit::index_t>{0, 5, 5});
  CHECK(small->layers[0].heads[0].outcome == head_outcome::empty);
  CHECK(small->layers[0].block(0).keys.rows() == 0);
  CHECK(small->layers[0].keys.cols() == 8);
}

TEST_CASE("a head that no query sees fails the call, or falls back and says so",
          "[cache][compact_cache]") {
  cache_case given = two_layers();
  kvfit::logit_rule early{.causal = true};
  given.view.layers[1].rule = early;
  given.view.layers[1].heads[1].first_position = 1'000;  // after every query
  auto options = whole_options(60);
  const auto failed = compact_cache(given.view, given.queries, options);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == errc::all_masked);
  CHECK(failed.error().argument == "L3H1: queries");

  options.fallback = kvfit::head_fallback::copies;
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  CHECK(small->fallbacks == 1);
  const auto& layer = small->layers[1];
  CHECK(layer.heads[0].outcome == head_outcome::fitted);
  CHECK_FALSE(layer.heads[0].cause);
  REQUIRE(layer.heads[1].outcome == head_outcome::fallback);
  CHECK(layer.heads[1].cause->code == errc::all_masked);
  REQUIRE(layer.rows(1) == 18);
  const auto at = static_cast<std::size_t>(layer.offsets[1]);
  CHECK(layer.positions[at] == 78);
  CHECK(layer.positions.back() == 95);
  CHECK(layer.key_positions.back() == 1'095);
  const auto& original = given.view.layers[1].heads[1];
  for (kvfit::index_t j = 0; j < 18; ++j) {
    const kvfit::index_t row = layer.positions[at + static_cast<std::size_t>(j)];
    CHECK(layer.values(layer.offsets[1] + j, 3) == original.values(row, 3));
    CHECK(layer.bias[layer.offsets[1] + j] == 0.0F);
  }
}

TEST_CASE("a fitted value beyond its storage falls back to copies, bad input never does",
          "[cache][compact_cache]") {
  cache_case given = two_layers();
  // Values that follow the keys under flat attention: few rows must overshoot to give the same.
  kvfit::matrix large = given.memory[1];
  for (kvfit::index_t i = 0; i < large.rows(); ++i) {
    large.row(i).setConstant(given.memory[0](i, 0) > 0 ? 440.0F : -440.0F);
  }
  given.view.layers[0].rule = kvfit::logit_rule{.scale = 0.05F};
  given.view.layers[0].heads[0].values = large;
  auto options = whole_options(60);
  options.head.storage.rows = kvfit::dtype::fp8_e4m3;  // up to 448
  options.head.keep_better_values = false;
  const auto failed = compact_cache(given.view, given.queries, options);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == errc::storage_overflow);
  CHECK(failed.error().argument == "L0H0: values");
  options.fallback = kvfit::head_fallback::copies;
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  CHECK(small->fallbacks == 1);
  CHECK(small->layers[0].heads[0].outcome == head_outcome::fallback);
  CHECK(std::abs(small->layers[0].values(0, 0)) == 448.0F);  // the nearest to 440 of the type

  // The copies are chosen as the rows of any compaction are.
  options.head.queries.per_row = 1;
  options.head.queries.at_least = 4;
  const auto few = compact_cache(given.view, given.queries, options);
  REQUIRE(few);
  REQUIRE(few->layers[0].heads[0].outcome == head_outcome::fallback);
  kvfit::compact_options alone{.budget = few->layers[0].rows(0),
                               .rule = *given.view.layers[0].rule,
                               .selection = kvfit::selection::highest_attention{},
                               .bias = kvfit::bias::zero{},
                               .values = kvfit::values::copy{},
                               .refine = {.steps = 0},
                               .queries = {.per_row = 1, .at_least = 4}};
  alone.storage = options.head.storage;
  const auto own = kvfit::compact(given.view.layers[0].heads[0], given.pair(0, 0), alone);
  REQUIRE(own);
  const auto end = few->layers[0].positions.begin() + few->layers[0].rows(0);
  CHECK(std::vector<kvfit::index_t>(few->layers[0].positions.begin(), end) == own->positions);
  alone.queries.per_row = 0;
  const auto by_all = kvfit::compact(given.view.layers[0].heads[0], given.pair(0, 0), alone);
  REQUIRE(by_all);
  CHECK(by_all->positions == own->positions);  // whatever is fitted on, all queries rank

  // Rows of factor 0 are no copies either.
  std::vector<float> prior(static_cast<std::size_t>(given.view.layers[0].heads[0].keys.rows()), 1);
  for (const kvfit::index_t row : own->positions) prior[static_cast<std::size_t>(row)] = 0;
  auto others = options;
  others.skip = {given.view.layers[1].number};
  others.head.selection = kvfit::selection::joint{.prior = prior};
  const auto copies = compact_cache(given.view, given.queries, others);
  REQUIRE(copies);
  REQUIRE(copies->layers[0].heads[0].outcome == head_outcome::fallback);
  for (kvfit::index_t j = 0; j < copies->layers[0].rows(0); ++j) {
    const kvfit::index_t row = copies->layers[0].positions[static_cast<std::size_t>(j)];
    CHECK(prior[static_cast<std::size_t>(row)] == 1);
  }

  large(3, 3) = std::numeric_limits<float>::infinity();
  CHECK_FALSE(compact_cache(given.view, given.queries, options));
}

TEST_CASE("a layer's own rule and rotation hold for its heads", "[cache][compact_cache]") {
  cache_case given = two_layers();
  given.view.layers[1].rule = kvfit::logit_rule{.scale = 0.7F};
  given.view.layers[1].rotation = kvfit::rope{.base = 500};
  cache_options options{.budget = 40};
  const auto small = compact_cache(given.view, given.queries, options);
  REQUIRE(small);
  auto own = options.head;
  own.budget = 12;
  own.rule.scale = 0.7F;
  own.refine.rotation = kvfit::rope{.base = 500};
  const auto alone = kvfit::compact(given.view.layers[1].heads[1], given.pair(1, 1), own);
  REQUIRE(alone);
  CHECK(kvfit_test::is_head(small->layers[1], 1, *alone));
}

TEST_CASE("an exception of a caller's own policy passes, after the heads under way",
          "[cache][compact_cache]") {
  const cache_case given = two_layers();
  kvfit::cache_options options{.budget = 12};
  options.head.selection = throws_at_width{10};
  options.head.bias = kvfit::bias::zero{};
  options.head.values = kvfit::values::copy{};
  kvfit::thread_pool pool(2);
  CHECK_THROWS_AS(compact_cache(given.view, given.queries, options, pool), std::runtime_error);
  options.head.selection = throws_at_width{11};
  CHECK(compact_cache(given.view, given.queries, options, pool));
}

TEST_CASE("a cache's compaction can be watched and stopped", "[cache][compact_cache]") {
  const cache_case given = two_layers();
  auto options = whole_options(40);
  for (const kvfit::index_t at_once : {0, 1}) {
    options.heads_at_once = at_once;
    kvfit::cancellation stop;
    std::vector<kvfit::index_t> seen;
    const auto cut =
        compact_cache(given.view, given.queries, options, kvfit::serial{},
                      {.cancel = &stop, .progress = [&](kvfit::index_t done, kvfit::index_t count) {
                         CHECK(count == 4);
                         seen.push_back(done);
                         if (done == 2) stop.request();
                       }});
    REQUIRE_FALSE(cut);
    CHECK(cut.error().code == errc::cancelled);
    CHECK(cut.error().actual == 2);
    CHECK(cut.error().expected == 4);
    CHECK(seen == std::vector<kvfit::index_t>{1, 2});
  }
}

TEST_CASE("a cap on memory runs fewer heads at a time, then gives each less, or is refused",
          "[cache][compact_cache]") {
  const cache_case given({{.number = 0}, {.number = 3, .rows = 96}}, 600);
  cache_options options{.budget = 40};
  const auto free = compact_cache(given.view, given.queries, options);
  REQUIRE(free);
  kvfit::index_t largest = 0;
  for (const auto& layer : free->layers) {
    for (const auto& head : layer.heads) {
      largest = std::max(largest, head.report.memory.needed);
    }
  }
  kvfit::thread_pool pool(4);
  for (const kvfit::index_t cap : {largest, 3 * largest, 100 * largest}) {
    options.memory = cap;
    const auto capped = compact_cache(given.view, given.queries, options, pool);
    REQUIRE(capped);
    CHECK(kvfit_test::same_cache(*free, *capped));
  }
  options.memory = largest - largest / 10;
  const auto less = compact_cache(given.view, given.queries, options, pool);
  REQUIRE(less);
  int lowered = 0;
  for (const auto& layer : less->layers) {
    for (const auto& head : layer.heads) {
      const auto& memory = head.report.memory;
      CHECK(memory.needed <= *options.memory);
      lowered +=
          memory.lowers_selection || memory.lowers_refinement || memory.lowers_queries ? 1 : 0;
    }
  }
  CHECK(lowered > 0);
  options.memory = 1'000;
  bool has_begun = false;
  const auto refused =
      compact_cache(given.view, given.queries, options, pool,
                    {.progress = [&](kvfit::index_t, kvfit::index_t) { has_begun = true; }});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::memory_cap_exceeded);
  CHECK(refused.error().argument == "L0H0: memory.cap");
  CHECK(refused.error().expected == 1'000);
  CHECK_FALSE(has_begun);
}

TEST_CASE("a cache's compaction ends at a deadline", "[cache][compact_cache]") {
  const cache_case given = two_layers();
  const auto late = compact_cache(given.view, given.queries, whole_options(40), kvfit::serial{},
                                  {.deadline = std::chrono::steady_clock::now()});
  REQUIRE_FALSE(late);
  CHECK(late.error().code == errc::cancelled);
}

TEST_CASE("heads can be taken one by one, and the taker's error ends the call",
          "[cache][compact_cache]") {
  const cache_case given = two_layers();
  const auto options = whole_options(40);
  kvfit::thread_pool pool(2);
  const auto plan = kvfit::plan_cache(given.view, given.queries, options, pool);
  REQUIRE(plan);
  CHECK(plan->rows == std::vector<kvfit::index_t>{8, 8, 12, 12});
  const auto whole = compact_cache(given.view, given.queries, options);
  REQUIRE(whole);
  std::vector<int> taken(4);
  const auto all = kvfit::compact_heads(
      given.view, *plan, options, pool,
      [&](std::size_t place, kvfit::compacted_head&& head) -> kvfit::result<void> {
        ++taken[place];
        CHECK(kvfit_test::is_head(whole->layers[place / 2], place % 2, head.rows));
        return {};
      });
  CHECK(all);
  CHECK(taken == std::vector<int>{1, 1, 1, 1});
  const auto full_disk =
      kvfit::compact_heads(given.view, *plan, options, pool,
                           [&](std::size_t place, kvfit::compacted_head&&) -> kvfit::result<void> {
                             if (place == 1) return kvfit::error{errc::file_unwritable, "mine"};
                             return {};
                           });
  REQUIRE_FALSE(full_disk);
  CHECK(full_disk.error().code == errc::file_unwritable);
}
