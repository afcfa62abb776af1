// SPDX-License-Identifier: MIT
#include "kvfit/cache/apportion.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cache/budget_cases.hpp"
#include "support/catch.hpp"

using kvfit::apportion;
using kvfit::errc;
using kvfit::row_bounds;
using kvfit_test::random_bounds;
using kvfit_test::random_total;
using kvfit_test::sum_of;

namespace {

using rows_list = std::vector<kvfit::index_t>;

/// Shares of any kind: equal ones, zeros, and of very different size.
std::vector<double> random_shares(kvfit::random_source& random, std::size_t heads) {
  std::vector<double> shares(heads);
  const auto kind = random.below(4);
  for (double& s : shares) {
    s = random.uniform();
    if (kind == 0) s = static_cast<double>(random.below(3));
    if (kind == 1) s = std::ldexp(s, -static_cast<int>(random.below(60)));
  }
  shares[random.below(heads)] = 0.7;
  return shares;
}

/// The parts before rounding: bisection on the level. Shares are positive.
std::vector<double> plain_parts(const std::vector<double>& shares,
                                const std::vector<row_bounds>& bounds, kvfit::index_t total) {
  std::vector<double> parts(shares.size());
  const auto fill = [&](double level) {
    double sum = 0;
    for (std::size_t h = 0; h < shares.size(); ++h) {
      parts[h] = std::clamp(level * shares[h], static_cast<double>(bounds[h].least),
                            static_cast<double>(bounds[h].most));
      sum += parts[h];
    }
    return sum;
  };
  double low = 0;
  double high = 1e25;
  for (int i = 0; i < 400; ++i) {
    const double middle = low + (high - low) / 2;
    (fill(middle) < static_cast<double>(total) ? low : high) = middle;
  }
  fill(high);
  return parts;
}

}  // namespace

TEST_CASE("§9.13 sums of rows are exact and every head is within its bounds",
          "[cache][apportion]") {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    kvfit::random_source random(seed);
    const auto heads = static_cast<std::size_t>(1 + random.below(12));
    const auto bounds = random_bounds(random, heads, seed % 3 == 0 ? 5 : 100000);
    const auto shares = random_shares(random, heads);
    const kvfit::index_t total = random_total(random, bounds);
    const auto rows = apportion(shares, bounds, total);
    INFO("seed " << seed);
    REQUIRE(rows);
    REQUIRE(sum_of(*rows) == total);
    for (std::size_t h = 0; h < heads; ++h) {
      REQUIRE((*rows)[h] >= bounds[h].least);
      REQUIRE((*rows)[h] <= bounds[h].most);
    }
  }
}

TEST_CASE("each head is within one row of its part of the level that meets the total",
          "[cache][apportion]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    kvfit::random_source random(seed);
    const auto heads = static_cast<std::size_t>(1 + random.below(12));
    const auto bounds = random_bounds(random, heads, 1000);
    std::vector<double> shares(heads);
    for (double& s : shares) s = 0.01 + random.uniform();
    const kvfit::index_t total = random_total(random, bounds);
    const auto parts = plain_parts(shares, bounds, total);
    const auto rows = apportion(shares, bounds, total);
    REQUIRE(rows);
    for (std::size_t h = 0; h < heads; ++h) {
      INFO("seed " << seed << ", head " << h << ", part " << parts[h]);
      REQUIRE(std::abs(static_cast<double>((*rows)[h]) - parts[h]) < 1 + 1e-6);
    }
  }
}

TEST_CASE("remainders go to the largest, and of equal ones to the first", "[cache][apportion]") {
  const std::vector<row_bounds> free(3, {0, 100});
  CHECK(*apportion(std::vector<double>{1, 1, 1}, free, 10) == rows_list{4, 3, 3});
  CHECK(*apportion(std::vector<double>{1, 1, 1}, free, 11) == rows_list{4, 4, 3});
  CHECK(*apportion(std::vector<double>{0.25, 0.35, 0.4}, free, 10) == rows_list{3, 3, 4});
  CHECK(*apportion(std::vector<double>{0.24, 0.36, 0.4}, free, 10) == rows_list{2, 4, 4});
}

TEST_CASE("what a cap takes from a head goes to the others in proportion", "[cache][apportion]") {
  // 60 for the first, of which 20 fit: 80 remain for 3 : 1.
  const std::vector<row_bounds> bounds = {{0, 20}, {0, 100}, {0, 100}};
  CHECK(*apportion(std::vector<double>{0.6, 0.3, 0.1}, bounds, 100) == rows_list{20, 60, 20});
  // The second meets its own cap only by what the first left over.
  const std::vector<row_bounds> chain = {{0, 20}, {0, 50}, {0, 100}};
  CHECK(*apportion(std::vector<double>{0.6, 0.3, 0.1}, chain, 100) == rows_list{20, 50, 30});
}

TEST_CASE("what a minimum gives to a head is taken from the others in proportion",
          "[cache][apportion]") {
  const std::vector<row_bounds> bounds = {{0, 100}, {0, 100}, {20, 100}};
  CHECK(*apportion(std::vector<double>{0.6, 0.3, 0.1}, bounds, 80) == rows_list{40, 20, 20});
}

TEST_CASE("heads of share 0 get more than their least only when all others are full",
          "[cache][apportion]") {
  const std::vector<row_bounds> bounds = {{0, 30}, {2, 40}, {0, 40}};
  CHECK(*apportion(std::vector<double>{1, 0, 0}, bounds, 20) == rows_list{18, 2, 0});
  CHECK(*apportion(std::vector<double>{1, 0, 0}, bounds, 32) == rows_list{30, 2, 0});
  CHECK(*apportion(std::vector<double>{1, 0, 0}, bounds, 70) == rows_list{30, 20, 20});
  CHECK(*apportion(std::vector<double>{1, 5e-324, 0}, bounds, 70) == rows_list{30, 20, 20});
  // So far below the largest share that a level for it would overflow.
  CHECK(*apportion(std::vector<double>{1e300, 5e-324, 0}, bounds, 70) == rows_list{30, 20, 20});
}

TEST_CASE("a larger share never gets fewer rows", "[cache][apportion]") {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    kvfit::random_source random(seed);
    const auto heads = static_cast<std::size_t>(2 + random.below(8));
    const auto bounds = random_bounds(random, heads, 60);
    auto shares = random_shares(random, heads);
    const kvfit::index_t total = random_total(random, bounds);
    const auto before = apportion(shares, bounds, total);
    const auto raised = static_cast<std::size_t>(random.below(heads));
    shares[raised] = shares[raised] * (1 + random.uniform()) + 0.01;
    const auto after = apportion(shares, bounds, total);
    INFO("seed " << seed << ", head " << raised);
    REQUIRE((*after)[raised] >= (*before)[raised]);
    // And of two heads with the same bounds, the larger share has no fewer.
    const std::vector<row_bounds> same(heads, {1, 40});
    const auto rows = apportion(shares, same, static_cast<kvfit::index_t>(heads) * 20 - 3);
    REQUIRE(rows);
    for (std::size_t a = 0; a < heads; ++a) {
      for (std::size_t b = 0; b < heads; ++b) {
        if (shares[a] > shares[b]) REQUIRE((*rows)[a] >= (*rows)[b]);
      }
    }
  }
}

TEST_CASE("the order of heads decides ties alone", "[cache][apportion]") {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    kvfit::random_source random(seed);
    const auto heads = static_cast<std::size_t>(2 + random.below(10));
    const auto bounds = random_bounds(random, heads, 200);
    std::vector<double> shares(heads);  // all different, so that nothing ties
    for (double& s : shares) s = 0.01 + random.uniform();
    const kvfit::index_t total = random_total(random, bounds);
    std::vector<std::size_t> order(heads);
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t k = heads; k > 1; --k) std::swap(order[k - 1], order[random.below(k)]);
    std::vector<double> moved_shares;
    std::vector<row_bounds> moved_bounds;
    for (const std::size_t h : order) {
      moved_shares.push_back(shares[h]);
      moved_bounds.push_back(bounds[h]);
    }
    const auto rows = apportion(shares, bounds, total);
    const auto moved = apportion(moved_shares, moved_bounds, total);
    INFO("seed " << seed);
    for (std::size_t i = 0; i < heads; ++i) REQUIRE((*moved)[i] == (*rows)[order[i]]);
  }
}

TEST_CASE("§9.21 products of shares and rows do not wrap, and lengths beyond 53 bits stay exact",
          "[cache][apportion]") {
  const kvfit::index_t huge = kvfit::index_t{1} << 60;
  const std::vector<row_bounds> bounds = {{1, huge}, {3, huge}, {huge - 7, huge}, {0, huge}};
  for (const kvfit::index_t total :
       {huge + 5, 2 * huge + 1, 3 * huge + 12345, 4 * huge - 3, 4 * huge}) {
    const auto rows = apportion(std::vector<double>{0.1, 0.3, 0.2, 0.4}, bounds, total);
    REQUIRE(rows);
    CHECK(sum_of(*rows) == total);
    for (std::size_t h = 0; h < bounds.size(); ++h) {
      CHECK((*rows)[h] >= bounds[h].least);
      CHECK((*rows)[h] <= bounds[h].most);
    }
  }
  const std::vector<row_bounds> widest = {{0, std::numeric_limits<kvfit::index_t>::max()}};
  CHECK(*apportion(std::vector<double>{1}, widest, std::numeric_limits<kvfit::index_t>::max()) ==
        rows_list{std::numeric_limits<kvfit::index_t>::max()});
}

TEST_CASE("§9.12 totals that can't be met and shares that mean nothing are refused",
          "[cache][apportion]") {
  const std::vector<row_bounds> bounds = {{2, 10}, {3, 10}};
  const std::vector<double> shares = {1, 1};
  const auto cause = [&](const std::vector<double>& s, const std::vector<row_bounds>& b,
                         kvfit::index_t total) {
    const auto rows = apportion(s, b, total);
    REQUIRE_FALSE(rows.has_value());
    return rows.error();
  };
  CHECK(cause(shares, bounds, 4).code == errc::budget_out_of_range);
  CHECK(cause(shares, bounds, 4).actual == 4);
  CHECK(cause(shares, bounds, 4).expected == 5);
  CHECK(cause(shares, bounds, 21).code == errc::budget_out_of_range);
  CHECK(cause(shares, bounds, 21).expected == 20);
  CHECK(cause(shares, bounds, -1).code == errc::budget_out_of_range);
  CHECK(cause({1}, bounds, 10).code == errc::shape_mismatch);
  CHECK(cause({}, {}, 0).code == errc::empty_input);
  CHECK(cause({0, 0}, bounds, 10).code == errc::invalid_option);
  for (const double bad : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    CHECK(cause({1, bad}, bounds, 10).code == errc::invalid_option);
    CHECK(cause({1, bad}, bounds, 10).actual == 1);
  }
  CHECK(cause(shares, {{2, 1}, {0, 5}}, 3).code == errc::invalid_option);
  CHECK(cause(shares, {{-1, 1}, {0, 5}}, 3).code == errc::invalid_option);
  const kvfit::index_t max = std::numeric_limits<kvfit::index_t>::max();
  CHECK(cause(shares, {{0, max}, {0, 1}}, 3).code == errc::budget_out_of_range);
}
