// SPDX-License-Identifier: MIT
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "cache/layer_case.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/cache/zero_bias_refit.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit_test::layer_case;

namespace {

using index_list = std::vector<kvfit::index_t>;

index_list rows_of(const kvfit::compacted_layer& layer, std::size_t h) {
  const auto first = layer.positions.begin() + layer.offsets[h];
  return {first, first + layer.rows(h)};
}

index_list union_of(const kvfit::compacted_layer& layer) {
  const std::set<kvfit::index_t> rows(layer.positions.begin(), layer.positions.end());
  return {rows.begin(), rows.end()};
}

kvfit::compact_options few_steps() {
  kvfit::compact_options options;
  options.queries.held_out = 0.25;
  return options;
}

}  // namespace

TEST_CASE("heads that chose the same rows already are fitted as they were", "[cache][shared]") {
  const layer_case made(2);
  const index_list rows = {1, 7, 20, 33, 34, 60};
  auto options = few_steps();
  options.refine.steps = GENERATE(0, 3);
  const auto own = kvfit_test::stacked(made, {kvfit_test::compact_to(made, 0, rows, options),
                                              kvfit_test::compact_to(made, 1, rows, options)});
  const auto shared = kvfit::share_positions(made.layer, own, made.queries, options);
  REQUIRE(shared);
  CHECK(kvfit_test::same_layer(*shared, own));
}

TEST_CASE("§9.3 heads are fitted on the union, not on their own rows and masked",
          "[cache][shared]") {
  const layer_case made(3);
  const auto own = kvfit_test::ragged(made, {8, 12, 0});
  const auto options = few_steps();
  const auto shared = kvfit::share_positions(made.layer, own, made.queries, options);
  REQUIRE(shared);
  const index_list rows = union_of(own);
  REQUIRE(rows.size() > 12);
  auto asked = options;
  asked.refine.steps = 7;
  asked.refine.work = 1.3;
  for (std::size_t h = 0; h < 3; ++h) {
    INFO("head " << h);
    CHECK(rows_of(*shared, h) == rows);
    CHECK(shared->heads[h].outcome == kvfit::head_outcome::fitted);
    CHECK(shared->heads[h].rows == static_cast<kvfit::index_t>(rows.size()));
    CHECK(shared->heads[h].rows_before == 64);
    const auto alone = kvfit_test::compact_to(made, h, rows, asked);
    CHECK(shared->keys.middleRows(shared->offsets[h], shared->rows(h)) == alone.keys);
    CHECK(shared->values.middleRows(shared->offsets[h], shared->rows(h)) == alone.values);
    CHECK(shared->bias.segment(shared->offsets[h], shared->rows(h)) == alone.bias);
    if (h < 2) {
      const auto& queries = made.heads[h].queries;  // more rows fit them better
      CHECK(kvfit_test::error_of(made, h, shared->block(h), queries) <
            kvfit_test::error_of(made, h, own.block(h), queries));
    }
  }
  CHECK(shared->bias.array().isFinite().all());
}

TEST_CASE("the same bytes on any executor", "[cache][shared]") {
  const layer_case made(4);
  const auto own = kvfit_test::ragged(made, {6, 5, 7, 4});
  const auto serial = kvfit::share_positions(made.layer, own, made.queries, few_steps(), 10);
  REQUIRE(serial);
  kvfit::thread_pool pool(3);
  const auto spread = kvfit::share_positions(made.layer, own, made.queries, few_steps(), 10, pool);
  REQUIRE(spread);
  CHECK(kvfit_test::same_layer(*serial, *spread));
}

TEST_CASE("of a union above its cap the rows that the heads attend to most stay",
          "[cache][shared]") {
  layer_case made(2);
  made.layer.rule = kvfit::logit_rule{.scale = 0.3F};
  const auto own = kvfit_test::ragged(made, {9, 9});
  auto options = few_steps();
  options.protect.first = GENERATE(0, 2);
  options.protect.last = options.protect.first / 2;
  const index_list rows = union_of(own);
  std::vector<std::pair<double, kvfit::index_t>> ranked;
  for (const kvfit::index_t row : rows) {
    double importance = 0;
    for (std::size_t h = 0; h < 2; ++h) {
      const auto mine = rows_of(own, h);
      const auto at = std::find(mine.begin(), mine.end(), row);
      if (at == mine.end()) continue;
      const auto y = kvfit_test::attend_in_double(made.group(h), own.block(h), *made.layer.rule);
      importance += y.weights.col(at - mine.begin()).mean();
    }
    const bool is_protected = row < options.protect.first || row >= 64 - options.protect.last;
    ranked.emplace_back(is_protected ? -1e9 : -importance, row);
  }
  std::sort(ranked.begin(), ranked.end());
  constexpr std::size_t most = 7;
  REQUIRE(ranked.size() > most);
  index_list wanted;
  for (std::size_t i = 0; i < most; ++i) wanted.push_back(ranked[i].second);
  std::sort(wanted.begin(), wanted.end());
  const auto shared = kvfit::share_positions(made.layer, own, made.queries, options, most);
  // Rows that are protected must be rows of a head; where they are not, that is an error.
  const bool holds_protected = [&] {
    for (kvfit::index_t row = 0; row < options.protect.first; ++row) {
      if (std::find(rows.begin(), rows.end(), row) == rows.end()) return false;
    }
    return options.protect.last == 0 || rows.back() == 63;
  }();
  REQUIRE(shared.has_value() == holds_protected);
  if (!shared) {
    CHECK(shared.error().code == errc::invalid_position);
    return;
  }
  CHECK(rows_of(*shared, 0) == wanted);
  CHECK(rows_of(*shared, 1) == wanted);
}

TEST_CASE("protected rows stay in a capped union, exactly as they are", "[cache][shared]") {
  const layer_case made(2);
  auto options = few_steps();
  options.protect.first = 2;
  options.protect.last = 1;
  std::vector<std::optional<kvfit::compacted>> parts(2);
  for (std::size_t h = 0; h < 2; ++h) {
    auto asked = options;
    asked.budget = 10;
    auto fitted = kvfit::compact(made.layer.heads[h], made.group(h), asked);
    REQUIRE(fitted);
    parts[h] = std::move(*fitted);
  }
  const auto own = kvfit_test::stacked(made, parts);
  const auto shared = kvfit::share_positions(made.layer, own, made.queries, options, 8);
  REQUIRE(shared);
  for (std::size_t h = 0; h < 2; ++h) {
    const auto rows = rows_of(*shared, h);
    REQUIRE(rows.size() == 8);
    CHECK(rows[0] == 0);
    CHECK(rows[1] == 1);
    CHECK(rows[7] == 63);
    const kvfit::index_t first = shared->offsets[h];
    CHECK(shared->bias[first] == 0);
    CHECK(shared->keys.row(first) == made.heads[h].keys.row(0));
    CHECK(shared->values.row(first + 7) == made.heads[h].values.row(63));
  }
  const auto small = kvfit::share_positions(made.layer, own, made.queries, options, 3);
  REQUIRE_FALSE(small.has_value());
  CHECK(small.error().code == errc::budget_out_of_range);
  CHECK(small.error().expected == 4);
}

TEST_CASE("a union of every row is the identity, one of none leaves nothing", "[cache][shared]") {
  const layer_case made(2);
  const auto whole = kvfit_test::ragged(made, {64, 5});
  const auto all = kvfit::share_positions(made.layer, whole, made.queries, few_steps());
  REQUIRE(all);
  CHECK(all->heads[1].outcome == kvfit::head_outcome::identity);
  CHECK(all->values.bottomRows(64) == made.heads[1].values);
  const auto none = kvfit::share_positions(made.layer, kvfit_test::ragged(made, {0, 0}),
                                           made.queries, few_steps());
  REQUIRE(none);
  CHECK(none->keys.rows() == 0);
  CHECK(none->heads[0].outcome == kvfit::head_outcome::empty);
}

TEST_CASE("a layer's refits keep to one cap, and can be watched and stopped", "[cache][refit]") {
  const layer_case made(3);
  const std::vector<index_list> rows = {{1, 7, 20, 33}, {}, {2, 8, 60, 61, 62}};
  auto options = few_steps();
  std::vector<kvfit::index_t> seen;
  kvfit::thread_pool pool(3);
  const kvfit::watch watching{
      .progress = [&](kvfit::index_t done, kvfit::index_t) { seen.push_back(done); }};
  const auto free = kvfit::refit_layer(made.layer, rows, made.queries, options, pool, watching);
  REQUIRE(free);
  CHECK(seen == std::vector<kvfit::index_t>{1, 2, 3});
  const auto needed = [&](std::size_t h) { return free->heads[h].report.memory.needed; };
  options.memory.cap = std::max(needed(0), needed(2));
  const auto one_by_one = kvfit::refit_layer(made.layer, rows, made.queries, options, pool);
  REQUIRE(one_by_one);
  CHECK(kvfit_test::same_layer(*one_by_one, *free));
  options.memory.cap = 1000;
  const auto refused = kvfit::refit_layer(made.layer, rows, made.queries, options, pool, watching);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::memory_cap_exceeded);
  CHECK(refused.error().argument == "L3H0: memory.cap");
  CHECK(seen.size() == 3);  // before any head
  options.memory.cap.reset();

  const kvfit::watch late{.deadline = std::chrono::steady_clock::now()};
  CHECK(kvfit::refit_layer(made.layer, rows, made.queries, options, pool, late).error().code ==
        errc::cancelled);
  const auto own = kvfit_test::ragged(made, {5, 6, 4});
  for (const kvfit::index_t most : {0, 9}) {
    CHECK(kvfit::share_positions(made.layer, own, made.queries, options, most, pool, late)
              .error()
              .code == errc::cancelled);
  }
  CHECK(
      kvfit::refit_without_bias(made.layer, own, made.queries, options, pool, late).error().code ==
      errc::cancelled);
}

TEST_CASE("positions that can't be shared are errors", "[cache][shared]") {
  layer_case made(2);
  const auto own = kvfit_test::ragged(made, {5, 6});
  const auto options = few_steps();
  const auto cause = [&](const kvfit::compacted_layer& fitted, kvfit::index_t most = 0) {
    const auto shared = kvfit::share_positions(made.layer, fitted, made.queries, options, most);
    REQUIRE_FALSE(shared.has_value());
    INFO(shared.error().message());
    return shared.error();
  };
  CHECK(cause(own, -1).code == errc::budget_out_of_range);
  auto other = own;
  other.number = 4;
  CHECK(cause(other).code == errc::shape_mismatch);
  other = own;
  other.positions[4] = 64;
  CHECK(cause(other).code == errc::invalid_position);
  CHECK(cause(other, 3).code == errc::invalid_position);  // before its mask is looked up
  SECTION("§9.16 query heads that do not divide") {
    made.queries.pop_back();
    CHECK(cause(own).code == errc::shape_mismatch);
    CHECK(cause(own).actual == 3);
  }
  SECTION("heads of other lengths") {
    made.layer.heads[1].keys = made.layer.heads[1].keys.middle_rows(0, 63);
    made.layer.heads[1].values = made.layer.heads[1].values.middle_rows(0, 63);
    CHECK(cause(own).code == errc::shape_mismatch);
  }
  SECTION("a row that one head hides") {
    std::vector<float> bias(64, 0.0F);
    bias[static_cast<std::size_t>(own.positions[0])] = -std::numeric_limits<float>::infinity();
    made.layer.heads[1].bias = bias;
    const auto hidden = cause(own);
    CHECK(hidden.code == errc::invalid_position);
    CHECK(hidden.argument.find("L3H1") != std::string::npos);
  }
  SECTION("a sliding layer") {
    made.layer.kind = kvfit::layer_kind::sliding;
    CHECK(cause(own).code == errc::invalid_option);
  }
  SECTION("a selection's weights where nothing selects") {
    auto asked = options;
    asked.bias = kvfit::bias::from_selection{};
    const auto shared = kvfit::share_positions(made.layer, own, made.queries, asked);
    REQUIRE_FALSE(shared.has_value());
    CHECK(shared.error().code == errc::invalid_option);
  }
}

TEST_CASE("a refit without biases is better than leaving the biases out", "[cache][zero_bias]") {
  const layer_case made(2);
  const auto own = kvfit_test::ragged(made, {8, 12});
  const auto fused =
      kvfit::refit_without_bias(made.layer, own, made.queries, kvfit::compact_options{});
  REQUIRE(fused);
  CHECK(fused->positions == own.positions);
  CHECK(fused->bias == kvfit::vector::Zero(20));
  auto stripped = own;
  stripped.bias.setZero();
  for (std::size_t h = 0; h < 2; ++h) {
    for (kvfit::index_t j = 0; j < fused->rows(h); ++j) {
      const kvfit::index_t row = fused->offsets[h] + j;
      CHECK(fused->keys.row(row) ==
            made.heads[h].keys.row(fused->positions[static_cast<std::size_t>(row)]));
    }
    const auto& queries = made.heads[h].test_queries;
    CHECK(kvfit_test::error_of(made, h, fused->block(h), queries) <
          kvfit_test::error_of(made, h, stripped.block(h), queries));
  }
}

TEST_CASE("without biases keys move only where that is asked for", "[cache][zero_bias]") {
  const layer_case made(1);
  const auto own = kvfit_test::ragged(made, {8});
  kvfit::compact_options options;
  options.refine.steps = 6;
  const auto moved = kvfit::refit_without_bias(made.layer, own, made.queries, options);
  REQUIRE(moved);
  CHECK(moved->bias == kvfit::vector::Zero(8));
  CHECK(moved->heads[0].report.refinement.steps > 0);
  const auto still =
      kvfit::refit_without_bias(made.layer, own, made.queries, kvfit::compact_options{});
  REQUIRE(still);
  CHECK(still->heads[0].report.refinement.steps == 0);
}

TEST_CASE("a cache with a bias of its own can't do without", "[cache][zero_bias]") {
  layer_case made(2);
  const auto own = kvfit_test::ragged(made, {4, 4});
  std::vector<float> bias(64, 0.0F);
  bias[static_cast<std::size_t>(own.positions[6])] = 0.5F;
  made.layer.heads[1].bias = bias;
  const auto fused =
      kvfit::refit_without_bias(made.layer, own, made.queries, kvfit::compact_options{});
  REQUIRE_FALSE(fused.has_value());
  CHECK(fused.error().code == errc::invalid_option);
  CHECK(fused.error().actual == own.positions[6]);
  CHECK(fused.error().argument.find("L3H1") != std::string::npos);
}
