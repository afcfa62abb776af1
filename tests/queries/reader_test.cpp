// SPDX-License-Identifier: MIT
#include "kvfit/queries/reader.hpp"

#include <chrono>
#include <utility>
#include <vector>

#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/queries/prefill.hpp"
#include "queries/tiny_text.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::make_reader;
using kvfit::token;

namespace {

/// The largest difference of all logits, and of all rows of the cache, from an oracle's.
double worst(const tiny_engine& model, const kvfit::prefilled& text, const oracle_run& oracle) {
  double most = 0;
  const auto logits = model.logits(text.hidden);
  for (std::size_t i = 0; i < oracle.logits.size(); ++i) {
    most = std::max(most, difference(logits->row(static_cast<index_t>(i)), oracle.logits[i]));
  }
  const kvfit::cache_view view = text.cache.view();
  for (std::size_t l = 0; l < view.layers.size(); ++l) {
    for (std::size_t h = 0; h < view.layers[l].heads.size(); ++h) {
      const kvfit::kv_block& head = view.layers[l].heads[h];
      for (std::size_t i = 0; i < oracle.logits.size(); ++i) {
        const seen_row& row = oracle.layers[l][i].rows[h];
        for (std::size_t k = 0; k < row.key.size(); ++k) {
          const auto r = static_cast<index_t>(i);
          const auto c = static_cast<index_t>(k);
          most = std::max(most, std::abs(static_cast<double>(head.keys(r, c)) - row.key[k]));
        }
        for (std::size_t k = 0; k < row.value.size(); ++k) {
          const auto r = static_cast<index_t>(i);
          const auto c = static_cast<index_t>(k);
          most = std::max(most, std::abs(static_cast<double>(head.values(r, c)) - row.value[k]));
        }
      }
    }
  }
  return most;
}

}  // namespace

TEST_CASE("a prefill is the model's own forward pass, in chunks of any size", "[queries][reader]") {
  tiny_engine model;
  if (GENERATE(false, true)) {
    model.stack[1].shape.kind = kvfit::layer_kind::sliding;
    model.stack[1].shape.rule.window = 7;
  }
  const auto tokens = model.text(40, 3);
  const oracle_run oracle = oracle_read(model, tokens);
  for (const index_t chunk : {1, 7, 40, 512}) {
    const auto read = make_reader(model, {.chunk = chunk});
    REQUIRE(read);
    const auto text = kvfit::prefill(*read, tokens);
    REQUIRE(text);
    CHECK(worst(model, *text, oracle) < tiny_tolerance);
  }
}

TEST_CASE("a text may be read in parts, the first ones a prefix", "[queries][reader]") {
  const tiny_engine model;
  const auto first = model.text(25, 4);
  const auto second = model.text(15, 5);
  const auto all = joined(first, second);
  const auto read = make_reader(model);
  const auto start = kvfit::prefill(*read, first);
  REQUIRE(start);
  const auto rest = kvfit::prefill(*read, second, kvfit::prefix_of(start->cache));
  REQUIRE(rest);
  CHECK(rest->cache.first_position() == 25);
  CHECK(rest->cache.rows(2) == 15);
  const oracle_run oracle = oracle_read(model, all);
  const auto logits = model.logits(rest->hidden);
  for (index_t i = 0; i < 15; ++i) {
    CHECK(difference(logits->row(i), oracle.logits[static_cast<std::size_t>(25 + i)]) <
          tiny_tolerance);
  }
}

TEST_CASE("a reader tells who looks what every layer makes of every token", "[queries][reader]") {
  const tiny_engine model;
  const auto tokens = model.text(20, 6);
  const oracle_run oracle = oracle_read(model, tokens);
  const auto read = make_reader(model, {.chunk = 8});
  kvfit::live_cache live(read->shapes());
  std::vector<index_t> seen(3, 0);
  double most = 0;
  const auto hidden = read->read(
      {}, live, tokens, [&](index_t layer, index_t first, const kvfit::layer_rows& rows) {
        const auto l = static_cast<std::size_t>(layer);
        CHECK(first == seen[l]);
        seen[l] += rows.queries.front().rows();
        for (std::size_t h = 0; h < 4; ++h) {
          for (index_t i = 0; i < rows.queries[h].rows(); ++i) {
            const auto& token = oracle.layers[l][static_cast<std::size_t>(first + i)];
            most = std::max(most, difference(rows.queries[h].row(i), token.queries[h]));
          }
        }
      });
  REQUIRE(hidden);
  CHECK(seen == std::vector<index_t>{20, 20, 20});
  CHECK(most < tiny_tolerance);
}

TEST_CASE("heads on several threads give the same bytes", "[queries][reader]") {
  const tiny_engine model;
  const auto tokens = model.text(50, 7);
  const auto serial = kvfit::prefill(*make_reader(model), tokens);
  kvfit::thread_pool pool(3);
  const auto threads = kvfit::prefill(*make_reader(model, pool), tokens);
  REQUIRE(serial);
  REQUIRE(threads);
  CHECK(serial->hidden == threads->hidden);
}

TEST_CASE("engines that can't be read are refused", "[queries][reader]") {
  const auto cause = [](const tiny_engine& model) {
    const auto read = make_reader(model);
    REQUIRE_FALSE(read.has_value());
    INFO(read.error().message());
    CHECK(read.error().detail.find("layer 1") != std::string::npos);
    return read.error().code;
  };
  tiny_engine model;
  const auto intact = model.stack[1].shape;
  auto& shape = model.stack[1].shape;
  shape.query_heads = 5;
  CHECK(cause(model) == errc::shape_mismatch);
  shape = intact;
  shape.kind = kvfit::layer_kind::recurrent;
  CHECK(cause(model) == errc::invalid_option);
  shape = intact;
  shape.value_size = 0;
  CHECK(cause(model) == errc::invalid_option);
  shape = intact;
  shape.rule.window = -1;
  CHECK(cause(model) == errc::invalid_option);
  shape = intact;
  shape.rotation->dims = 3;
  CHECK(cause(model) == errc::invalid_option);
  shape = intact;
  CHECK(make_reader(model, {.chunk = 0}).error().argument == "chunk");
  CHECK(make_reader(tiny_engine(0)).error().code == errc::empty_input);
}

TEST_CASE("texts that can't be read are refused, with their sizes", "[queries][reader]") {
  const tiny_engine model;
  const auto read = make_reader(model);
  const auto cause = [&](const std::vector<token>& tokens) {
    const auto text = kvfit::prefill(*read, tokens);
    REQUIRE_FALSE(text.has_value());
    return text.error();
  };
  CHECK(cause({}).code == errc::empty_input);
  CHECK(cause({1, 29}).actual == 29);
  CHECK(cause({1, -1}).code == errc::invalid_option);
  CHECK(cause(model.text(201, 1)).actual == 201);
  CHECK(cause(model.text(201, 1)).expected == 200);
  CHECK(kvfit::prefill(*read, model.text(200, 1)).has_value());
}

TEST_CASE("what goes wrong on the way leaves the live rows as they were", "[queries][reader]") {
  const tiny_engine model;
  kvfit::cancellation stop;
  const auto read = make_reader(model, {.chunk = 4, .stop = {.cancel = &stop}});
  kvfit::live_cache live(read->shapes());
  REQUIRE(read->read({}, live, model.text(10, 1)));
  const auto unchanged = [&](const kvfit::result<kvfit::matrix>& outcome, errc code) {
    REQUIRE_FALSE(outcome.has_value());
    CHECK(outcome.error().code == code);
    for (index_t l = 0; l < 3; ++l) CHECK(live.rows(l) == 10);
  };
  model.failing_projection = 5;  // the second layer of the second chunk
  unchanged(read->read({}, live, model.text(9, 2)), errc::out_of_memory);
  kvfit::live_cache later(read->shapes(), 3);
  CHECK(read->read({}, later, model.text(2, 2)).error().code == errc::invalid_position);
  stop.request();
  unchanged(read->read({}, live, model.text(9, 2)), errc::cancelled);
  const auto late =
      make_reader(model, {.chunk = 4, .stop = {.deadline = std::chrono::steady_clock::now()}});
  const auto outcome = late->read({}, live, model.text(9, 2));
  unchanged(outcome, errc::cancelled);
  CHECK(outcome.error().actual == 0);
  CHECK(outcome.error().expected == 9);  // three chunks through three layers
  CHECK(outcome.error().detail == "the deadline has passed");
  live.truncate(-3);
  for (index_t l = 0; l < 3; ++l) CHECK(live.rows(l) == 0);
}

TEST_CASE("a reader's attention keeps to a cap, or is refused with the head's name",
          "[queries][reader]") {
  const tiny_engine model;
  const auto free = make_reader(model);
  const auto whole = kvfit::prefill(*free, model.text(60, 1));
  REQUIRE(whole);
  const auto bare = make_reader(model, {.attention = {.memory = 1}});
  const auto refused = kvfit::prefill(*bare, model.text(60, 1));
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == errc::memory_cap_exceeded);
  CHECK(refused.error().detail.find("L0H0") != std::string::npos);
  const auto capped = make_reader(model, {.attention = {.memory = refused.error().actual}});
  const auto same = kvfit::prefill(*capped, model.text(60, 1));
  REQUIRE(same);
  CHECK((same->hidden - whole->hidden).cwiseAbs().maxCoeff() <
        1e-4F * whole->hidden.cwiseAbs().maxCoeff());
}

TEST_CASE("an engine that returns other sizes than it said is refused", "[queries][reader]") {
  tiny_engine model;
  const auto read = make_reader(model);
  model.stack[2].shape.query_heads = 2;  // after it was asked
  const auto text = kvfit::prefill(*read, model.text(5, 1));
  REQUIRE_FALSE(text.has_value());
  CHECK(text.error().argument == "queries");
  CHECK(text.error().expected == 4);
}

}  // namespace kvfit_test
