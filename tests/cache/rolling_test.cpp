// SPDX-License-Identifier: MIT
#include "kvfit/cache/rolling.hpp"

#include <chrono>
#include <limits>
#include <optional>
#include <thread>
#include <vector>

#include "cache/rolling_case.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/thread_pool.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::rolling_cache;
using kvfit::rolling_options;

namespace {

/// What must not change when a round fails, and how to tell.
class unchanged {
 public:
  explicit unchanged(const rolling_cache& roll)
      : roll_(roll), state_(roll.state()), copy_(roll.block() ? *roll.block() : no_cache()) {}

  void check() const {
    CHECK(roll_.length() == state_.length);
    CHECK(roll_.live_first() == state_.live_first);
    CHECK(roll_.block() == state_.block);
    if (roll_.block()) CHECK(same_cache(*roll_.block(), copy_));
  }

 private:
  static kvfit::compacted_cache no_cache() { return {}; }

  const rolling_cache& roll_;
  kvfit::rolling_state state_;
  kvfit::compacted_cache copy_;
};

/// The text with `before` of its tokens compacted by a round and others live behind them.
rolling_cache half_compacted(const growing_text& text, const rolling_options& options,
                             index_t before = 60, index_t live = 40) {
  rolling_cache roll = rolling_of(options);
  run_round(roll, text, before + options.recent);
  REQUIRE(roll.append(live - roll.live_rows()));
  return roll;
}

}  // namespace

TEST_CASE("rounds leave the target, keep sinks and recent rows, and count from the text's start",
          "[cache][rolling]") {
  const growing_text text(200);
  const rolling_options options = quick_rounds(64, 24);
  rolling_cache roll = rolling_of(options);
  int rounds = 0;
  for (index_t end = 1; end <= 200; ++end) {
    REQUIRE(roll.append(1));
    CHECK(roll.length() == end);
    if (!roll.is_due()) {
      CHECK(roll.rows() < 64);
      continue;
    }
    CHECK(roll.rows() == 64);
    const index_t first = roll.live_first();
    CHECK(run_round(roll, text, end) == kvfit::chunk{first, end - 8 - first});
    ++rounds;
    CHECK(roll.live_first() == end - 8);
    CHECK(roll.live_rows() == 8);
    CHECK(roll.rows() == 24);
    CHECK(roll.block()->rows == 3 * 16);
    CHECK(roll.block()->skipped == std::vector<index_t>{2});
    REQUIRE(roll.block()->layers.size() == 2);
    bool is_any_late = false;
    for (std::size_t l = 0; l < 2; ++l) {
      const auto& layer = roll.block()->layers[l];
      CHECK(layer.positions == layer.key_positions);
      for (std::size_t h = 0; h < layer.heads.size(); ++h) {
        const auto from = static_cast<std::size_t>(layer.offsets[h]);
        index_t last = -1;
        for (index_t j = 0; j < layer.rows(h); ++j) {
          const auto at = from + static_cast<std::size_t>(j);
          const index_t position = layer.positions[at];
          CHECK(position > last);
          CHECK(position < roll.live_first());
          last = position;
          is_any_late = is_any_late || position >= first;
          // Keys were not moved: each is the text's own, however many rounds it has seen.
          const auto row = static_cast<index_t>(at);
          CHECK(layer.keys.row(row) == text.layers[l][h].keys.row(position));
          if (j >= 3) continue;
          CHECK(position == j);
          CHECK(layer.bias[row] == 0);
          CHECK(layer.values.row(row) == text.layers[l][h].values.row(j));
        }
      }
    }
    CHECK(is_any_late);
  }
  CHECK(rounds == 4);
}

TEST_CASE(
    "§9.32 a second round carries the first one's biases: its mass error is close to one "
    "round's",
    "[cache][rolling]") {
  double once = 0;
  double twice = 0;
  double forgotten = 0;
  double lost = 0;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const growing_text text(256, seed);
    const rolling_options options = quick_rounds(1000, 48);
    rolling_cache one = rolling_of(options);
    run_round(one, text, 256);
    once += text.errors(*one.block(), one.live_first(), 256).mass_error;
    rolling_cache two = rolling_of(options);
    run_round(two, text, 136);
    rolling_cache bare = two.fork();
    run_round(two, text, 256);
    CHECK(two.block()->rows == one.block()->rows);
    twice += text.errors(*two.block(), two.live_first(), 256).mass_error;
    // The same without the old biases, and without the old block.
    auto state = bare.state();
    auto unbiased = *state.block;
    for (auto& layer : unbiased.layers) layer.bias.setZero();
    state.block = std::make_shared<const kvfit::compacted_cache>(unbiased);
    auto forgetful = rolling_cache::make(options, state);
    REQUIRE(forgetful);
    run_round(*forgetful, text, 256);
    forgotten += text.errors(*forgetful->block(), forgetful->live_first(), 256).mass_error;
    const auto second = kvfit::compact_cache(text.live(128, 248), text.queries,
                                             {.budget = 3 * 40, .head = options.cache.head});
    REQUIRE(second);
    lost += text.errors(*second, 248, 256).mass_error;
  }
  INFO("mass errors: one round " << once / 3 << ", two " << twice / 3 << ", biases forgotten "
                                 << forgotten / 3 << ", first block lost " << lost / 3);
  CHECK(twice <= 1.3 * once);
  CHECK(forgotten > 2 * twice);
  CHECK(lost > 3 * twice);
}

TEST_CASE("a round is the compaction of both parts put one below the other, byte for byte",
          "[cache][rolling]") {
  const growing_text text(100);
  const rolling_options options = quick_rounds(50, 24);
  rolling_cache roll = half_compacted(text, options);
  const auto before = roll.block();
  const auto round = roll.begin(text.live(roll));
  REQUIRE(round);
  CHECK(round->taken() == kvfit::chunk{60, 32});

  auto expected_options = options.cache;
  expected_options.budget = 3 * (24 - 8);
  expected_options.head.protect.first = 3;
  std::vector<kvfit::matrix> memory;
  memory.reserve(6);
  std::vector<std::vector<float>> biases;
  std::vector<std::vector<index_t>> positions;
  biases.reserve(3);
  positions.reserve(3);
  kvfit::cache_view stacked = text.live(60, 92);
  for (std::size_t l = 0; l < 2; ++l) {
    auto& layer = stacked.layers[2 * l];
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const auto old = before->layers[l].block(h);
      auto& bias = biases.emplace_back(old.bias.begin(), old.bias.end());
      auto& place = positions.emplace_back(old.positions.begin(), old.positions.end());
      bias.resize(bias.size() + 32, 0.0F);
      for (index_t row = 60; row < 92; ++row) place.push_back(row);
      const head& one = text.layers[l][h];
      kvfit::matrix& keys = memory.emplace_back(old.keys.rows() + 32, one.keys.cols());
      keys << before->layers[l].keys.middleRows(before->layers[l].offsets[h], old.keys.rows()),
          one.keys.middleRows(60, 32);
      kvfit::matrix& values = memory.emplace_back(old.keys.rows() + 32, one.values.cols());
      values << before->layers[l].values.middleRows(before->layers[l].offsets[h], old.keys.rows()),
          one.values.middleRows(60, 32);
      layer.heads[h] = {.keys = keys, .values = values, .bias = bias, .positions = place};
    }
  }
  const auto expected = kvfit::compact_cache(stacked, text.queries, expected_options);
  REQUIRE(expected);
  kvfit::thread_pool pool(3);
  for (int way = 0; way < 2; ++way) {
    const auto outcome =
        way == 0 ? round->run(text.queries, kvfit::serial{}) : round->run(text.queries, pool);
    REQUIRE(outcome.cache());
    const auto& found = **outcome.cache();
    for (std::size_t l = 0; l < 2; ++l) {
      CHECK(found.layers[l].offsets == expected->layers[l].offsets);
      CHECK(same_bytes(found.layers[l].keys, expected->layers[l].keys));
      CHECK(same_bytes(found.layers[l].bias, expected->layers[l].bias));
      CHECK(same_bytes(found.layers[l].values, expected->layers[l].values));
      CHECK(found.layers[l].key_positions == expected->layers[l].key_positions);
    }
  }
}

TEST_CASE("§9.33 rows that come while a round runs elsewhere stay live behind the new block",
          "[cache][rolling]") {
  const growing_text text(120);
  const rolling_options options = quick_rounds(50, 30);
  rolling_cache roll = half_compacted(text, options);
  const auto in_use = roll.block();
  const auto copy = *in_use;
  const auto round = roll.begin(text.live(roll));
  REQUIRE(round);
  CHECK(roll.is_busy());
  std::optional<kvfit::rolling_outcome> outcome;
  std::thread worker([&] { outcome.emplace(round->run(text.queries, kvfit::serial{})); });
  for (int token = 0; token < 20; ++token) {  // decode on, over the old block and all live rows
    REQUIRE(roll.append(1));
    CHECK(roll.block() == in_use);
    CHECK(roll.live_first() == 60);
  }
  const double before = text.errors(*roll.block(), roll.live_first(), 120).mass_error;
  worker.join();
  const auto gone = roll.apply(*outcome);
  REQUIRE(gone);
  CHECK(*gone == kvfit::chunk{60, 32});
  CHECK_FALSE(roll.is_busy());
  CHECK(roll.length() == 120);
  CHECK(roll.live_first() == 92);
  CHECK(roll.live_rows() == 28);
  CHECK(roll.block() == *outcome->cache());
  CHECK(same_cache(*in_use, copy));  // who still reads the old one may
  const double after = text.errors(*roll.block(), roll.live_first(), 120).mass_error;
  // Rows that the block has, counted once more, would double their mass.
  const double twice = text.errors(*roll.block(), 60, 120).mass_error;
  INFO("mass errors: before " << before << ", after " << after << ", rows seen twice " << twice);
  CHECK(after < 0.2);
  CHECK(twice > 1.5 * after);
  // Live rows that were not dropped are noticed by the next round.
  REQUIRE(roll.append(0));
  const auto stale = roll.begin(text.live(60, 120));
  REQUIRE_FALSE(stale);
  CHECK(stale.error().code == errc::shape_mismatch);
  CHECK(stale.error().actual == 60);
  CHECK(stale.error().expected == 28);
}

TEST_CASE("§9.19 a round that fails, is cancelled, late or abandoned changes nothing",
          "[cache][rolling]") {
  growing_text text(100);
  rolling_options options = quick_rounds(50, 24);
  rolling_cache roll = half_compacted(text, options);
  const unchanged before(roll);
  const auto view = text.live(roll);
  const auto outcome_of = [&](const auto& act) {
    const auto round = roll.begin(view);
    REQUIRE(round);
    const auto outcome = act(*round);
    REQUIRE_FALSE(outcome.cache());
    const auto applied = roll.apply(outcome);
    REQUIRE_FALSE(applied);
    before.check();
    return applied.error();
  };

  // Cancelled: before it begins, and by the progress of the first head.
  const auto early = outcome_of([&](const kvfit::rolling_round& round) {
    round.cancel();
    return round.run(text.queries, kvfit::serial{});
  });
  CHECK(early.code == errc::cancelled);
  CHECK(early.detail == "asked to stop");
  index_t heads_done = 0;
  const auto midway = outcome_of([&](const kvfit::rolling_round& round) {
    return round.run(text.queries, kvfit::serial{}, {.progress = [&](index_t done, index_t count) {
                       heads_done = done;
                       CHECK(count == 3);
                       round.cancel();
                     }});
  });
  CHECK(midway.code == errc::cancelled);
  CHECK(midway.detail == "asked to stop");
  CHECK(heads_done == 1);
  CHECK(midway.actual == 1);

  // Late: before it begins, and after the first head.
  const auto now = std::chrono::steady_clock::now;
  const auto late = outcome_of([&](const kvfit::rolling_round& round) {
    return round.run(text.queries, kvfit::serial{}, {.deadline = now()});
  });
  CHECK(late.code == errc::cancelled);
  CHECK(late.detail == "the deadline has passed");
  // Reporting the first head takes so long that the second is not begun.
  const auto late_midway = outcome_of([&](const kvfit::rolling_round& round) {
    const auto deadline = now() + std::chrono::milliseconds(50);
    kvfit::external_executor slow{[&](index_t count, const auto& body) {
      body(0);
      std::this_thread::sleep_until(deadline);
      for (index_t i = 1; i < count; ++i) body(i);
    }};
    return round.run(text.queries, slow, {.deadline = deadline});
  });
  CHECK(late_midway.code == errc::cancelled);
  CHECK(late_midway.detail == "the deadline has passed");

  // Failed: no queries of a layer; a number that is none, found in the last head.
  const auto unasked = outcome_of([&](const kvfit::rolling_round& round) {
    return round.run({text.queries[0]}, kvfit::serial{});
  });
  CHECK(unasked.code == errc::missing_entry);
  const float sound = text.layers[1][0].values(70, 1);
  text.layers[1][0].values(70, 1) = std::numeric_limits<float>::quiet_NaN();
  const auto spoilt = outcome_of(
      [&](const kvfit::rolling_round& round) { return round.run(text.queries, kvfit::serial{}); });
  text.layers[1][0].values(70, 1) = sound;
  CHECK(spoilt.code == errc::non_finite);
  CHECK(spoilt.actual == 16 + 10);  // row 70 of the text, below sixteen compact ones
  CHECK(spoilt.argument == "L4H0: values");

  // Abandoned: its outcome comes too late, whatever it is.
  const auto left = roll.begin(view);
  REQUIRE(left);
  const auto good = left->run(text.queries, kvfit::serial{});
  REQUIRE(good.cache());
  roll.abandon();
  CHECK(roll.apply(good).error().code == errc::cancelled);
  before.check();
  const auto next = roll.begin(view);
  REQUIRE(next);
  CHECK(roll.apply(good).error().code == errc::cancelled);
  CHECK(roll.is_busy());  // the next one is not its business
  // And then it simply works, once.
  const auto outcome = next->run(text.queries, kvfit::serial{});
  REQUIRE(roll.apply(outcome));
  CHECK(roll.apply(outcome).error().code == errc::cancelled);
}

TEST_CASE("§9.35 tokens taken back are gone from counts and positions", "[cache][rolling]") {
  const growing_text text(120);
  const rolling_options options = quick_rounds(50, 24);
  rolling_cache roll = half_compacted(text, options);  // 60 compact, 40 live
  REQUIRE(roll.truncate(90));
  CHECK(roll.length() == 90);
  CHECK(roll.live_rows() == 30);
  CHECK(roll.block()->rows == 3 * 16);
  REQUIRE(roll.append(10));
  CHECK(roll.length() == 100);

  const auto too_far = roll.truncate(59);
  REQUIRE_FALSE(too_far);
  CHECK(too_far.error().code == errc::invalid_position);
  CHECK(too_far.error().expected == 60);
  CHECK(roll.truncate(101).error().expected == 100);
  CHECK(roll.length() == 100);

  // A round has taken tokens up to 92: those behind may go, those within it may not without it.
  auto round = roll.begin(text.live(roll));
  REQUIRE(round);
  REQUIRE(roll.truncate(92));
  CHECK(roll.is_busy());
  REQUIRE(roll.apply(round->run(text.queries, kvfit::serial{})));
  CHECK(roll.live_first() == 92);
  CHECK(roll.live_rows() == 0);
  CHECK_FALSE(roll.begin(text.live(roll)));
  REQUIRE(roll.append(28));
  round = roll.begin(text.live(roll));
  REQUIRE(round);
  const auto outcome = round->run(text.queries, kvfit::serial{});
  REQUIRE(outcome.cache());
  REQUIRE(roll.truncate(111));
  CHECK_FALSE(roll.is_busy());
  CHECK(round->run(text.queries, kvfit::serial{}).cache().error().code == errc::cancelled);
  CHECK(roll.apply(outcome).error().code == errc::cancelled);
  CHECK(roll.live_first() == 92);
  CHECK(roll.length() == 111);
  run_round(roll, text, 120);
  CHECK(roll.live_first() == 112);

  REQUIRE(roll.truncate(112));
  roll.clear();
  CHECK(roll.length() == 0);
  CHECK(roll.live_first() == 0);
  CHECK(roll.block() == nullptr);
  CHECK(roll.rows() == 0);
  run_round(roll, text, 40);
  CHECK(roll.block()->layers[0].positions.front() == 0);
}

TEST_CASE("§9.20 a fork and a restored cache go on as the original does", "[cache][rolling]") {
  const growing_text text(120);
  const rolling_options options = quick_rounds(50, 24);
  rolling_cache roll = half_compacted(text, options);
  const auto round = roll.begin(text.live(roll));
  REQUIRE(round);
  rolling_cache twin = roll.fork();
  CHECK(roll.is_busy());
  CHECK_FALSE(twin.is_busy());
  CHECK(twin.block() == roll.block());
  CHECK(twin.apply(round->run(text.queries, kvfit::serial{})).error().code == errc::cancelled);
  REQUIRE(roll.apply(round->run(text.queries, kvfit::serial{})));
  CHECK(twin.live_first() == 60);
  CHECK(twin.length() == 100);
  auto restored = rolling_cache::make(options, twin.state());
  REQUIRE(restored);
  run_round(twin, text, 100);
  run_round(*restored, text, 100);
  CHECK(same_cache(*twin.block(), *roll.block()));
  CHECK(same_cache(*restored->block(), *roll.block()));
  rolling_cache moved = std::move(twin);
  CHECK(moved.length() == 100);

  auto wrong = roll.state();
  wrong.live_first = 101;
  CHECK(rolling_cache::make(options, wrong).error().argument == "live_first");
  wrong.live_first = 50;  // the block has later rows
  CHECK(rolling_cache::make(options, wrong).error().code == errc::invalid_position);
  wrong.block = nullptr;
  CHECK(rolling_cache::make(options, wrong).error().argument == "live_first");
  wrong = roll.state();
  auto torn = *wrong.block;
  torn.layers[1].bias.conservativeResize(torn.layers[1].bias.size() - 1);
  wrong.block = std::make_shared<const kvfit::compacted_cache>(torn);
  CHECK(rolling_cache::make(options, wrong).error().code == errc::shape_mismatch);
  torn = *roll.state().block;
  torn.layers[0].values(1, 2) = std::numeric_limits<float>::quiet_NaN();
  wrong.block = std::make_shared<const kvfit::compacted_cache>(torn);
  CHECK(rolling_cache::make(options, wrong).error().code == errc::non_finite);
  wrong = roll.state();
  wrong.length = -1;
  CHECK(rolling_cache::make(options, wrong).error().argument == "length");
}

TEST_CASE("§9.36 rounds down to a single row a head stay finite", "[cache][rolling]") {
  const growing_text text(400);
  rolling_options options{.trigger = 2, .target = 1, .sinks = 0, .recent = 0};
  options.cache.head.selection = kvfit::selection::highest_attention{};
  rolling_cache roll = rolling_of(options);
  for (const index_t end : {300, 301, 302, 399, 400}) {
    run_round(roll, text, end);
    CHECK(roll.rows() == 1);
    for (const auto& layer : roll.block()->layers) {
      CHECK(layer.keys.allFinite());
      CHECK(layer.bias.allFinite());
      CHECK(layer.values.allFinite());
    }
  }
  const auto errors = text.errors(*roll.block(), 400, 400);
  CHECK(std::isfinite(errors.mass_error));
  CHECK(errors.mass_error < 1);  // one row in place of 400 still has most of their mass
}

TEST_CASE("live rows are read as they lie, hidden ones are not kept", "[cache][rolling]") {
  const growing_text text(100);
  const rolling_options options = quick_rounds(50, 24);
  rolling_cache roll = half_compacted(text, options);
  rolling_cache wide = roll.fork();
  // Head 0 of layer 1 in fp16, transposed; token 70 of it hidden.
  const head& one = text.layers[0][0];
  std::vector<kvfit::fp16> halves(16 * 40);
  kvfit::matrix rounded(40, 16);
  for (index_t i = 0; i < 40; ++i) {
    for (index_t j = 0; j < 16; ++j) {
      const auto half = kvfit::to_fp16(one.keys(60 + i, j));
      halves[static_cast<std::size_t>(j * 40 + i)] = half;
      rounded(i, j) = kvfit::to_float(half);
    }
  }
  std::vector<float> bias(40, 0.0F);
  bias[10] = -std::numeric_limits<float>::infinity();
  auto half_view = text.live(roll);
  half_view.layers[0].heads[0].keys = kvfit::row_view(halves.data(), 16, 40).transposed();
  half_view.layers[0].heads[0].bias = bias;
  auto float_view = text.live(wide);
  float_view.layers[0].heads[0].keys = rounded;
  float_view.layers[0].heads[0].bias = bias;
  const auto half_round = roll.begin(half_view);
  const auto float_round = wide.begin(float_view);
  REQUIRE(half_round);
  REQUIRE(float_round);
  REQUIRE(roll.apply(half_round->run(text.queries, kvfit::serial{})));
  REQUIRE(wide.apply(float_round->run(text.queries, kvfit::serial{})));
  CHECK(same_cache(*roll.block(), *wide.block()));
  const auto& layer = roll.block()->layers[0];
  for (index_t j = 0; j < layer.rows(0); ++j)
    CHECK(layer.positions[static_cast<std::size_t>(j)] != 70);
}

TEST_CASE("views that are not the text's live rows are refused", "[cache][rolling]") {
  const growing_text text(100);
  const rolling_options options = quick_rounds(50, 24);
  rolling_cache roll = half_compacted(text, options);
  const unchanged before(roll);
  const auto cause = [&](const kvfit::cache_view& view) {
    const auto round = roll.begin(view);
    REQUIRE_FALSE(round);
    CHECK_FALSE(roll.is_busy());
    before.check();
    return round.error();
  };
  const auto sound = text.live(roll);
  CHECK(cause(text.live(60, 99)).actual == 39);
  auto view = sound;
  view.layers.erase(view.layers.begin());
  CHECK(cause(view).code == errc::missing_entry);
  view = sound;
  view.layers.pop_back();
  CHECK(cause(view).argument == "layer 4");
  view = sound;
  view.layers[0].heads.pop_back();
  CHECK(cause(view).argument == "layer 1: heads");
  view = sound;
  view.layers[2].heads[0].keys = sound.layers[0].heads[0].keys;
  CHECK(cause(view).argument == "L4H0: keys");
  view = sound;
  view.layers[0].heads[1].values = view.layers[0].heads[1].values.middle_rows(0, 39);
  CHECK(cause(view).argument == "L1H1: values");
  view = sound;
  const std::vector<float> short_bias(39);
  view.layers[0].heads[1].bias = short_bias;
  CHECK(cause(view).argument == "L1H1: bias");
  view = sound;
  const kvfit::matrix mask = kvfit::matrix::Zero(4, 40);
  const std::vector<kvfit::row_view> masks = {mask};
  view.layers[0].heads[1].masks = masks;
  CHECK(cause(view).argument == "L1H1: masks");
  view = sound;
  view.layers[0].heads[0].keys = kvfit::row_view(static_cast<const float*>(nullptr), 40, 16);
  CHECK(cause(view).code == errc::null_data);
  const auto round = roll.begin(sound);
  REQUIRE(round);
  CHECK(roll.begin(sound).error().argument == "round");
  rolling_cache empty = rolling_of(options);
  CHECK(empty.begin(text.live(0, 0)).error().code == errc::empty_input);
  REQUIRE(empty.append(20));
  CHECK(empty.begin({}).error().code == errc::empty_input);
}

TEST_CASE("settings and counts that no round could keep are refused", "[cache][rolling]") {
  const auto field = [](const auto& change) {
    rolling_options options = quick_rounds(50, 24);
    change(options);
    const auto made = rolling_cache::make(options);
    return made ? std::string() : made.error().argument;
  };
  CHECK(field([](auto&) {}).empty());
  CHECK(field([](auto& o) { o.sinks = -1; }) == "sinks");
  CHECK(field([](auto& o) { o.recent = -1; }) == "recent");
  CHECK(field([](auto& o) { o.target = 11; }) == "target");
  CHECK(field([](auto& o) { o.trigger = 24; }) == "trigger");
  CHECK(field([](auto& o) { o.trigger = index_t{1} << 50U; }) == "trigger");
  CHECK(field([](auto& o) { o.cache.budget = 8; }) == "cache.budget");
  CHECK(field([](auto& o) { o.cache.head.protect.last = 1; }) == "cache.head.protect");
  CHECK(field([](auto& o) { o.cache.head.selection = kvfit::selection::joint{.prior = {1.0F}}; }) ==
        "joint.prior");
  rolling_cache roll = rolling_of(quick_rounds(50, 24));
  CHECK_FALSE(roll.append(-1));
  CHECK_FALSE(roll.append(std::numeric_limits<index_t>::max()));
  CHECK(roll.length() == 0);
}

}  // namespace kvfit_test
