// SPDX-License-Identifier: MIT
#include "kvfit/cache/water_filling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cache/budget_cases.hpp"
#include "cache/plan_case.hpp"
#include "kvfit/cache/dynamic_programming.hpp"
#include "support/catch.hpp"

using kvfit::influence_curve;
using kvfit::plan_by_dynamic_programming;
using kvfit::plan_by_water_filling;
using kvfit::row_bounds;
using kvfit_test::plan_case;

TEST_CASE("water filling is the best on the envelopes, and its gap bounds what is lost",
          "[cache][influence]") {
  double worst_gap = 0;
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    const plan_case made(seed, false);
    const auto plan = plan_by_water_filling(made.curves, made.bounds, made.total);
    const auto exact = plan_by_dynamic_programming(made.curves, made.bounds, made.total);
    INFO("seed " << seed);
    REQUIRE(plan);
    made.check_rows(*plan);
    REQUIRE(std::abs(plan->lower_bound - made.best_on_envelopes()) < 1e-12);
    REQUIRE(plan->lower_bound == Approx(exact->lower_bound).margin(1e-12));
    REQUIRE(exact->loss <= plan->loss + 1e-12);
    REQUIRE(exact->loss >= plan->lower_bound - 1e-12);
    worst_gap = std::max(worst_gap, plan->loss - exact->loss);
    // The gap comes from one head: all others end on corners of their envelopes.
    std::size_t off_corner = 0;
    for (std::size_t h = 0; h < made.bounds.size(); ++h) {
      const double above =
          kvfit_test::plain_loss(made.curves[h], static_cast<double>(plan->rows[h])) -
          kvfit_test::plain_envelope(made.curves[h], made.bounds[h], plan->rows[h]);
      off_corner += above > 1e-12 ? 1 : 0;
    }
    REQUIRE(off_corner <= 1);
  }
  CHECK(worst_gap > 0);  // or the cases show nothing
}

TEST_CASE("on convex curves water filling is the best there is", "[cache][influence]") {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const plan_case made(seed, true);
    const auto plan = plan_by_water_filling(made.curves, made.bounds, made.total);
    INFO("seed " << seed);
    REQUIRE(plan);
    made.check_rows(*plan);
    REQUIRE(std::abs(plan->loss - made.best()) < 1e-12);
    REQUIRE(plan->loss - plan->lower_bound < 1e-12);
  }
}

TEST_CASE("more rows never cost on falling convex curves", "[cache][influence]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    plan_case made(seed, true);
    kvfit::index_t least = 0;
    kvfit::index_t most = 0;
    for (const auto& b : made.bounds) {
      least += b.least;
      most += b.most;
    }
    double before = std::numeric_limits<double>::infinity();
    for (kvfit::index_t total = least; total <= most; ++total) {
      const auto plan = plan_by_water_filling(made.curves, made.bounds, total);
      REQUIRE(plan->loss <= before + 1e-12);
      before = plan->loss;
    }
  }
}

TEST_CASE("equal slopes share what is left in proportion to their length", "[cache][influence]") {
  const std::vector<row_bounds> bounds = {{0, 40}, {0, 80}, {0, 40}};
  const influence_curve flat{{{0, 1.0}}};
  const auto plan =
      plan_by_water_filling(std::vector<influence_curve>{flat, flat, flat}, bounds, 80);
  CHECK(plan->rows == std::vector<kvfit::index_t>{20, 40, 20});
}
