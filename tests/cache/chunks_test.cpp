// SPDX-License-Identifier: MIT
#include "kvfit/cache/chunks.hpp"

#include <numeric>
#include <vector>

#include "cache/budget_cases.hpp"
#include "kvfit/core/random.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::chunk;
using kvfit::errc;
using kvfit::index_t;
using kvfit::plan_chunks;

namespace {

/// Chunks at random in a text of `rows` rows, with gaps between some.
std::vector<chunk> random_chunks(kvfit::random_source& random, index_t rows) {
  std::vector<chunk> chunks;
  for (index_t at = draw(random, 0, 3); at < rows;) {
    const index_t length = std::min(draw(random, 1, 9), rows - at);
    chunks.push_back({at, length});
    at += length + (random.below(3) == 0 ? draw(random, 1, 2) : 0);
  }
  return chunks;
}

index_t stretches(const std::vector<chunk>& chunks) {
  index_t count = 1;
  for (std::size_t c = 1; c < chunks.size(); ++c) {
    count += chunks[c].first > chunks[c - 1].first + chunks[c - 1].rows ? 1 : 0;
  }
  return count;
}

/// Which rows of a text are in some chunk.
std::vector<bool> covered(const std::vector<chunk>& chunks, index_t rows) {
  std::vector<bool> is_in(static_cast<std::size_t>(rows));
  for (const chunk& one : chunks) {
    for (index_t row = one.first; row < one.first + one.rows; ++row) {
      CHECK_FALSE(is_in[static_cast<std::size_t>(row)]);
      is_in[static_cast<std::size_t>(row)] = true;
    }
  }
  return is_in;
}

}  // namespace

TEST_CASE("a part is split into chunks of a length, the last one shorter", "[cache][chunks]") {
  CHECK(*kvfit::split_by_length({3, 10}, 4) == std::vector<chunk>{{3, 4}, {7, 4}, {11, 2}});
  CHECK(*kvfit::split_by_length({0, 8}, 4) == std::vector<chunk>{{0, 4}, {4, 4}});
  CHECK(*kvfit::split_by_length({5, 2}, 4096) == std::vector<chunk>{{5, 2}});
  CHECK(kvfit::split_by_length({0, 8}, 0).error().argument == "length");
  CHECK(kvfit::split_by_length({0, 0}, 4).error().argument == "part");
  CHECK(kvfit::split_by_length({-1, 8}, 4).error().code == errc::invalid_position);
  const auto huge = kvfit::split_by_length({0, std::numeric_limits<index_t>::max()}, 1);
  REQUIRE_FALSE(huge);
  CHECK(huge.error().code == errc::out_of_memory);
}

TEST_CASE("a part is cut at given rows", "[cache][chunks]") {
  const std::vector<index_t> starts = {5, 9, 10};
  CHECK(*kvfit::split_at({2, 10}, starts) == std::vector<chunk>{{2, 3}, {5, 4}, {9, 1}, {10, 2}});
  CHECK(*kvfit::split_at({5, 7}, starts) == std::vector<chunk>{{5, 4}, {9, 1}, {10, 2}});
  CHECK(*kvfit::split_at({5, 7}, {}) == std::vector<chunk>{{5, 7}});
  CHECK(kvfit::split_at({6, 7}, starts).error().actual == 5);
  CHECK(kvfit::split_at({2, 8}, starts).error().actual == 10);
  const std::vector<index_t> twice = {5, 5};
  CHECK(kvfit::split_at({2, 8}, twice).error().code == errc::invalid_position);
}

TEST_CASE("§9.14 chunk budgets are proportional and meet the total exactly", "[cache][chunks]") {
  const auto plan = plan_chunks(*kvfit::split_by_length({10, 80}, 20), 100, 1, 36);
  REQUIRE(plan);
  CHECK(plan->kept == 20);
  CHECK(plan->budgets == std::vector<index_t>{4, 4, 4, 4});
  const std::vector<chunk> uneven = {{0, 60}, {60, 30}, {90, 10}};
  const auto shared = plan_chunks(uneven, 100, 2, 40);
  REQUIRE(shared);
  CHECK(shared->budgets == std::vector<index_t>{24, 12, 4});
  const auto all = plan_chunks(uneven, 100, 2, 1000);
  REQUIRE(all);
  CHECK(all->budgets == std::vector<index_t>{120, 60, 20});
}

TEST_CASE("§9.14 no budget is exceeded, no chunk goes without and no text is lost, at random",
          "[cache][chunks]") {
  kvfit::random_source random(7);
  int merged = 0;
  int refused = 0;
  for (int run = 0; run < 2000; ++run) {
    const index_t rows = draw(random, 1, 60);
    const auto chunks = random_chunks(random, rows);
    if (chunks.empty()) continue;
    const index_t heads = draw(random, 1, 4);
    const index_t at_least = draw(random, 1, 3);
    const index_t budget = draw(random, 1, heads * rows + 3);
    CAPTURE(run, rows, heads, at_least, budget, chunks.size());
    const auto is_in = covered(chunks, rows);
    const index_t outside = std::count(is_in.begin(), is_in.end(), false);
    const auto plan = plan_chunks(chunks, rows, heads, budget, at_least);
    if (!plan) {
      ++refused;
      REQUIRE(plan.error().code == errc::budget_out_of_range);
      // Not even with one chunk a stretch.
      CHECK(budget < heads * (outside + stretches(chunks) * std::min(at_least, rows)));
      // What is said to be enough is enough.
      CHECK(plan_chunks(chunks, rows, heads, plan.error().expected, at_least));
      continue;
    }
    CHECK(plan->kept == outside);
    CHECK(covered(plan->chunks, rows) == is_in);
    CHECK(sum_of(plan->budgets) == std::min(budget, heads * rows) - heads * outside);
    REQUIRE(plan->budgets.size() == plan->chunks.size());
    double largest_gap = 0;
    index_t shortest = rows;
    const double ratio = static_cast<double>(sum_of(plan->budgets)) /
                         static_cast<double>(std::max<index_t>(rows - outside, 1));
    for (std::size_t c = 0; c < plan->chunks.size(); ++c) {
      const index_t own = plan->chunks[c].rows;
      shortest = std::min(shortest, own);
      CHECK(plan->budgets[c] >= heads * std::min(at_least, own));
      CHECK(plan->budgets[c] <= heads * own);
      largest_gap = std::max(largest_gap, std::abs(static_cast<double>(plan->budgets[c]) -
                                                   ratio * static_cast<double>(own)));
    }
    if (plan->chunks.size() < chunks.size()) {
      ++merged;
    } else {
      CHECK(plan->chunks == chunks);
    }
    const bool is_free = ratio * static_cast<double>(shortest) >= static_cast<double>(heads);
    if (at_least == 1 && is_free) CHECK(largest_gap <= 1);
  }
  CHECK(merged > 50);
  CHECK(refused > 50);
}

TEST_CASE("§9.14 more chunks than rows to keep become fewer, of nearly equal counts",
          "[cache][chunks]") {
  const auto chunks = kvfit::split_by_length({2, 100}, 1);
  const auto plan = plan_chunks(*chunks, 103, 1, 3 + 7);
  REQUIRE(plan);
  REQUIRE(plan->chunks.size() == 7);
  CHECK(plan->budgets == std::vector<index_t>(7, 1));
  for (const chunk& one : plan->chunks) CHECK((one.rows == 14 || one.rows == 15));
  CHECK(plan->chunks.front().first == 2);
  CHECK(plan->chunks.back().first + plan->chunks.back().rows == 102);
}

TEST_CASE("§9.36 a million rows in thousands of chunks keep one row a head", "[cache][chunks]") {
  const auto chunks = kvfit::split_by_length({0, 1000000}, 128);
  const auto plan = plan_chunks(*chunks, 1000000, 8, 8);
  REQUIRE(plan);
  CHECK(plan->chunks == std::vector<chunk>{{0, 1000000}});
  CHECK(plan->budgets == std::vector<index_t>{8});
  const auto more = plan_chunks(*chunks, 1000000, 8, 8 * 1000);
  REQUIRE(more);
  CHECK(more->chunks.size() == 1000);
}

TEST_CASE("plans that make no sense are refused", "[cache][chunks]") {
  const auto cause = [](const std::vector<chunk>& chunks, index_t rows, index_t heads,
                        index_t budget, index_t at_least = 1) {
    const auto plan = plan_chunks(chunks, rows, heads, budget, at_least);
    REQUIRE_FALSE(plan);
    return plan.error();
  };
  CHECK(cause({}, 10, 1, 5).code == errc::empty_input);
  CHECK(cause({{0, 5}, {4, 3}}, 10, 1, 5).code == errc::invalid_position);
  CHECK(cause({{4, 3}, {0, 2}}, 10, 1, 5).code == errc::invalid_position);
  CHECK(cause({{0, 11}}, 10, 1, 5).actual == 11);
  CHECK(cause({{0, 0}}, 10, 1, 5).code == errc::invalid_option);
  CHECK(cause({{5, std::numeric_limits<index_t>::max()}}, 10, 1, 5).code == errc::invalid_option);
  CHECK(cause({{0, 5}}, 0, 1, 5).argument == "rows");
  CHECK(cause({{0, 5}}, 10, 0, 5).argument == "heads");
  CHECK(cause({{0, 5}}, 10, index_t{1} << 60U, 5).argument == "heads");
  CHECK(cause({{0, 5}}, 10, 1, 0).argument == "budget");
  CHECK(cause({{0, 5}}, 10, 1, 5, 0).argument == "at_least");
  const auto few = cause({{0, 5}}, 10, 1, 5);  // the five rows behind the chunk need them all
  CHECK(few.code == errc::budget_out_of_range);
  std::vector<chunk> many;  // so many stretches that their least of rows exceeds 63 bits
  for (index_t c = 0; c < 1100; ++c) many.push_back({2 * c, 1});
  const index_t rows = index_t{1} << 53U;
  CHECK(cause(many, rows, 1, 5, rows).expected == rows);
  CHECK(few.actual == 5);
  CHECK(few.expected == 6);
}

}  // namespace kvfit_test
