// SPDX-License-Identifier: MIT
#include "kvfit/compact/progressive.hpp"

#include <algorithm>
#include <vector>

#include "compact/door.hpp"
#include "kvfit/presets.hpp"

using kvfit::compact_progressive;
using kvfit::errc;

namespace {

const std::vector<kvfit::index> falling = {24, 6, 12, 100};

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
  std::get<kvfit::selection::omp>(options.selection).drop_below =
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
  kvfit::compact_options options{.protect_first = 2, .protect_last = 3};
  const std::vector<kvfit::index> budgets = {16, 9};
  const auto all = compact_progressive(head.cache(), head.queries, options, budgets);
  REQUIRE(all);
  for (std::size_t i = 0; i < 2; ++i) {
    const kvfit::compacted& small = (*all)[i];
    REQUIRE(static_cast<kvfit::index>(small.positions.size()) == budgets[i]);
    CHECK(small.positions[1] == 1);
    CHECK(small.positions.back() == 63);
    CHECK(small.positions[small.positions.size() - 3] == 61);
    CHECK(small.report.refinement.steps > 0);
  }
  const auto& large = (*all)[0].positions;
  for (const kvfit::index row : (*all)[1].positions) {
    CHECK(std::find(large.begin(), large.end(), row) != large.end());
  }
}

TEST_CASE("a progressive selection refuses what compact refuses, for every budget",
          "[compact][progressive]") {
  const auto head = kvfit_test::make_head(7);
  const kvfit::compact_options options;
  CHECK(compact_progressive(head.cache(), head.queries, options, {}).error().code ==
        errc::empty_input);
  const std::vector<kvfit::index> bad = {8, 0};
  CHECK(compact_progressive(head.cache(), head.queries, options, bad).error().code ==
        errc::budget_out_of_range);
}
