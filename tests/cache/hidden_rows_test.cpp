// SPDX-License-Identifier: MIT
// Whole caches whose rows are hidden, or lie in another order than the text.
#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cache/layer_case.hpp"
#include "cache/rolling_case.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/compact_chunks.hpp"
#include "kvfit/cache/refit.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/parallel/serial.hpp"
#include "support/watched_rows.hpp"

namespace kvfit_test {

using kvfit::cache_options;
using kvfit::errc;

namespace {

/// A layer whose heads are rings of 64 rows, the newest number 9; its rows 3, 4 and 60 were never
/// written. Hidden rows of `watched` are NaN, and decoders note what is read.
struct unwritten_layer {
  explicit unwritten_layer(std::size_t count) : made(count) {
    for (const index_t row : {3, 4, 60}) bias[static_cast<std::size_t>(row)] = hidden_key;
    for (index_t j = 0; j < 64; ++j) positions.push_back(100 + (j + 54) % 64);
    watched = made.layer;
    for (std::size_t h = 0; h < count; ++h) {
      kvfit::matrix keys = made.heads[h].keys;
      kvfit::matrix values = made.heads[h].values;
      for (const index_t row : {3, 4, 60}) {
        keys.row(row).setConstant(std::numeric_limits<float>::quiet_NaN());
        values.row(row).setConstant(std::numeric_limits<float>::infinity());
      }
      for (auto* rows : {&keys, &values}) {
        memory.push_back(std::make_unique<watched_rows>(std::move(*rows)));
      }
      watched.heads[h].keys = memory[2 * h]->view();
      watched.heads[h].values = memory[2 * h + 1]->view();
      for (kvfit::kv_block* block : {&made.layer.heads[h], &watched.heads[h]}) {
        block->bias = bias;
        block->positions = positions;
      }
    }
  }

  [[nodiscard]] kvfit::cache_queries queries() const { return {{made.layer.number, made.queries}}; }
  [[nodiscard]] bool is_untouched() const {
    return std::none_of(memory.begin(), memory.end(), [](const auto& rows) {
      return rows->was_asked(3) || rows->was_asked(4) || rows->was_asked(60);
    });
  }

  layer_case made;
  std::vector<float> bias = std::vector<float>(64, 0.0F);
  std::vector<index_t> positions;
  std::vector<std::unique_ptr<watched_rows>> memory;
  kvfit::cache_layer watched;
};

cache_options quick_options(index_t budget) {
  cache_options options{.budget = budget};
  options.head.selection = kvfit::selection::highest_attention{};
  options.head.refine.steps = 0;
  return options;
}

}  // namespace

TEST_CASE("H: a whole cache protects rows by position, and never reads hidden ones",
          "[cache][compact_cache][protect]") {
  const unwritten_layer of(2);
  cache_options options = quick_options(28);
  options.head.protect = {.first = 1, .last = 6, .rows = {33}};
  SECTION("uniform") {}
  SECTION("by one ranking of all keys") {
    options.shares = kvfit::budgets::global_ranking{};
  }
  const auto clean = compact_cache({.layers = {of.made.layer}}, of.queries(), options);
  const auto watched = compact_cache({.layers = {of.watched}}, of.queries(), options);
  REQUIRE(clean);
  INFO((watched ? "" : watched.error().message()));
  REQUIRE(watched);
  CHECK(same_cache(*clean, *watched));
  CHECK(of.is_untouched());
  const auto& layer = watched->layers[0];
  for (std::size_t h = 0; h < 2; ++h) {
    const auto from = layer.positions.begin() + layer.offsets[h];
    const auto to = layer.positions.begin() + layer.offsets[h + 1];
    // The six newest that were written (9 … 5 and 2), the oldest, and the one that is named.
    for (const index_t row : {9, 8, 7, 6, 5, 2, 10, 33}) CHECK(std::count(from, to, row) == 1);
  }
}

TEST_CASE("rows of a plan leave room for what is protected, counted once or twice",
          "[cache][compact_cache][protect]") {
  const layer_case made(1);
  cache_options options = quick_options(0);
  options.head.protect = {.first = 3, .last = 2, .rows = {0, 1, 30}};  // six rows
  const auto rows = [&](index_t each) {
    options.shares = kvfit::budgets::rows{{each}};
    return compact_cache({.layers = {made.layer}}, {{made.layer.number, made.queries}}, options);
  };
  CHECK(rows(7));
  REQUIRE_FALSE(rows(6));
  CHECK(rows(6).error().code == errc::budget_out_of_range);
  REQUIRE_FALSE(rows(5));
  CHECK(rows(5).error().code == errc::budget_out_of_range);
}

TEST_CASE("H: the last rows that a head falls back to are the newest ones",
          "[cache][compact_cache][protect]") {
  unwritten_layer of(1);
  of.watched.rule = kvfit::logit_rule{.causal = true};  // queries stand at 0, keys behind them
  cache_options options = quick_options(5);
  options.fallback = kvfit::head_fallback::copies;
  const auto small = compact_cache({.layers = {of.watched}}, of.queries(), options);
  REQUIRE(small);
  REQUIRE(small->fallbacks == 1);
  CHECK(small->layers[0].positions == std::vector<index_t>{5, 6, 7, 8, 9});
  CHECK(of.is_untouched());
}

TEST_CASE("H: a refit keeps the newest rows of a ring as they are, or says which is missing",
          "[cache][shared][protect]") {
  const unwritten_layer of(2);
  kvfit::compact_options options = quick_options(1).head;
  options.protect = {.last = 2, .rows = {40}};
  const std::vector<std::vector<index_t>> rows = {{1, 8, 9, 20, 40}, {8, 9, 30, 40}};
  const auto fitted = refit_layer(of.watched, rows, of.made.queries, options);
  INFO((fitted ? "" : fitted.error().message()));
  REQUIRE(fitted);
  const kvfit::matrix& keys = of.made.heads[0].keys;
  CHECK(kvfit::matrix(fitted->keys.middleRows(1, 2)) == kvfit::matrix(keys.middleRows(8, 2)));
  CHECK(fitted->bias[1] == 0.0F);
  CHECK(fitted->bias[4] == 0.0F);
  CHECK(fitted->bias[0] != 0.0F);
  options.memory.cap = index_t{64} << 20;
  const auto capped = refit_layer(of.watched, rows, of.made.queries, options);
  REQUIRE(capped);
  CHECK(same_layer(*capped, *fitted));
  CHECK(of.is_untouched());
  const std::vector<std::vector<index_t>> without = {{1, 8, 20, 40}, {8, 9, 30, 40}};
  const auto refused = refit_layer(of.watched, without, of.made.queries, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::invalid_position);
  CHECK(refused.error().actual == 9);
}

TEST_CASE("H: a capped union keeps protected rows by position", "[cache][shared][protect]") {
  const unwritten_layer of(2);
  cache_options options = quick_options(20);
  options.head.protect = {.last = 3};
  const auto fitted = compact_cache({.layers = {of.watched}}, of.queries(), options);
  REQUIRE(fitted);
  const auto shared = share_positions(of.watched, fitted->layers[0], of.made.queries,
                                      kvfit::compact_options(options.head), 6);
  INFO((shared ? "" : shared.error().message()));
  REQUIRE(shared);
  const std::vector<index_t> one(shared->positions.begin(), shared->positions.begin() + 6);
  for (const index_t row : {7, 8, 9}) CHECK(std::count(one.begin(), one.end(), row) == 1);
}

TEST_CASE("chunks of rows that lie in another order than the text are refused",
          "[cache][chunks][protect]") {
  const unwritten_layer of(1);
  const kvfit::cache_queries queries = of.queries();
  const kvfit::chunk_plan plan{.chunks = {{0, 32}, {32, 32}}, .budgets = {8, 8}};
  const auto made = compact_chunks({.layers = {of.watched}}, std::span(&queries, 1), plan,
                                   quick_options(1), kvfit::serial{});
  REQUIRE_FALSE(made);
  CHECK(made.error().code == errc::invalid_position);
  CHECK(made.error().argument == "L3H0: positions");
}

TEST_CASE("H: hidden live rows are never read by a round", "[cache][rolling][protect]") {
  const growing_text text(100);
  const kvfit::rolling_options options = quick_rounds(50, 24);
  std::vector<float> bias(100, 0.0F);
  for (const std::size_t row : {1U, 40U, 95U}) bias[row] = hidden_key;
  const auto block_after = [&](bool spoils) {
    std::vector<kvfit::matrix> memory;
    memory.reserve(6);
    kvfit::cache_view live = text.live(0, 100);
    std::size_t l = 0;
    for (kvfit::cache_layer& layer : live.layers) {
      if (layer.heads.empty()) continue;
      for (std::size_t h = 0; h < layer.heads.size(); ++h) {
        layer.heads[h].bias = bias;
        if (!spoils) continue;
        for (const kvfit::matrix* rows : {&text.layers[l][h].keys, &text.layers[l][h].values}) {
          memory.push_back(*rows);
          for (const index_t row : {1, 40, 95}) {
            memory.back().row(row).setConstant(std::numeric_limits<float>::quiet_NaN());
          }
        }
        layer.heads[h].keys = memory[memory.size() - 2];
        layer.heads[h].values = memory.back();
      }
      ++l;
    }
    kvfit::rolling_cache roll = rolling_of(options);
    REQUIRE(roll.append(100));
    const auto round = roll.begin(live);
    REQUIRE(round);
    const auto outcome = round->run(text.queries, kvfit::serial{});
    INFO((outcome.cache() ? "" : outcome.cache().error().message()));
    REQUIRE(roll.apply(outcome));
    return roll.block();
  };
  const auto clean = block_after(false);
  CHECK(same_cache(*clean, *block_after(true)));
  // Three sinks that are there: the second token is none.
  for (const index_t row : {0, 2, 3})
    CHECK(std::count(clean->layers[0].positions.begin(),
                     clean->layers[0].positions.begin() + clean->layers[0].offsets[1], row) == 1);
}

}  // namespace kvfit_test
