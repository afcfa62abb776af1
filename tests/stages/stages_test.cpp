// SPDX-License-Identifier: MIT
#include "kvfit/compact/stages.hpp"

#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/progressive.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::errc;
namespace stages = kvfit::stages;

namespace {

kvfit::compacted whole_call(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                            const kvfit::compact_options& options) {
  auto fitted = kvfit::compact(cache, queries, options);
  INFO((fitted ? "fitted" : fitted.error().message()));
  REQUIRE(fitted);
  return std::move(*fitted);
}

/// All stages by hand, as a reader of kvfit/compact/stages.hpp would compose them, with the guard
/// that `compact()` has: rows as they were where moved ones judge worse at the end.
kvfit::result<kvfit::compacted> by_hand(const stages::problem& head) {
  if (auto ok = stages::check(head); !ok) return ok.error();
  auto full = stages::score(head);
  if (!full) return full.error();
  auto chosen = stages::select(head, *full);
  if (!chosen) return chosen.error();
  auto rows = stages::weigh(head, *full, std::move(*chosen));
  if (!rows) return rows.error();
  const auto wanted = stages::score_held_out(head, std::move(*full));
  if (!wanted) return wanted.error();
  auto moved = stages::refine(head, *wanted, std::move(*rows));
  if (!moved) return moved.error();
  auto start = std::move(moved->start);
  auto fitted = stages::fit_values(head, *wanted, std::move(*moved));
  if (!fitted) return fitted.error();
  auto small = stages::judge(head, *wanted, std::move(*fitted));
  if (!small || !start) return small;
  const kvfit::fidelity& now =
      small->report.held_out ? *small->report.held_out : small->report.train;
  const kvfit::fidelity& before = start->report.refinement.start;
  if (now.output_error <= before.output_error && now.mass_error <= before.mass_error) return small;
  fitted = stages::fit_values(head, *wanted, {.rows = std::move(*start)});
  if (!fitted) return fitted.error();
  return stages::judge(head, *wanted, std::move(*fitted));
}

kvfit::compact_options shortened(const kvfit::presets::preset& preset, kvfit::index_t budget) {
  kvfit::compact_options options = preset.make(budget);
  if (auto* how = options.gradient.get_if<kvfit::gradient_keys>(); how != nullptr) how->steps = 5;
  if (options.refine.steps.value_or(0) > 8) options.refine.steps = 8;
  return options;
}

}  // namespace

TEST_CASE("stages composed by hand give the bytes of compact, for every preset", "[stages]") {
  const head made = make_head(11, {.queries = 300, .keys = 90, .depth = 8, .width = 6});
  std::vector<float> bias(90, 0.0F);
  bias[40] = hidden_key;
  bias[41] = 1.5F;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  for (const auto& preset : kvfit::presets::all) {
    CAPTURE(preset.name);
    kvfit::compact_options options = shortened(preset, 12);
    options.storage = {.rows = kvfit::dtype::bf16, .bias = kvfit::dtype::fp16};
    const kvfit::compacted whole = whole_call(cache, made.queries, options);
    kvfit::thread_pool pool(2);
    for (const kvfit::executor_ref& threads : {kvfit::executor_ref(), kvfit::executor_ref(pool)}) {
      const auto hand = by_hand(
          {.cache = cache, .queries = made.queries, .options = options, .threads = threads});
      INFO((hand ? "fitted" : hand.error().message()));
      REQUIRE(hand);
      CHECK(hand->positions == whole.positions);
      CHECK(same_numbers(hand->keys, whole.keys));
      CHECK(same_numbers(hand->bias, whole.bias));
      CHECK(same_numbers(hand->values, whole.values));
      CHECK(hand->report.train.output_error == whole.report.train.output_error);
      CHECK(hand->report.refinement.kept_steps == whole.report.refinement.kept_steps);
      CHECK(hand->report.dead_keys_replaced == whole.report.dead_keys_replaced);
      CHECK(hand->report.is_values_fitted == whole.report.is_values_fitted);
    }
  }
}

TEST_CASE("a stage changes nothing that it does not get by value", "[stages]") {
  const head made = make_head(12, {.queries = 200, .keys = 60});
  kvfit::compact_options options{.budget = 9};
  options.queries.held_out = 0;  // what is fitted judges, so that moved keys stay moved
  const stages::problem head{.cache = made.cache(), .queries = made.queries, .options = options};
  auto full = stages::score(head);
  REQUIRE(full);
  const kvfit::matrix exponentials = full->fitted.exponentials;
  REQUIRE(exponentials.size() > 0);
  const auto chosen = stages::select(head, *full);
  REQUIRE(chosen);
  const auto rows = stages::weigh(head, *full, *chosen);
  REQUIRE(rows);
  CHECK(same_numbers(full->fitted.exponentials, exponentials));
  const auto again = stages::weigh(head, *full, *chosen);
  REQUIRE(again);
  CHECK(same_numbers(again->bias, rows->bias));
  const auto wanted = stages::score_held_out(head, std::move(*full));
  REQUIRE(wanted);
  CHECK(wanted->fitted.exponentials.size() == 0);
  // Two ways on from the same rows do not meet.
  kvfit::compact_options still = options;
  still.refine.steps = 0;
  const stages::problem unmoved{.cache = head.cache, .queries = head.queries, .options = still};
  const auto moved = stages::refine(head, *wanted, *rows);
  const auto kept = stages::refine(unmoved, *wanted, *rows);
  REQUIRE(moved);
  REQUIRE(kept);
  REQUIRE(moved->start);
  CHECK(same_numbers(moved->start->keys, rows->keys));
  CHECK(same_numbers(kept->rows.keys, rows->keys));
  CHECK_FALSE(same_numbers(moved->rows.keys, rows->keys));
  CHECK_FALSE(kept->start);
}

TEST_CASE("the stages refuse what they would pass over", "[stages]") {
  const head made = make_head(13, {.queries = 40, .keys = 30});
  const auto refusal = [&](const kvfit::compact_options& options) {
    const auto ok =
        stages::check({.cache = made.cache(), .queries = made.queries, .options = options});
    REQUIRE_FALSE(ok);
    return ok.error();
  };
  kvfit::compact_options options{.budget = 8};
  CHECK(stages::check({.cache = made.cache(), .queries = made.queries, .options = options}));
  options.protect.first = 1;
  CHECK(refusal(options).argument == "protect");
  options.protect.first = 0;
  options.memory.cap = 1 << 30;
  CHECK(refusal(options).argument == "memory.cap");
  options.memory.cap.reset();
  options.budget = 30;
  CHECK(refusal(options).code == errc::budget_out_of_range);
  options.budget = 0;
  CHECK(refusal(options).code == errc::budget_out_of_range);
}

TEST_CASE("scores that are known stand in for a score pass over the same queries", "[stages]") {
  const head made = make_head(14, {.queries = 80, .keys = 50});
  for (const double held_out : {0.0, 0.25}) {
    kvfit::compact_options options = kvfit::presets::highest_attention(7);
    options.queries.held_out = held_out;
    stages::problem head{.cache = made.cache(), .queries = made.queries, .options = options};
    const auto own = stages::score(head);
    REQUIRE(own);
    auto known = kvfit::score_pass(made.cache(), made.queries, options.rule,
                                   wanted_scores(options.selection));
    REQUIRE(known);
    CHECK(same_numbers(known->output, own->fitted.output) == (held_out == 0));
    known->importance.setZero();  // to be told from one's own
    known->importance[49] = 1;
    const kvfit::known_scores kept = kvfit::detail::known_from(*known, {}, {});
    head.known = &kept;
    const auto taken = stages::score(head);
    REQUIRE(taken);
    CHECK(same_numbers(taken->fitted.output, own->fitted.output));
    CHECK((taken->fitted.importance[49] == 1) == (held_out == 0));
  }
}

TEST_CASE("biases that compact does not move are not moved by a progressive call either",
          "[stages][progressive]") {
  const kvfit::compact_options options{.bias = kvfit::bias::zero{}};
  const std::vector<kvfit::index_t> budgets = {10};
  int moved = 0;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    const head made = make_head(seed, {.queries = 320, .keys = 64, .depth = 8, .width = 6});
    const auto all = kvfit::compact_progressive(made.cache(), made.queries, options, budgets);
    REQUIRE(all);
    moved += (*all)[0].report.refinement.kept_steps > 0 ? 1 : 0;
    CHECK((*all)[0].bias.isZero(0));
  }
  CHECK(moved > 0);  // keys were
}

TEST_CASE("where only queries held out see any key, a progressive call orders rows by all queries",
          "[stages][progressive]") {
  const head made = make_head(15, {.queries = 64, .keys = 40, .depth = 6, .width = 5});
  // Every eighth query is held out, and only these see a key.
  kvfit::matrix mask = kvfit::matrix::Constant(64, 40, -std::numeric_limits<float>::infinity());
  for (kvfit::index_t i = 7; i < 64; i += 8) mask.row(i).setZero();
  const std::vector<kvfit::row_view> masks = {kvfit::row_view(mask)};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  kvfit::compact_options options = kvfit::presets::topk(0);
  options.queries.held_out = 0.125;
  const std::vector<kvfit::index_t> budgets = {12, 5};
  const auto all = kvfit::compact_progressive(cache, made.queries, options, budgets);
  REQUIRE(all);
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    kvfit::compact_options alone = options;
    alone.budget = budgets[i];
    const kvfit::compacted own = whole_call(cache, made.queries, alone);
    CHECK((*all)[i].positions == own.positions);
  }
}
