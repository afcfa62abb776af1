// SPDX-License-Identifier: MIT
#include "kvfit/cache/dynamic_programming.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cache/budget_cases.hpp"
#include "cache/plan_case.hpp"
#include "kvfit/cache/water_filling.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::influence_curve;
using kvfit::plan_by_dynamic_programming;
using kvfit::plan_by_water_filling;
using kvfit::row_bounds;
using kvfit_test::plan_case;

TEST_CASE("dynamic programming finds the best of all allocations", "[cache][influence]") {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    const plan_case made(seed, seed % 4 == 0);
    const auto plan = plan_by_dynamic_programming(made.curves, made.bounds, made.total);
    INFO("seed " << seed);
    REQUIRE(plan);
    made.check_rows(*plan);
    REQUIRE(std::abs(plan->loss - made.best()) < 1e-12);
  }
}

TEST_CASE("the order of heads changes no loss", "[cache][influence]") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    plan_case made(seed, false);
    const auto filled = plan_by_water_filling(made.curves, made.bounds, made.total);
    const auto exact = plan_by_dynamic_programming(made.curves, made.bounds, made.total);
    std::reverse(made.curves.begin(), made.curves.end());
    std::reverse(made.bounds.begin(), made.bounds.end());
    const auto filled_back = plan_by_water_filling(made.curves, made.bounds, made.total);
    const auto exact_back = plan_by_dynamic_programming(made.curves, made.bounds, made.total);
    REQUIRE(std::abs(filled->lower_bound - filled_back->lower_bound) < 1e-12);
    REQUIRE(std::abs(exact->loss - exact_back->loss) < 1e-12);
  }
}

TEST_CASE("a coarser grid still meets the total, and is the best of its own allocations",
          "[cache][influence]") {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const plan_case made(seed, false);
    for (const kvfit::index_t step : {2, 3, 50}) {
      const auto plan =
          plan_by_dynamic_programming(made.curves, made.bounds, made.total, {.step = step});
      INFO("seed " << seed << ", step " << step);
      REQUIRE(plan);
      made.check_rows(*plan);
      REQUIRE(plan->loss >= made.best() - 1e-12);
      REQUIRE(plan->loss <=
              plan_by_water_filling(made.curves, made.bounds, made.total)->loss + 1e-12);
      // Where the grid reaches the total it is no worse than any allocation on it.
      kvfit_test::for_all_allocations(
          made.bounds, made.total, [&](const std::vector<kvfit::index_t>& rows) {
            bool is_on_grid = true;
            for (std::size_t h = 0; h < rows.size(); ++h) {
              is_on_grid = is_on_grid && (rows[h] - made.bounds[h].least) % step == 0;
            }
            if (is_on_grid && plan->loss > made.loss(rows) + 1e-12) FAIL("beaten on the grid");
          });
    }
  }
}

TEST_CASE("rows that a grid leaves over go where the loss grows least", "[cache][influence]") {
  const std::vector<row_bounds> bounds(3, {0, 4});
  const std::vector<influence_curve> curves = {
      {{{0, 1.0}, {4, 0.6}}}, {{{0, 1.0}, {2, 0.0}, {4, 2.0}}}, {{{0, 1.0}, {4, 0.6}}}};
  std::vector<kvfit::index_t> rows = {1, 0, 0};
  kvfit::detail::place_rest(curves, bounds, 5, rows);
  CHECK(rows == std::vector<kvfit::index_t>{4, 2, 0});
}

TEST_CASE("§9.26 dynamic programming keeps its memory cap, or says what it needs",
          "[cache][influence]") {
  const std::vector<row_bounds> bounds(4, {0, 1000});
  const std::vector<influence_curve> curves(4, {{{0, 1.0}, {1000, 0.0}}});
  const auto refused = plan_by_dynamic_programming(curves, bounds, 2000, {.memory = 1000});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == errc::memory_cap_exceeded);
  CHECK(refused.error().actual == 2001 * (4 * 4 + 24));
  CHECK(refused.error().expected == 1000);
  CHECK(
      plan_by_dynamic_programming(curves, bounds, 2000, {.step = 100, .memory = 1000}).has_value());
  // Lengths that no memory holds are refused, not tried.
  const std::vector<row_bounds> endless = {{0, std::numeric_limits<kvfit::index_t>::max()}};
  const std::vector<influence_curve> one = {{{{0, 1.0}}}};
  CHECK(plan_by_dynamic_programming(one, endless, endless[0].most).error().code ==
        errc::memory_cap_exceeded);
  CHECK(plan_by_water_filling(one, endless, endless[0].most)->rows[0] == endless[0].most);
}

TEST_CASE("plans refuse totals, curves and settings out of range", "[cache][influence]") {
  const std::vector<row_bounds> bounds(2, {1, 10});
  const std::vector<influence_curve> curves(2, {{{0, 1.0}}});
  CHECK(plan_by_water_filling(curves, bounds, 1).error().code == errc::budget_out_of_range);
  CHECK(plan_by_water_filling(curves, bounds, 21).error().code == errc::budget_out_of_range);
  CHECK(plan_by_dynamic_programming(curves, bounds, 21).error().code == errc::budget_out_of_range);
  CHECK(plan_by_dynamic_programming(curves, bounds, 9, {.step = 0}).error().code ==
        errc::invalid_option);
  CHECK(plan_by_dynamic_programming(curves, bounds, 9, {.memory = -1}).error().code ==
        errc::invalid_option);
  const std::vector<influence_curve> wild(2, {{{0, std::nan("")}}});
  CHECK(plan_by_water_filling(wild, bounds, 9).error().code == errc::non_finite);
  CHECK(plan_by_dynamic_programming(wild, bounds, 9).error().code == errc::non_finite);
}
