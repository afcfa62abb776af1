// SPDX-License-Identifier: MIT
// Rows of a rolling cache and the positions at which they stand are two numbers; and an empty text
// is a text.
#include <memory>
#include <span>
#include <vector>

#include "cache/rolling_case.hpp"
#include "kvfit/cache/position_runs.hpp"
#include "kvfit/cache/recent_queries.hpp"
#include "kvfit/cache/rolling.hpp"
#include "kvfit/io/state.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::position_run;
using kvfit::rolling_cache;

namespace {

using run_list = std::vector<position_run>;

/// 124 rows, of which 64 are those of an image and share position 30; words before it stand at
/// 0 … 29, words behind it at 38 … 67, the next one at 68: row 107 at position 51.
std::vector<index_t> image_text_positions() {
  std::vector<index_t> positions;
  for (index_t p = 0; p < 30; ++p) positions.push_back(p);
  positions.insert(positions.end(), 64, 30);
  for (index_t p = 38; p < 68; ++p) positions.push_back(p);
  return positions;
}

/// `text.live(first, end)`, each head with the table of positions, by reference.
kvfit::cache_view placed(const growing_text& text, index_t first, index_t end,
                         const std::vector<index_t>& positions) {
  kvfit::cache_view view = text.live(first, end);
  for (kvfit::cache_layer& layer : view.layers) {
    for (kvfit::kv_block& head : layer.heads) {
      head.positions = std::span(positions).subspan(static_cast<std::size_t>(first),
                                                    static_cast<std::size_t>(end - first));
    }
  }
  return view;
}

run_list runs_of(const rolling_cache& roll) {
  return {roll.live_positions().begin(), roll.live_positions().end()};
}

/// Every compact row is the text's row of its number, at that row's position.
void check_block(const rolling_cache& roll, const growing_text& text,
                 const std::vector<index_t>& positions) {
  REQUIRE(roll.block());
  for (std::size_t l = 0; l < 2; ++l) {
    const kvfit::compacted_layer& layer = roll.block()->layers[l];
    REQUIRE(kvfit::check_layer(layer));
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      for (index_t j = layer.offsets[h]; j < layer.offsets[h + 1]; ++j) {
        const index_t row = layer.positions[static_cast<std::size_t>(j)];
        REQUIRE(row < roll.live_first());
        CHECK(layer.key_positions[static_cast<std::size_t>(j)] ==
              positions[static_cast<std::size_t>(row)]);
        CHECK(layer.keys.row(j) == text.layers[l][h].keys.row(row));
      }
    }
  }
}

void run_round_of(rolling_cache& roll, const kvfit::cache_view& live,
                  const kvfit::cache_queries& queries) {
  const auto round = roll.begin(live);
  INFO((round ? "" : round.error().message()));
  REQUIRE(round);
  REQUIRE(roll.apply(round->run(queries, kvfit::serial{})));
}

}  // namespace

TEST_CASE("E: 64 rows of an image at one position: a rolling cache keeps positions as given",
          "[cache][rolling][positions]") {
  const growing_text text(160);
  std::vector<index_t> positions = image_text_positions();
  REQUIRE(positions.size() == 124);
  REQUIRE(positions[107] == 51);
  rolling_cache roll = rolling_of(quick_rounds(64, 24));
  REQUIRE(roll.append(positions, 68));
  CHECK(roll.length() == 124);
  CHECK(roll.live_rows() == 124);
  CHECK(roll.next_position() == 68);
  CHECK(runs_of(roll) == run_list{{0, 31, 1}, {30, 63, 0}, {38, 30, 1}});

  run_round_of(roll, placed(text, 0, 124, positions), text.queries);
  CHECK(roll.live_first() == 116);  // recent rows are counted as rows
  CHECK(roll.live_rows() == 8);
  CHECK(roll.next_position() == 68);
  CHECK(runs_of(roll) == run_list{{60, 8, 1}});
  check_block(roll, text, positions);
  for (const kvfit::compacted_layer& layer : roll.block()->layers) {
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      for (index_t j = 0; j < 3; ++j) {  // and so are sinks
        CHECK(layer.positions[static_cast<std::size_t>(layer.offsets[h] + j)] == j);
      }
    }
  }

  // The text goes on at 68, and a second round leaves the first one's positions as they are.
  REQUIRE(roll.append(36));
  CHECK(roll.next_position() == 104);
  for (index_t p = 68; p < 104; ++p) positions.push_back(p);
  run_round_of(roll, text.live(116, 160), text.queries);
  CHECK(roll.live_first() == 152);
  check_block(roll, text, positions);
}

TEST_CASE("E: a round sees keys where they stand: it is the compaction of the rows as they are",
          "[cache][rolling][positions]") {
  const growing_text text(124);
  const std::vector<index_t> positions = image_text_positions();
  auto options = quick_rounds(64, 24);
  options.cache.head.rule.causal = true;
  // Queries that stand behind the text see all of it. By their numbers, 56 of its rows would stand
  // behind them.
  kvfit::cache_queries queries = text.queries;
  for (kvfit::layer_queries& layer : queries) {
    for (kvfit::query_block& head : layer.heads) {
      head.first_position = 68;
      head.position_step = 0;
    }
  }
  rolling_cache roll = rolling_of(options);
  REQUIRE(roll.append(positions, 68));
  run_round_of(roll, text.live(0, 124), queries);
  auto expected = options.cache;
  expected.budget = 3 * 16;
  expected.head.protect.first = 3;
  const auto alone = kvfit::compact_cache(placed(text, 0, 116, positions), queries, expected);
  REQUIRE(alone);
  CHECK(same_cache(*roll.block(), *alone));
}

TEST_CASE("E: a view that says other positions than the rows were appended at is refused",
          "[cache][rolling][positions]") {
  const growing_text text(124);
  const std::vector<index_t> positions = image_text_positions();
  rolling_cache roll = rolling_of(quick_rounds(64, 24));
  REQUIRE(roll.append(124));  // as if all stood one behind the other
  const auto refused = roll.begin(placed(text, 0, 124, positions));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::invalid_position);
  CHECK(refused.error().argument == "L1H0: positions");
  CHECK(refused.error().actual == 30);
  CHECK(refused.error().expected == 31);
  CHECK_FALSE(roll.is_busy());
  auto view = text.live(0, 124);
  view.layers[2].heads[0].first_position = 7;
  CHECK(roll.begin(view).error().argument == "L4H0: positions");
  view.layers[2].heads[0].first_position = 0;
  view.layers[2].heads[0].positions = std::span(positions).first(100);
  CHECK(roll.begin(view).error().code == errc::shape_mismatch);
  view = text.live(0, 124);
  for (kvfit::cache_layer& layer : view.layers) {
    for (kvfit::kv_block& head : layer.heads) head.first_position = 0;
  }
  CHECK(roll.begin(view));
}

TEST_CASE("E: a text cut within an image goes on where its rows stood, or where it is told to",
          "[cache][rolling][positions]") {
  const std::vector<index_t> positions = image_text_positions();
  rolling_cache roll = rolling_of(quick_rounds(64, 24));
  REQUIRE(roll.append(positions, 68));
  REQUIRE(roll.truncate(124));  // none is gone
  CHECK(roll.next_position() == 68);
  REQUIRE(roll.truncate(104));  // ten words behind the image stay
  CHECK(roll.next_position() == 48);
  CHECK(runs_of(roll) == run_list{{0, 31, 1}, {30, 63, 0}, {38, 10, 1}});
  REQUIRE(roll.truncate(94, 37));
  CHECK(roll.next_position() == 37);
  CHECK(roll.length() == 94);
  REQUIRE(roll.truncate(50));  // 20 rows of the image stay
  CHECK(roll.next_position() == 30);
  CHECK(runs_of(roll) == run_list{{0, 31, 1}, {30, 19, 0}});
  const std::vector<index_t> rest(44, 30);
  REQUIRE(roll.append(rest, 38));  // its other rows, as before
  CHECK(runs_of(roll) == run_list{{0, 31, 1}, {30, 63, 0}});
  CHECK(roll.next_position() == 38);
  REQUIRE(roll.truncate(30));
  CHECK(roll.next_position() == 30);
  CHECK(runs_of(roll) == run_list{{0, 30, 1}});

  const auto later = roll.truncate(20, 31);
  REQUIRE_FALSE(later);
  CHECK(later.error().code == errc::invalid_position);
  CHECK(later.error().expected == 30);
  const auto earlier = roll.truncate(20, 18);
  REQUIRE_FALSE(earlier);
  CHECK(earlier.error().expected == 19);
  CHECK(roll.length() == 30);
  REQUIRE(roll.truncate(20, 25));
  REQUIRE(roll.append(1));
  CHECK(runs_of(roll) == run_list{{0, 20, 1}, {25, 1, 1}});
  REQUIRE(roll.truncate(0));
  CHECK(roll.next_position() == 0);
  CHECK(roll.live_positions().empty());
}

TEST_CASE("E: positions that no text can have are refused, and nothing changes",
          "[cache][rolling][positions]") {
  rolling_cache roll = rolling_of(quick_rounds(64, 24));
  REQUIRE(roll.append(10));
  const auto cause = [&](const std::vector<index_t>& positions, index_t next) {
    const auto found = roll.append(positions, next);
    REQUIRE_FALSE(found);
    CHECK(roll.length() == 10);
    CHECK(roll.next_position() == 10);
    CHECK(runs_of(roll) == run_list{{0, 10, 1}});
    return found.error();
  };
  CHECK(cause({10, 11}, 9).argument == "next_position");
  CHECK(cause({10, 11}, (index_t{1} << 53U) + 1).argument == "next_position");
  CHECK(cause({10, 12}, 11).argument == "positions");
  CHECK(cause({10, 12}, 11).actual == 12);
  CHECK(cause({-1}, 11).actual == -1);
  REQUIRE(roll.append(std::vector<index_t>{12, 11, 13, 13}, 20));  // in any order
  CHECK(runs_of(roll) == run_list{{0, 10, 1}, {12, 1, 1}, {11, 1, 1}, {13, 2, 0}});
  REQUIRE(roll.append(std::vector<index_t>{}, 21));  // a gap alone
  CHECK(roll.next_position() == 21);
  CHECK_FALSE(roll.append(index_t{1} << 53U));
}

TEST_CASE("E: a saved text goes on at its own next position, with its live rows where they were",
          "[cache][rolling][positions]") {
  const growing_text text(160);
  std::vector<index_t> positions = image_text_positions();
  const auto options = quick_rounds(64, 24);
  rolling_cache roll = rolling_of(options);
  REQUIRE(roll.append(positions, 68));
  run_round_of(roll, text.live(0, 124), text.queries);
  REQUIRE(roll.append(10));
  auto restored = rolling_cache::make(options, roll.state());
  REQUIRE(restored);
  CHECK(restored->next_position() == 78);
  CHECK(runs_of(*restored) == runs_of(roll));
  run_round_of(roll, text.live(116, 134), text.queries);
  run_round_of(*restored, text.live(116, 134), text.queries);
  CHECK(same_cache(*roll.block(), *restored->block()));

  auto wrong = roll.state();
  wrong.next_position = 40;  // keys of the block stand behind it
  CHECK(rolling_cache::make(options, wrong).error().code == errc::invalid_position);
  wrong = roll.state();
  wrong.next_position = -1;
  CHECK(rolling_cache::make(options, wrong).error().argument == "next_position");
  wrong = roll.state();
  wrong.live_positions.clear();
  CHECK(rolling_cache::make(options, wrong).error().code == errc::shape_mismatch);
  wrong = roll.state();
  wrong.live_positions.back().first = 79;
  CHECK(rolling_cache::make(options, wrong).error().code == errc::invalid_position);
  wrong = roll.state();
  wrong.live_positions.back().step = 2;
  CHECK(rolling_cache::make(options, wrong).error().argument == "live_positions");
  wrong = roll.state();
  wrong.live_positions.push_back({70, 0, 1});
  CHECK(rolling_cache::make(options, wrong).error().argument == "live_positions");
  wrong = roll.state();
  auto twice = *wrong.block;
  twice.layers.insert(twice.layers.begin(), twice.layers.front());
  wrong.block = std::make_shared<const kvfit::compacted_cache>(twice);
  CHECK(rolling_cache::make(options, wrong).error().argument == "layer");
}

TEST_CASE("E: runs of positions are what their rows are, whatever is added and taken away",
          "[cache][rolling][positions]") {
  kvfit::random_source random(5);
  const auto below = [&](std::uint64_t bound) { return static_cast<index_t>(random.below(bound)); };
  for (int round = 0; round < 300; ++round) {
    run_list runs;
    std::vector<index_t> rows;
    for (index_t parts = below(8); parts > 0; --parts) {
      const position_run run{.first = below(40), .rows = 1 + below(5), .step = below(2)};
      kvfit::detail::add_run(runs, run);
      for (index_t i = 0; i < run.rows; ++i) rows.push_back(run.first + i * run.step);
    }
    CHECK(kvfit::detail::positions_of_rows(runs) == rows);
    const auto count = static_cast<index_t>(rows.size());
    const index_t dropped = below(static_cast<std::uint64_t>(count) + 1);
    auto rest = runs;
    kvfit::detail::drop_first_rows(rest, dropped);
    CHECK(kvfit::detail::positions_of_rows(rest) ==
          std::vector<index_t>(rows.begin() + dropped, rows.end()));
    auto start = runs;
    const index_t next = kvfit::detail::keep_first_rows(start, dropped, -7);
    CHECK(kvfit::detail::positions_of_rows(start) ==
          std::vector<index_t>(rows.begin(), rows.begin() + dropped));
    CHECK(next == (dropped < count ? rows[static_cast<std::size_t>(dropped)] : -7));
    CHECK(kvfit::detail::check_runs(runs, count, 1000));
  }
}

TEST_CASE("E: recent queries stand where they stood, several at one position",
          "[cache][rolling][positions]") {
  const kvfit::matrix rows = random_matrix(124, 4, 3);
  const std::vector<index_t> positions = image_text_positions();
  kvfit::recent_queries last(100);
  for (index_t first = 0; first < 124; first += 31) {
    kvfit::query_block block(kvfit::row_view(rows).middle_rows(first, 31), first);
    block.positions = positions;
    REQUIRE(last.record(2, {&block, 1}));
  }
  const auto check = [&](index_t from, index_t count) {
    const auto copy = last.copy();
    REQUIRE(copy);
    REQUIRE(copy->queries.size() == 1);
    const kvfit::query_block& all = copy->queries[0].heads[0];
    REQUIRE(all.rows.rows() == count);
    REQUIRE(kvfit::check_queries(all, 4));
    CHECK(copy->memory[0] == rows.middleRows(from, count));
    for (index_t i = 0; i < count; ++i) {
      CHECK(all.position(i) == positions[static_cast<std::size_t>(from + i)]);
    }
  };
  check(24, 100);
  last.truncate(38);  // the words behind the image
  check(24, 70);
  last.truncate(30);  // and the image
  check(24, 6);
}

TEST_CASE("B: recent queries of layers that read one cache are remembered apart",
          "[cache][rolling][shared_layers]") {
  const kvfit::matrix own = random_matrix(12, 4, 1);
  const kvfit::matrix others = random_matrix(12, 4, 2);
  kvfit::recent_queries last(8);
  for (index_t token = 0; token < 12; ++token) {
    const kvfit::query_block one(kvfit::row_view(own).middle_rows(token, 1), token);
    const kvfit::query_block two(kvfit::row_view(others).middle_rows(token, 1), token);
    REQUIRE(last.record(3, {&one, 1}));
    const std::vector<kvfit::query_block> both = {two, two};
    REQUIRE(last.record(3, both, 7));
  }
  CHECK(last.rows(3) == 8);
  CHECK(last.rows(3, 7) == 8);
  CHECK(last.rows(7) == 0);
  const auto copy = last.copy();
  REQUIRE(copy);
  REQUIRE(copy->queries.size() == 2);
  CHECK(copy->queries[0].layer == 3);
  CHECK(copy->queries[1].layer == 3);
  CHECK(copy->memory[0] == own.bottomRows(8));
  CHECK(copy->memory[2] == others.bottomRows(8));
  const auto blocks = kvfit::queries_of_layer(copy->queries, 3, 1);
  REQUIRE(blocks);
  CHECK(blocks->size() == 3);
}

TEST_CASE("J: an empty conversation is a rolling cache of no rows, and grows",
          "[cache][rolling][empty]") {
  const growing_text text(100);
  const auto options = quick_rounds(50, 24);
  rolling_cache fresh = rolling_of(options);
  run_round(fresh, text, 100);
  kvfit::compacted_cache no_rows;  // as a plan without rows leaves it
  for (const index_t number : {1, 4}) {
    kvfit::compacted_layer& layer = no_rows.layers.emplace_back();
    const index_t heads = number == 1 ? 2 : 1;
    layer.number = number;
    layer.offsets.assign(static_cast<std::size_t>(heads) + 1, 0);
    layer.keys.resize(0, number == 1 ? 16 : 12);
    layer.values.resize(0, text.layers[number == 1 ? 0 : 1][0].values.cols());
    for (index_t h = 0; h < heads; ++h) {
      layer.heads.push_back({.id = {number, h}, .outcome = kvfit::head_outcome::empty});
    }
  }
  for (const kvfit::compacted_cache& empty : {kvfit::compacted_cache{}, no_rows}) {
    auto roll = rolling_cache::make(
        options, {.block = std::make_shared<const kvfit::compacted_cache>(empty)});
    INFO((roll ? "" : roll.error().message()));
    REQUIRE(roll);
    CHECK(roll->length() == 0);
    CHECK(roll->live_first() == 0);
    CHECK(roll->next_position() == 0);
    CHECK(roll->rows() == 0);
    CHECK(roll->block() == nullptr);  // nothing to attend over
    CHECK_FALSE(roll->is_due());
    auto again = rolling_cache::make(options, roll->state());
    REQUIRE(again);
    run_round(*again, text, 100);
    CHECK(same_cache(*again->block(), *fresh.block()));
  }
  REQUIRE(rolling_cache::make(options, {}));

  // Saved and read back, layers without a row are what they were.
  const auto bytes = kvfit::write_state(no_rows, kvfit::state_info{});
  INFO((bytes ? "" : bytes.error().message()));
  REQUIRE(bytes);
  auto state = kvfit::read_state(*bytes);
  REQUIRE(state);
  CHECK(same_cache(state->cache, no_rows));
  CHECK(rolling_cache::make(
      options, {.block = std::make_shared<const kvfit::compacted_cache>(std::move(state->cache))}));
}

TEST_CASE("J: an empty conversation is saved, read back and goes on", "[cache][rolling][empty]") {
  const growing_text text(100);
  const auto options = quick_rounds(50, 24);
  const auto bytes = kvfit::write_state(kvfit::compacted_cache{}, kvfit::state_info{});
  REQUIRE(bytes);
  auto state = kvfit::read_state(*bytes);
  REQUIRE(state);
  CHECK(state->cache.layers.empty());
  auto roll = rolling_cache::make(
      options, {.block = std::make_shared<const kvfit::compacted_cache>(std::move(state->cache))});
  INFO((roll ? "" : roll.error().message()));
  REQUIRE(roll);
  run_round(*roll, text, 100);
  rolling_cache fresh = rolling_of(options);
  run_round(fresh, text, 100);
  CHECK(same_cache(*roll->block(), *fresh.block()));
}

TEST_CASE("J: a conversation that was taken back to its start can be restored",
          "[cache][rolling][empty]") {
  const auto options = quick_rounds(50, 24);
  rolling_cache roll = rolling_of(options);
  REQUIRE(roll.append(20));
  REQUIRE(roll.truncate(0));
  REQUIRE(roll.append(0));
  const auto again = rolling_cache::make(options, roll.state());
  REQUIRE(again);
  CHECK(again->length() == 0);
  // A block with rows is none of an empty text.
  const growing_text text(100);
  run_round(roll, text, 100);
  kvfit::rolling_state wrong{.block = roll.block()};
  CHECK(rolling_cache::make(options, wrong).error().code == errc::invalid_position);
}

}  // namespace kvfit_test
