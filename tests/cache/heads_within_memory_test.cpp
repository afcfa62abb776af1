// SPDX-License-Identifier: MIT
#include "kvfit/cache/heads_within_memory.hpp"

#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/parallel/serial.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using kvfit::cache_options;
using kvfit::errc;
using kvfit_test::cache_case;

namespace {

/// Two long heads with few queries: a score pass is the most that copies take.
cache_case long_heads() {
  return cache_case({{.number = 2, .rows = 30000, .key_size = 4, .value_size = 4}}, 40);
}

std::vector<kvfit::head_task> tasks_of_case(const cache_case& given) {
  auto tasks = kvfit::tasks_of(given.view, given.queries);
  REQUIRE(tasks);
  return std::move(*tasks);
}

}  // namespace

TEST_CASE("heads under way are counted by what their fallback takes, where that is more",
          "[cache][memory]") {
  const cache_case given = long_heads();
  const auto tasks = tasks_of_case(given);
  const std::vector<kvfit::index_t> rows = {8, 8};
  cache_options options{.budget = 16};
  options.head.selection = kvfit::selection::last{};  // needs no importance
  options.head.bias = kvfit::bias::zero{};
  options.head.values = kvfit::values::copy{};
  const auto sizes = kvfit::sizes_of(tasks[0].block, kvfit::query_set(tasks[0].queries));
  const auto own = kvfit::detail::head_options(options, given.view.layers[0], 8);
  const auto fitted = kvfit::planned_memory(sizes, own);
  const auto copied = kvfit::planned_memory(sizes, kvfit::detail::copying(own));
  REQUIRE(fitted);
  REQUIRE(copied);
  REQUIRE(copied->needed > fitted->needed + 200000);

  const auto lanes = [&] {
    return kvfit::detail::heads_within_memory(given.view, tasks, rows, options);
  };
  CHECK(*lanes() == 0);  // no cap
  options.memory = 2 * fitted->needed;
  CHECK(*lanes() == 2);
  options.fallback = kvfit::head_fallback::copies;
  CHECK(*lanes() == 1);
  options.memory = 2 * copied->needed;
  CHECK(*lanes() == 2);
  options.heads_at_once = 1;
  CHECK(*lanes() == 1);
  // Where the copies can't be had within the cap the call ends before a head is compacted.
  options.fallback = kvfit::head_fallback::none;
  options.memory = 0;
  const auto refused = lanes();
  REQUIRE_FALSE(refused);
  options.memory = refused.error().actual;
  CHECK(lanes());
  options.fallback = kvfit::head_fallback::copies;
  const auto too_much = lanes();
  REQUIRE_FALSE(too_much);
  CHECK(too_much.error().code == errc::memory_cap_exceeded);
  CHECK(too_much.error().argument == "L2H0: memory.cap");
}

TEST_CASE(
    "a global ranking's score passes keep to the cap, one after the other or in smaller panels",
    "[cache][memory]") {
  if (!can_count) return;
  const cache_case given = long_heads();
  const auto tasks = tasks_of_case(given);
  cache_options options{.budget = 16, .shares = kvfit::budgets::global_ranking{}};
  const auto wanted = wanted_scores(kvfit::selection::highest_attention{});
  const auto one = static_cast<kvfit::index_t>(kvfit::score_pass_bytes(
      kvfit::sizes_of_head(tasks[0].block, kvfit::query_set(tasks[0].queries)), wanted));
  const auto lanes = [&] {
    const auto largest = kvfit::detail::largest_ranking(tasks, wanted, options);
    REQUIRE(largest);
    return kvfit::detail::lanes_of(*largest, options);
  };
  CHECK(lanes() == 0);
  options.memory = 2 * one + 1;
  CHECK(lanes() == 2);
  options.memory = 2 * one - 1;
  CHECK(lanes() == 1);
  options.memory = one / 2;
  CHECK(lanes() >= 1);

  const auto plan = [&](std::ptrdiff_t& peak) {
    kvfit::result<kvfit::cache_plan> made = kvfit::error{};
    peak = kvfit_test::count_allocations([&] {
             made = kvfit::plan_cache(given.view, given.queries, options, kvfit::serial{});
           }).peak_bytes;
    return made;
  };
  const std::ptrdiff_t lists = 2 * 30000 * 4 + 65536;  // importance, and what is small
  options.memory.reset();
  std::ptrdiff_t peak = 0;
  const auto free = plan(peak);
  REQUIRE(free);
  CHECK(peak > one / 2);
  for (const kvfit::index_t cap : {one, one / 2, one / 4}) {
    options.memory = cap;
    const auto made = plan(peak);
    CAPTURE(cap, peak);
    REQUIRE(made);
    CHECK(peak <= cap + lists);
    CHECK(made->rows == free->rows);
  }
  options.memory = 1000;
  const auto refused = plan(peak);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::memory_cap_exceeded);
  CHECK(refused.error().argument == "L2H0: memory");
  CHECK(peak < 800000);  // checked, not scored
}
