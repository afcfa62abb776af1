// SPDX-License-Identifier: MIT
#include "kvfit/cache/influence.hpp"

#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "kvfit/bias/nnls.hpp"
#include "kvfit/cache/allocate.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/values/least_squares.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::measure_influence;
using kvfit_test::make_head;

namespace {

using composition = kvfit::compact_options;

const std::vector<kvfit::index_t> grid = {4, 16, 48, 64, 200};

}  // namespace

TEST_CASE("a measured curve is the held-out error of each compaction, and 0 for the whole head",
          "[cache][influence]") {
  const auto head = make_head(1);
  const composition options{.queries = {.held_out = 0.25}};
  const auto curve = measure_influence(head.cache(), head.queries, options, grid);
  REQUIRE(curve);
  REQUIRE(curve->points.size() == grid.size());
  for (std::size_t i = 0; i < grid.size(); ++i) {
    auto asked = options;
    asked.budget = grid[i];
    const auto fitted = kvfit::compact(head.cache(), head.queries, asked);
    REQUIRE(fitted);
    CHECK(curve->points[i].rows == grid[i]);
    if (grid[i] < 64) {
      REQUIRE(fitted->report.held_out);
      CHECK(curve->points[i].loss == fitted->report.held_out->output_error);
      CHECK(curve->points[i].loss > 0);
    } else {
      CHECK(curve->points[i].loss == 0);
    }
  }
  CHECK(curve->points[0].loss > curve->points[2].loss);
}

TEST_CASE("weights scale a curve and add the mass error", "[cache][influence]") {
  const auto head = make_head(2);
  composition options{.budget = 8, .queries = {.held_out = 0.25}};
  const std::vector<kvfit::index_t> one = {8};
  const auto fitted = kvfit::compact(head.cache(), head.queries, options);
  REQUIRE(fitted);
  const auto curve =
      measure_influence(head.cache(), head.queries, options, one, {.weight = 3, .mass = 0.5});
  REQUIRE(curve);
  const auto& errors = *fitted->report.held_out;
  CHECK(curve->points[0].loss == Approx(3 * (errors.output_error + 0.5 * errors.mass_error)));
}

TEST_CASE("measured curves give the harder head more rows", "[cache][influence]") {
  const auto hard = make_head(3);
  auto easy = make_head(4);
  easy.values *= 0;  // one key does
  easy.values.array() += 1;
  const composition options{.queries = {.held_out = 0.25}};
  kvfit::budgets::influence policy;
  for (const kvfit_test::head* head : {&std::as_const(easy), &hard}) {
    auto curve = measure_influence(head->cache(), head->queries, options, grid);
    REQUIRE(curve);
    policy.curves.push_back(std::move(*curve));
  }
  const std::vector<kvfit::head_rows> heads = {{{0, 0}, 64}, {{0, 1}, 64}};
  const auto rows = kvfit::allocate(heads, 40, policy);
  REQUIRE(rows);
  CHECK((*rows)[0] + (*rows)[1] == 40);
  CHECK((*rows)[1] > 2 * (*rows)[0]);
}

TEST_CASE("curves that can't be measured are refused", "[cache][influence]") {
  const auto head = make_head(5);
  const composition options{.queries = {.held_out = 0.25}};
  const auto cause = [&](const composition& asked, const std::vector<kvfit::index_t>& budgets,
                         const kvfit::influence_settings& settings = {}) {
    const auto curve = measure_influence(head.cache(), head.queries, asked, budgets, settings);
    REQUIRE_FALSE(curve.has_value());
    INFO(curve.error().message());
    return curve.error();
  };
  CHECK(cause(options, {}).code == errc::empty_input);
  CHECK(cause(options, {0, 4}).code == errc::invalid_option);
  CHECK(cause(options, {4, 4}).argument == "budgets");
  CHECK(cause({.queries = {.held_out = 0}}, {4}).argument == "queries.held_out");
  CHECK(cause(options, {4}, {.weight = -1}).argument == "settings.weight");
  CHECK(cause(options, {4}, {.mass = std::nan("")}).argument == "settings.mass");
  CHECK(cause({.protect = {.first = 8}, .queries = {.held_out = 0.25}}, {4}).code ==
        errc::budget_out_of_range);

  const kvfit::matrix few = head.queries.topRows(1);
  const auto lone = measure_influence(head.cache(), few, options, grid);
  REQUIRE_FALSE(lone.has_value());
  CHECK(lone.error().argument == "queries.held_out");
}

TEST_CASE("one selection gives a curve near that of a selection a budget", "[cache][influence]") {
  const auto head = make_head(3);
  const composition options{.selection = kvfit::selection::highest_attention{},
                            .queries = {.held_out = 0.25}};
  const auto each = measure_influence(head.cache(), head.queries, options, grid);
  const auto once =
      measure_influence(head.cache(), head.queries, options, grid, {.one_selection = true});
  REQUIRE(each);
  REQUIRE(once);
  const auto whole = kvfit::compact_progressive(head.cache(), head.queries, options, grid);
  REQUIRE(whole);
  for (std::size_t i = 0; i < grid.size(); ++i) {
    CHECK(once->points[i].rows == grid[i]);
    CHECK(once->points[i].loss == Approx(each->points[i].loss).epsilon(0.25).margin(1e-9));
    const auto& held_out = (*whole)[i].report.held_out;
    CHECK(once->points[i].loss == (held_out ? held_out->output_error : 0.0));
  }
}

TEST_CASE("the measurement of a curve heeds a deadline and the cap of its compactions",
          "[cache][influence]") {
  const auto head = make_head(3);
  composition options{.queries = {.held_out = 0.25}};
  for (const bool one_selection : {true, false}) {
    const auto late = measure_influence(head.cache(), head.queries, options, grid,
                                        {.one_selection = one_selection},
                                        {.deadline = std::chrono::steady_clock::now()});
    REQUIRE_FALSE(late);
    CHECK(late.error().code == errc::cancelled);
    options.memory.cap = 1000;
    CHECK(measure_influence(head.cache(), head.queries, options, grid,
                            {.one_selection = one_selection})
              .error()
              .code == errc::memory_cap_exceeded);
    options.memory.cap.reset();
  }
}
