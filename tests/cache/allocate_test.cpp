// SPDX-License-Identifier: MIT
#include "kvfit/cache/allocate.hpp"

#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "cache/budget_cases.hpp"
#include "support/catch.hpp"

namespace budgets = kvfit::budgets;
using kvfit::allocate;
using kvfit::errc;
using kvfit::head_rows;
using kvfit::head_share;
using kvfit_test::equal_heads;
using kvfit_test::sum_of;

namespace {

using list = std::vector<kvfit::index_t>;

/// A caller's own policy: later heads of a layer get more.
struct by_head {};
kvfit::result<std::vector<double>> shares_of(const by_head&, std::span<const head_rows> heads) {
  std::vector<double> shares;
  for (const head_rows& h : heads) shares.push_back(static_cast<double>(h.id.head + 1));
  return shares;
}

kvfit::error cause(const kvfit::result<list>& rows) {
  REQUIRE_FALSE(rows.has_value());
  INFO(rows.error().message());
  return rows.error();
}

}  // namespace

TEST_CASE("uniform: the same ratio in every head, the rest to the first", "[cache][allocate]") {
  CHECK(*allocate(equal_heads(2, 2, 100), 42, budgets::uniform{}) == list{11, 11, 10, 10});
  const std::vector<head_rows> uneven = {{{0, 0}, 100}, {{0, 1}, 300}, {{1, 0}, 0}, {{1, 1}, 1}};
  CHECK(*allocate(uneven, 41, budgets::uniform{}) == list{10, 30, 0, 1});
  CHECK(*allocate(uneven, 401, budgets::uniform{}) == list{100, 300, 0, 1});
}

TEST_CASE("pyramid: from 39/20 of the average in the first layer to 1/20 in the last",
          "[cache][allocate]") {
  // Layer numbers with a gap, in any order: their ranks count.
  const std::vector<head_rows> heads = {{{9, 0}, 1000}, {{2, 0}, 1000}, {{4, 0}, 1000}};
  CHECK(*allocate(heads, 300, budgets::pyramid{}) == list{5, 195, 100});
  CHECK(*allocate(heads, 300, budgets::pyramid{.last_share = 1}) == list{100, 100, 100});
  CHECK(*allocate(heads, 300, budgets::pyramid{.last_share = 2}) == list{199, 1, 100});
  CHECK(*allocate(heads, 300, budgets::pyramid{.last_share = 2}, {.at_least = 0}) ==
        list{200, 0, 100});
  CHECK(*allocate(equal_heads(1, 3, 50), 30, budgets::pyramid{}) == list{10, 10, 10});
  for (const double bad : {-0.01, 2.01, std::nan("")}) {
    CHECK(cause(allocate(heads, 300, budgets::pyramid{bad})).argument == "last_share");
  }
}

TEST_CASE("pyramid: caps of the first layers pass their excess on", "[cache][allocate]") {
  const auto rows = allocate(equal_heads(4, 1, 100), 200, budgets::pyramid{}, {.max_ratio = 0.75});
  // 97.5, 65.8, 34.2 and 2.5 without the cap; with it the second meets it too, and 50 rows are left
  // for 41 : 3.
  CHECK(*rows == list{75, 75, 47, 3});
}

TEST_CASE("a caller's own policy needs no registration", "[cache][allocate]") {
  CHECK(*allocate(equal_heads(2, 2, 100), 60, by_head{}) == list{10, 20, 10, 20});
}

TEST_CASE("given shares are taken by head, in any order", "[cache][allocate]") {
  const auto heads = equal_heads(1, 3, 1000);
  const budgets::given policy{{{{0, 2}, 0.5}, {{0, 0}, 0.3}, {{0, 1}, 0.2}}};
  CHECK(*allocate(heads, 100, policy) == list{30, 20, 50});
}

TEST_CASE("§9.30 shares that do not fit the heads are refused", "[cache][allocate]") {
  const auto heads = equal_heads(1, 3, 1000);
  const auto refused = [&](std::vector<head_share> shares) {
    return cause(allocate(heads, 100, budgets::given{std::move(shares)}));
  };
  CHECK(refused({}).code == errc::empty_input);
  const auto missing = refused({{{0, 0}, 0.3}, {{0, 2}, 0.3}});
  CHECK(missing.code == errc::missing_entry);
  CHECK(missing.detail == "L0H1 has no share");
  const auto stranger = refused({{{0, 0}, 0.3}, {{0, 1}, 0.2}, {{0, 2}, 0.5}, {{1, 0}, 0.1}});
  CHECK(stranger.code == errc::invalid_option);
  CHECK(stranger.detail == "L1H0 is no head of this cache");
  CHECK(refused({{{0, 0}, 0.3}, {{0, 0}, 0.3}, {{0, 1}, 1}, {{0, 2}, 1}}).detail ==
        "L0H0 stands twice");
  for (const double bad : {-0.1, std::nan(""), std::numeric_limits<double>::infinity()}) {
    CHECK(refused({{{0, 0}, 0.3}, {{0, 1}, bad}, {{0, 2}, 0.3}}).code == errc::invalid_option);
  }
  CHECK(refused({{{0, 0}, 0}, {{0, 1}, 0}, {{0, 2}, 0}}).code == errc::invalid_option);
}

TEST_CASE("a missing share is the mean of the others where that is asked for",
          "[cache][allocate]") {
  const auto heads = equal_heads(1, 3, 1000);
  const budgets::given policy{{{{0, 0}, 0.6}, {{0, 2}, 0.2}}, budgets::missing_share::mean};
  CHECK(*allocate(heads, 120, policy) == list{60, 40, 20});
  // It does not excuse a head that is not there.
  const budgets::given stray{{{{0, 0}, 0.6}, {{5, 2}, 0.2}}, budgets::missing_share::mean};
  CHECK(cause(allocate(heads, 120, stray)).code == errc::invalid_option);
}

TEST_CASE("§9.12 a budget below the minima or above the caps is an error with both sizes",
          "[cache][allocate]") {
  const auto heads = equal_heads(2, 4, 100);
  const auto low = cause(allocate(heads, 7, budgets::uniform{}));
  CHECK(low.code == errc::budget_out_of_range);
  CHECK(low.actual == 7);
  CHECK(low.expected == 8);
  const auto high = cause(allocate(heads, 601, budgets::pyramid{}, {.max_ratio = 0.75}));
  CHECK(high.code == errc::budget_out_of_range);
  CHECK(high.actual == 601);
  CHECK(high.expected == 600);
}

TEST_CASE("§9.13 allocation ends with all heads at their least or most", "[cache][allocate]") {
  const auto heads = equal_heads(6, 8, 128);
  for (const kvfit::index_t total : {kvfit::index_t{48}, kvfit::index_t{48 * 96}}) {
    const auto rows =
        allocate(heads, total, budgets::pyramid{}, {.at_least = 1, .max_ratio = 0.75});
    REQUIRE(rows);
    CHECK(*rows == list(48, total / 48));
  }
}

TEST_CASE("influence: both solvers by the entry point", "[cache][allocate]") {
  const auto heads = equal_heads(1, 2, 10);
  // The second head needs all of 6 rows before it gains anything.
  const std::vector<kvfit::influence_curve> curves = {{{{0, 1.0}, {8, 0.2}}},
                                                      {{{0, 2.0}, {5, 2.0}, {6, 0.0}}}};
  CHECK(*allocate(heads, 7, budgets::influence{curves}) == list{1, 6});
  CHECK(*allocate(heads, 5, budgets::influence{curves, kvfit::dynamic_programming{}}) ==
        list{4, 1});
  CHECK(cause(allocate(heads, 1, budgets::influence{curves})).code == errc::budget_out_of_range);
  CHECK(cause(allocate(heads, 7, budgets::influence{{curves[0]}})).code == errc::shape_mismatch);
}
