// SPDX-License-Identifier: MIT
#include "kvfit/compact/progressive.hpp"

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "compact/counted_queries.hpp"
#include "compact/entry_point.hpp"
#include "kvfit/presets.hpp"
#include "support/allocations.hpp"

using kvfit::compact_progressive;
using kvfit::errc;

namespace {

const std::vector<kvfit::index_t> falling = {24, 6, 12, 100};

kvfit::compact_options rows_alone(kvfit::any_selection selection) {
  kvfit::compact_options options{.selection = std::move(selection)};
  options.replace_dead_keys = false;
  options.refine.steps = 0;
  return options;
}

}  // namespace

TEST_CASE(
    "a progressive result is that of its rows given, and the first rows of a ranking are "
    "the ranking's",
    "[compact][progressive]") {
  const auto head = kvfit_test::make_head(4);
  const auto options = rows_alone(kvfit::selection::highest_attention{});
  const auto all = compact_progressive(head.cache(), head.queries, options, falling);
  REQUIRE(all);
  REQUIRE(all->size() == 4);
  for (std::size_t i = 0; i < 3; ++i) {
    auto alone = options;
    alone.budget = falling[i];
    const auto own = kvfit_test::compacted_head(head.cache(), head.queries, alone);
    CHECK((*all)[i].positions == own.positions);
    alone.selection = kvfit::selection::given{own.positions};
    CHECK(kvfit_test::same_result((*all)[i],
                                  kvfit_test::compacted_head(head.cache(), head.queries, alone)));
  }
  CHECK((*all)[3].report.is_identity);
}

TEST_CASE("greedy picks are cut to any smaller budget", "[compact][progressive]") {
  const auto head = kvfit_test::make_head(5);
  auto options = kvfit::presets::omp(1);
  options.selection.get_if<kvfit::selection::omp>()->drop_below =
      -1e300;  // none is taken out again
  const auto all = compact_progressive(head.cache(), head.queries, options, falling);
  REQUIRE(all);
  for (std::size_t i = 0; i < 3; ++i) {
    auto alone = options;
    alone.budget = falling[i];
    const auto own = kvfit_test::compacted_head(head.cache(), head.queries, alone);
    CHECK((*all)[i].positions == own.positions);
    // Weights are fitted to the optimum, where OMP as published clips: no worse in mass.
    CHECK((*all)[i].report.is_bias_fitted);
    CHECK((*all)[i].report.mass_residual <= 1.001 * own.report.mass_residual);
  }
}

TEST_CASE("a progressive selection keeps protected rows and refines where the method does",
          "[compact][progressive]") {
  const auto head = kvfit_test::make_head(6);
  kvfit::compact_options options{.protect = {.first = 2, .last = 3}};
  const std::vector<kvfit::index_t> budgets = {16, 9};
  const auto all = compact_progressive(head.cache(), head.queries, options, budgets);
  REQUIRE(all);
  for (std::size_t i = 0; i < 2; ++i) {
    const kvfit::compacted& small = (*all)[i];
    REQUIRE(static_cast<kvfit::index_t>(small.positions.size()) == budgets[i]);
    CHECK(small.positions[1] == 1);
    CHECK(small.positions.back() == 63);
    CHECK(small.positions[small.positions.size() - 3] == 61);
    CHECK(small.report.refinement.steps > 0);
  }
  const auto& large = (*all)[0].positions;
  for (const kvfit::index_t row : (*all)[1].positions) {
    CHECK(std::find(large.begin(), large.end(), row) != large.end());
  }
}

TEST_CASE("a progressive selection refuses what compact refuses, for every budget",
          "[compact][progressive]") {
  const auto head = kvfit_test::make_head(7);
  const kvfit::compact_options options;
  CHECK(compact_progressive(head.cache(), head.queries, options, {}).error().code ==
        errc::empty_input);
  const std::vector<kvfit::index_t> bad = {8, 0};
  CHECK(compact_progressive(head.cache(), head.queries, options, bad).error().code ==
        errc::budget_out_of_range);
}

TEST_CASE(
    "a progressive call keeps to its cap, all results included, or is refused before it begins",
    "[compact][progressive][memory]") {
  if (!can_count) return;
  const auto head = kvfit_test::make_head(8, {.queries = 1500, .keys = 700, .depth = 8});
  const std::vector<kvfit::index_t> budgets = {10, 60, 25, 700};
  kvfit::compact_options options = kvfit::presets::joint(0);
  const auto measure = [&](std::ptrdiff_t& peak) {
    kvfit::result<std::vector<kvfit::compacted>> all = kvfit::error{};
    peak = kvfit_test::count_allocations([&] {
             all = compact_progressive(head.cache(), head.queries, options, budgets);
           }).peak_bytes;
    return all;
  };
  std::ptrdiff_t free_peak = 0;
  const auto whole = measure(free_peak);
  REQUIRE(whole);
  std::ptrdiff_t peak = 0;
  options.memory.cap = 2 * free_peak;
  const auto enough = measure(peak);
  REQUIRE(enough);
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    CHECK(kvfit_test::same_result((*enough)[i], (*whole)[i]));
  }
  kvfit::index_t least = 0;
  for (kvfit::index_t cap = free_peak;; cap -= cap / 4) {
    options.memory.cap = cap;
    const auto all = measure(peak);
    CAPTURE(cap, peak);
    if (!all) {
      CHECK(all.error().code == errc::memory_cap_exceeded);
      CHECK(all.error().expected == cap);
      CHECK(all.error().actual > cap);
      CHECK(peak < 400000);  // the inputs were read, and nothing more
      least = all.error().actual;
      break;
    }
    CHECK(peak <= cap);
    REQUIRE(all->size() == 4);
    CHECK((*all)[3].report.is_identity);
  }
  // What a refusal asks for is enough, with all that a cap may take taken.
  options.memory.cap = least;
  const auto lowest = measure(peak);
  REQUIRE(lowest);
  CHECK(peak <= least);
  CHECK((*lowest)[1].report.memory.lowers_queries);
  CHECK((*lowest)[3].report.is_identity);
  CHECK(least < free_peak);
}

TEST_CASE("a progressive call heeds a wish to stop in its selection and in every fit",
          "[compact][progressive][stop]") {
  const auto head = kvfit_test::make_head(9, {.queries = 260});
  auto options = kvfit::presets::omp(0);
  options.memory.selection = 0;  // so that every sweep reads the queries
  const auto run = [&](const kvfit_test::counted_queries& queries) {
    return compact_progressive(head.cache(), queries.view(), options, falling,
                               {.cancel = &queries.wish});
  };
  const kvfit_test::counted_queries undisturbed{head.queries};
  REQUIRE(run(undisturbed));
  const kvfit::index_t all = undisturbed.readings;
  std::set<std::string> stages;
  for (kvfit::index_t k = 0; k < 12; ++k) {
    const kvfit_test::counted_queries asking{head.queries, {}, 0, k * all / 12};
    const auto stopped = run(asking);
    if (stopped) continue;  // asked for in the last stage
    CHECK(stopped.error().code == errc::cancelled);
    stages.insert(stopped.error().argument);
    // Before the end nothing after the wish is read but what was begun.
    CHECK(asking.readings < (k + 1) * all / 12 + all / 4);
  }
  CHECK(stages.count("selection") == 1);
  CHECK(stages.size() >= 2);
  const auto past = std::chrono::steady_clock::now();
  const auto late =
      compact_progressive(head.cache(), head.queries, options, falling, {.deadline = past});
  REQUIRE_FALSE(late);
  CHECK(late.error().code == errc::cancelled);
}

TEST_CASE("a gradient method goes with a progressive selection", "[compact][progressive]") {
  const auto head = kvfit_test::make_head(10);
  kvfit::compact_options options;
  options.gradient = kvfit::gradient_keys{.steps = 3};
  const std::vector<kvfit::index_t> one = {8};
  const auto all = compact_progressive(head.cache(), head.queries, options, one);
  REQUIRE(all);
  CHECK((*all)[0].report.gradient.kept_steps >= 0);
  CHECK((*all)[0].positions.size() == 8);
}
