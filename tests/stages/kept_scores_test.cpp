// SPDX-License-Identifier: MIT
#include "kvfit/cache/kept_scores.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/watched_rows.hpp"

using kvfit::cache_options;
using kvfit::cache_plan;
using kvfit_test::cache_case;

namespace {

cache_options ranked(const kvfit::presets::preset& preset, kvfit::index_t budget) {
  cache_options options{.budget = budget, .head = preset.make(1)};
  kvfit::budgets::global_ranking ranking;
  // By the importance that the heads' own selection goes by, if any.
  const auto* own = options.head.selection.get_if<kvfit::selection::highest_attention>();
  if (own != nullptr) ranking.by = *own;
  options.shares = ranking;
  options.limits.at_least = 1;
  return options;
}

template <class E>
cache_plan plan_of(const cache_case& given, const cache_options& options, E&& how) {
  auto plan = kvfit::plan_cache(given.view, given.queries, options, how);
  INFO((plan ? "planned" : plan.error().message()));
  REQUIRE(plan);
  return std::move(*plan);
}

kvfit::compacted_cache fitted_by(const cache_case& given, const cache_plan& plan,
                                 const cache_options& options) {
  std::vector<kvfit::compacted_head> heads(plan.tasks.size());
  const auto all = kvfit::compact_heads(given.view, plan, options, kvfit::serial{},
                                        [&](std::size_t place, kvfit::compacted_head&& head) {
                                          heads[place] = std::move(head);
                                          return kvfit::result<void>{};
                                        });
  INFO((all ? "fitted" : all.error().message()));
  REQUIRE(all);
  return kvfit::detail::assemble(given.view, {}, plan.tasks, heads);
}

std::ptrdiff_t kept(const cache_plan& plan) {
  return std::count_if(plan.known.begin(), plan.known.end(),
                       [](const kvfit::known_scores& of) { return !of.max.empty(); });
}

}  // namespace

TEST_CASE("what a global ranking has scored gives a head the bytes of a score pass of its own",
          "[cache][ranking]") {
  const cache_case given({{.number = 0}, {.number = 3, .rows = 96}}, 150);
  for (const std::string_view name :
       {"topk", "h2o", "snapkv", "kvzip", "highest_attention", "last", "gradient_mass"}) {
    CAPTURE(name);
    cache_options options = ranked(*kvfit::presets::find(name), 60);
    if (auto* how = options.head.gradient.get_if<kvfit::gradient_keys>(); how != nullptr) {
      how->steps = 3;
    }
    cache_plan plan = plan_of(given, options, kvfit::serial{});
    CHECK(kept(plan) == 4);
    const kvfit::compacted_cache once = fitted_by(given, plan, options);
    plan.known.clear();
    CHECK(kvfit_test::same_cache(once, fitted_by(given, plan, options)));
    const auto whole = compact_cache(given.view, given.queries, options);
    REQUIRE(whole);
    CHECK(kvfit_test::same_cache(once, *whole));
  }
}

TEST_CASE("a head that a global ranking has scored is not scored again", "[cache][ranking]") {
  cache_case given({{.number = 0, .heads = 1, .rows = 80}}, 60);
  const kvfit_test::watched_rows keys(given.memory[0]);
  given.view.layers[0].heads[0].keys = keys.view();
  const cache_options options = ranked(*kvfit::presets::find("topk"), 20);
  const auto readings = [&](const auto& what) {
    const int before = keys.times_asked();
    what();
    return keys.times_asked() - before;
  };
  cache_plan plan;
  const int planning = readings([&] { plan = plan_of(given, options, kvfit::serial{}); });
  REQUIRE(kept(plan) == 1);
  const int once = readings([&] { fitted_by(given, plan, options); });
  plan.known.clear();
  const int again = readings([&] { fitted_by(given, plan, options); });
  // The plan read every key once to check it, and then for each panel of queries.
  CHECK(again - once == planning - 80);
  CHECK(again - once >= 80);
}

TEST_CASE("a plan's scores serve no fit that asks for another pass", "[cache][ranking]") {
  const cache_case given({{.number = 0}, {.number = 3, .rows = 96}}, 150);
  const auto check = [&](const auto& change) {
    cache_options options = ranked(*kvfit::presets::find("topk"), 60);
    cache_plan plan = plan_of(given, options, kvfit::serial{});
    REQUIRE(kept(plan) == 4);
    change(options);
    const kvfit::compacted_cache found = fitted_by(given, plan, options);
    plan.known.clear();
    CHECK(kvfit_test::same_cache(found, fitted_by(given, plan, options)));
  };
  check([](cache_options& o) { o.head.rule.scale = 0.7F; });
  check([](cache_options& o) { o.head.rule.soft_cap = 2.0F; });
  check([](cache_options& o) {
    o.head.selection =
        kvfit::selection::highest_attention{.importance = kvfit::importance_kind::max};
  });
  check([](cache_options& o) { o.head.queries.held_out = 0.25; });
  // Nor a plan with heads taken out of it.
  const cache_options options = ranked(*kvfit::presets::find("topk"), 60);
  cache_plan plan = plan_of(given, options, kvfit::serial{});
  plan.tasks.erase(plan.tasks.begin());
  plan.rows.erase(plan.rows.begin());
  const auto all = kvfit::compact_heads(
      given.view, plan, options, kvfit::serial{},
      [&](std::size_t place, kvfit::compacted_head&& head) -> kvfit::result<void> {
        const kvfit::head_task& task = plan.tasks[place];
        auto asked = options.head;
        asked.budget = plan.rows[place];
        const auto own = kvfit::compact(task.block, kvfit::query_set(task.queries), asked);
        REQUIRE(own);
        CHECK(head.rows.positions == own->positions);
        return {};
      });
  CHECK(all);
}

TEST_CASE("scores are kept only where the fit would begin with the very pass that ranked",
          "[cache][ranking]") {
  const cache_case given({{.number = 0}}, 90);
  const auto kept_with = [&](const auto& change) {
    cache_options options = ranked(*kvfit::presets::find("topk"), 30);
    change(options);
    return kept(plan_of(given, options, kvfit::serial{}));
  };
  CHECK(kept_with([](cache_options&) {}) == 2);
  CHECK(kept_with([](cache_options& o) { o.head.queries.held_out = 0.1; }) == 0);
  CHECK(kept_with([](cache_options& o) { o.head.queries = {0, 2, 4}; }) == 0);
  CHECK(kept_with([](cache_options& o) { o.head.queries = {0, 2, 180}; }) == 2);
  CHECK(kept_with([](cache_options& o) { o.head.protect.last = 2; }) == 0);
  CHECK(kept_with([](cache_options& o) { o.head.selection = kvfit::selection::joint{}; }) == 0);
  CHECK(kept_with([](cache_options& o) {
          o.head.selection = kvfit::selection::highest_attention{.window = 8};
        }) == 0);
  CHECK(kept_with([](cache_options& o) {
          o.head.selection =
              kvfit::selection::highest_attention{.importance = kvfit::importance_kind::mean};
        }) == 0);
  // No fit needs those of a head that keeps all of its rows.
  CHECK(kept_with([](cache_options& o) { o.budget = 1000; }) == 0);
}

TEST_CASE("under a cap, as many scores are kept as leave the heads under way their bytes",
          "[cache][ranking][memory]") {
  if (!can_count) return;
  const cache_case given({{.number = 0, .heads = 6, .rows = 700, .key_size = 4, .value_size = 64}},
                         400);
  cache_options options = ranked(*kvfit::presets::find("topk"), 300);
  const cache_plan free = plan_of(given, options, kvfit::serial{});
  REQUIRE(kept(free) == 6);
  const auto wanted = fitted_by(given, free, options);
  const auto largest = [&] {
    const auto bytes = kvfit::detail::largest_fit(given.view, free.tasks, free.rows, options);
    REQUIRE(bytes);
    return *bytes;
  }();
  const auto own = static_cast<kvfit::index_t>(kvfit::detail::kept_bytes(free.tasks[0]));
  const std::ptrdiff_t lists = 6 * 700 * 4 + 65536;  // importance, and what is small
  std::vector<std::ptrdiff_t> counts;
  for (const kvfit::index_t spare : {kvfit::index_t{0}, 2 * own + own / 2, 7 * own}) {
    options.memory = largest + spare;
    cache_plan plan;
    const std::ptrdiff_t planning = kvfit_test::count_allocations([&] {
                                      plan = plan_of(given, options, kvfit::serial{});
                                    }).peak_bytes;
    CAPTURE(spare, planning);
    CHECK(planning <= *options.memory + lists);
    CHECK(plan.rows == free.rows);
    counts.push_back(kept(plan));
    kvfit::thread_pool pool(4);
    std::vector<kvfit::compacted_head> heads(6);
    const std::ptrdiff_t fitting = kvfit_test::count_allocations([&] {
                                     const auto all = kvfit::compact_heads(
                                         given.view, plan, options, pool,
                                         [&](std::size_t place, kvfit::compacted_head&& head) {
                                           heads[place] = std::move(head);
                                           return kvfit::result<void>{};
                                         });
                                     REQUIRE(all);
                                   }).peak_bytes;
    std::ptrdiff_t results = 0;
    for (const auto& head : heads) results += head.report.report.memory.result;
    // The plan's scores were there before.
    CHECK(fitting + kept(plan) * own <= *options.memory + results + lists);
    CHECK(
        kvfit_test::same_cache(kvfit::detail::assemble(given.view, {}, plan.tasks, heads), wanted));
  }
  CHECK(counts[0] == 0);
  CHECK(counts[1] == 2);
  CHECK(counts[2] == 6);
}
