// SPDX-License-Identifier: MIT
// Whole caches through the library: plans, heads, refits and shared positions.
#include "kvfit/cache/compiled.hpp"

#include <chrono>
#include <stdexcept>
#include <vector>

#include "cache/cache_case.hpp"
#include "compiled/beside_header_only.hpp"
#include "compiled/header_only.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/core/active_isa.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::index_t;
using kvfit::compiled::entry_points;

namespace {

kvfit::cache_options linked_options(index_t budget) {
  kvfit::cache_options options{.budget = budget, .head = kvfit::presets::joint(0)};
  options.shares = kvfit::budgets::global_ranking{};
  return options;
}

/// `compact_cache` on one path.
kvfit::compacted_cache cache_on(const entry_points& path, const cache_case& given,
                                const kvfit::cache_options& options,
                                const kvfit::executor_ref& threads = {}) {
  const auto plan = path.cache->plan(given.view, given.queries, options, threads, {});
  REQUIRE(plan);
  std::vector<kvfit::compacted_head> heads(plan->tasks.size());
  const auto take = [&](std::size_t place, kvfit::compacted_head&& head) -> kvfit::result<void> {
    heads[place] = std::move(head);
    return {};
  };
  REQUIRE(
      path.cache->heads(given.view, *plan, options, threads, {}, kvfit::compiled::taker_of(take)));
  return kvfit::detail::assemble(given.view, options.skip, plan->tasks, heads);
}

}  // namespace

TEST_CASE("compact_cache() takes the best path, and threads change no byte on any",
          "[compiled][compact_cache][threads]") {
  const cache_case given({{.number = 0}, {.number = 4, .rows = 40}});
  const kvfit::cache_options options = linked_options(60);
  const auto here = kvfit::compact_cache(given.view, given.queries, options);
  REQUIRE(here);
  CHECK(here->rows == 60);
  CHECK(here->layers[0].heads[0].report.held_out.has_value());
  CHECK(same_cache(*here, cache_on(kvfit::compiled::available().front(), given, options)));
  kvfit::thread_pool pool(3);
  for (const entry_points& path : kvfit::compiled::available()) {
    INFO(path.isa);
    const auto alone = cache_on(path, given, options);
    CHECK(alone.rows == 60);
    CHECK(same_cache(alone, cache_on(path, given, options, pool)));
  }
}

TEST_CASE("caches through the library have header-only's bytes on the same instruction set",
          "[compiled][compact_cache]") {
  const entry_points* const path = path_of_header_only();
  if (path == nullptr) return;
  const cache_case given({{.number = 0}, {.number = 4, .rows = 40}});
  kvfit::cache_options options{.budget = 60};  // the default policies, which that file has
  options.shares = kvfit::budgets::global_ranking{};
  const auto there = header_only::compact_cache(given.view, given.queries, options, {});
  REQUIRE(there);
  CHECK(same_cache(cache_on(*path, given, options), *there));
}

TEST_CASE("shared positions through the library are those of header-only",
          "[compiled][shared_positions]") {
  const cache_case given({{.number = 2, .rows = 48}});
  const kvfit::cache_options options{.budget = 24};
  const auto made = header_only::compact_cache(given.view, given.queries, options, {});
  REQUIRE(made);
  const auto& layer = given.view.layers[0];
  const auto& queries = given.queries[0].heads;
  const auto here = kvfit::share_positions(layer, made->layers[0], queries, options.head, 14);
  const auto there =
      header_only::share_positions(layer, made->layers[0], queries, options.head, 14);
  REQUIRE(here);
  REQUIRE(there);
  CHECK(here->positions == there->positions);
  CHECK(here->rows(0) == 14);
  CHECK(difference(here->keys, there->keys) < 0.1);
  CHECK(here->heads[1].report.train.output_error ==
        Approx(there->heads[1].report.train.output_error).epsilon(0.05));
}

TEST_CASE("errors of a cache come through the library as they are header-only",
          "[compiled][compact_cache]") {
  cache_case given({{.number = 0}, {.number = 4, .rows = 40}});
  const auto same_error = [&](const kvfit::cache_options& options, const kvfit::watch& by = {}) {
    const auto here = kvfit::compact_cache(given.view, given.queries, options, kvfit::serial{}, by);
    const auto there = header_only::compact_cache(given.view, given.queries, options, by);
    REQUIRE_FALSE(here);
    REQUIRE_FALSE(there);
    CHECK(here.error().code == there.error().code);
    CHECK(here.error().argument == there.error().argument);
    // Bytes depend on the instruction set.
    const bool counts_bytes = here.error().code == kvfit::errc::memory_cap_exceeded;
    if (counts_bytes && header_only::isa() != kvfit::active_isa()) return;
    CHECK(here.error().message() == there.error().message());
  };
  same_error({.budget = 0});
  same_error({.budget = 60, .skip = {7}});
  same_error({.budget = 60, .memory = 100});
  kvfit::cancellation wish;
  wish.request();
  same_error({.budget = 60}, {.cancel = &wish});
  given.memory[0](3, 2) = std::numeric_limits<float>::infinity();
  same_error({.budget = 60});
}

TEST_CASE("what takes heads of a cache may refuse one, through the library as well",
          "[compiled][compact_cache]") {
  const cache_case given(std::vector<layer_sizes>{{.number = 0}});
  const kvfit::cache_options options = linked_options(20);
  const auto plan = kvfit::plan_cache(given.view, given.queries, options, kvfit::serial{});
  REQUIRE(plan);
  int taken = 0;
  const auto refused = kvfit::compact_heads(
      given.view, *plan, options, kvfit::serial{},
      [&](std::size_t place, kvfit::compacted_head&& head) -> kvfit::result<void> {
        ++taken;
        CHECK(head.rows.report.memory.needed > 0);
        CHECK(head.report.rows == plan->rows[place]);
        return kvfit::error{kvfit::errc::invalid_option, "take", static_cast<index_t>(place)};
      });
  REQUIRE_FALSE(refused);
  CHECK(refused.error().argument == "take");
  CHECK(refused.error().actual == 0);
  CHECK(taken == 1);
  CHECK_THROWS_AS(
      kvfit::compact_heads(given.view, *plan, options, kvfit::serial{},
                           [](std::size_t, kvfit::compacted_head&&) -> kvfit::result<void> {
                             throw std::runtime_error("the caller's own");
                           }),
      std::runtime_error);
}

TEST_CASE("a caller's own policy is run for the heads of a cache, called from the library",
          "[compiled][compact_cache]") {
  const cache_case given(std::vector<layer_sizes>{{.number = 0}});
  kvfit::cache_options options = linked_options(20);
  options.shares = kvfit::budgets::uniform{};
  options.head.selection = header_only::omp();
  const auto foreign = kvfit::compact_cache(given.view, given.queries, options);
  options.head.selection = kvfit::selection::omp{};
  const auto own = kvfit::compact_cache(given.view, given.queries, options);
  REQUIRE(foreign);
  REQUIRE(own);
  CHECK(same_cache(*foreign, *own));
}
