// SPDX-License-Identifier: MIT
#include "kvfit/cache/influence_curve.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "cache/budget_cases.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::influence_curve;
using kvfit::loss_at;
using kvfit::row_bounds;

TEST_CASE("a curve is linear between its points and flat outside", "[cache][influence]") {
  const influence_curve curve{{{4, 2.0}, {8, 1.0}, {9, 3.0}}};
  CHECK(loss_at(curve, 0) == 2.0);
  CHECK(loss_at(curve, 4) == 2.0);
  CHECK(loss_at(curve, 5) == 1.75);
  CHECK(loss_at(curve, 8) == 1.0);
  CHECK(loss_at(curve, 9) == 3.0);
  CHECK(loss_at(curve, 1000) == 3.0);
  CHECK(loss_at({{{7, 5.0}}}, 3) == 5.0);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    kvfit::random_source random(seed);
    const auto made = kvfit_test::random_curve(random, 14);
    for (kvfit::index_t rows = 0; rows < 20; ++rows) {
      const double wanted = kvfit_test::plain_loss(made, static_cast<double>(rows));
      CHECK(std::abs(loss_at(made, rows) - wanted) < 1e-14);
    }
  }
}

TEST_CASE("the envelope is the least chord everywhere, convex, with corners on the curve",
          "[cache][influence]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    kvfit::random_source random(seed);
    const auto curve = kvfit_test::random_curve(random, 14);
    const row_bounds bounds = kvfit_test::random_bounds(random, 1, 14).front();
    const auto corners = kvfit::detail::convex_envelope(curve, bounds);
    REQUIRE(corners.front().rows == bounds.least);
    REQUIRE(corners.back().rows == bounds.most);
    for (std::size_t i = 0; i < corners.size(); ++i) {
      REQUIRE(corners[i].loss == loss_at(curve, corners[i].rows));
      if (i > 1) {
        REQUIRE(kvfit::detail::slope(corners[i - 2], corners[i - 1]) <
                kvfit::detail::slope(corners[i - 1], corners[i]));
      }
    }
    for (kvfit::index_t rows = bounds.least; rows <= bounds.most; ++rows) {
      INFO("seed " << seed << ", rows " << rows);
      REQUIRE(std::abs(loss_at({corners}, rows) - kvfit_test::plain_envelope(curve, bounds, rows)) <
              1e-13);
    }
  }
}

TEST_CASE("points on one line are one piece of the envelope", "[cache][influence]") {
  const influence_curve curve{{{0, 4.0}, {1, 3.0}, {2, 2.0}, {3, 2.5}, {4, 1.0}, {6, 0.5}}};
  const auto corners = kvfit::detail::convex_envelope(curve, {0, 6});
  REQUIRE(corners.size() == 4);
  CHECK(corners[1].rows == 2);
  CHECK(corners[2].rows == 4);
}

TEST_CASE("curves that can't be used are refused with their place", "[cache][influence]") {
  const std::vector<row_bounds> bounds = {{0, 9}, {0, 9}};
  const influence_curve good{{{1, 2.0}, {3, 1.0}}};
  const auto cause = [&](const std::vector<influence_curve>& curves) {
    const auto ok = kvfit::check_curves(curves, bounds);
    REQUIRE_FALSE(ok.has_value());
    INFO(ok.error().message());
    return ok.error();
  };
  CHECK(kvfit::check_curves(std::vector<influence_curve>{good, good}, bounds).has_value());
  CHECK(cause({good}).code == errc::shape_mismatch);
  CHECK(cause({good, {}}).code == errc::empty_input);
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()}) {
    const auto refused = cause({good, {{{1, 2.0}, {3, bad}}}});
    CHECK(refused.code == errc::non_finite);
    CHECK(refused.actual == 1);
    CHECK(refused.expected == 1);
  }
  CHECK(cause({good, {{{1, 1e151}}}}).code == errc::invalid_option);
  CHECK(cause({good, {{{-1, 1.0}}}}).code == errc::invalid_option);
  CHECK(cause({good, {{{3, 1.0}, {3, 1.0}}}}).code == errc::invalid_option);
  CHECK(cause({good, {{{3, 1.0}, {2, 1.0}}}}).code == errc::invalid_option);
}

TEST_CASE("smoothing takes means of odd windows and leaves the ends", "[cache][influence]") {
  const influence_curve rough{{{1, 9.0}, {2, 0.0}, {4, 6.0}, {8, 0.0}, {16, 3.0}, {32, 1.0}}};
  const auto smooth = kvfit::smoothed(rough, 5);
  REQUIRE(smooth);
  const std::vector<double> expected = {9.0, 5.0, 3.6, 2.0, 4.0 / 3, 1.0};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(smooth->points[i].rows == rough.points[i].rows);
    CHECK(smooth->points[i].loss == Approx(expected[i]));
  }
  const auto same = kvfit::smoothed(rough, 1);
  REQUIRE(same);
  CHECK(same->points[2].loss == 6.0);
  for (const kvfit::index_t width : {0, -1, 4}) {
    const auto refused = kvfit::smoothed(rough, width);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::invalid_option);
    CHECK(refused.error().actual == width);
  }
  CHECK(kvfit::smoothed({}, 3).error().code == errc::empty_input);
}
