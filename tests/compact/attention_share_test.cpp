// SPDX-License-Identifier: MIT
// Rows chosen by attention beside those chosen jointly.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/compact/progressive.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;
using kvfit::selection::joint;

namespace {

constexpr head_shape share_shape{.queries = 320, .keys = 96, .depth = 16, .width = 12};

compact_options shared(index_t budget, const joint& rows) {
  compact_options options{.budget = budget};
  options.selection = rows;
  return options;
}

bool has_row(const compacted& of, index_t row) {
  return std::binary_search(of.positions.begin(), of.positions.end(), row);
}

/// Rows of the result that are those of the cache to the bit, with a bias of 0.
index_t unchanged_rows(const compacted& of, const kvfit::kv_block& cache) {
  index_t count = 0;
  for (std::size_t j = 0; j < of.positions.size(); ++j) {
    const auto at = static_cast<index_t>(j);
    bool is_same = of.bias[at] == 0.0F;
    for (index_t k = 0; k < of.keys.cols(); ++k) {
      is_same = is_same && of.keys(at, k) == cache.keys(of.positions[j], k);
    }
    for (index_t k = 0; k < of.values.cols(); ++k) {
      is_same = is_same && of.values(at, k) == cache.values(of.positions[j], k);
    }
    count += is_same ? 1 : 0;
  }
  return count;
}

}  // namespace

TEST_CASE("a row that one held-out query alone looks at is kept by its attention",
          "[compact][attention_share]") {
  head made = make_head(3, share_shape);
  // Every 16th query is held out; this one alone asks for row 50, and for nothing else.
  made.keys.row(50) = 4.0F * made.queries.row(15);
  for (index_t i = 0; i < made.queries.rows(); ++i) {
    if (i == 15) continue;
    const float along =
        made.queries.row(i).dot(made.keys.row(50)) / made.keys.row(50).squaredNorm();
    made.queries.row(i) -= (along + 0.3F) * made.keys.row(50);
  }
  for (const double share : {0.75, 1.0}) {
    const compacted kept =
        compacted_head(made.cache(), made.queries, shared(24, {.attention_share = share}));
    CHECK(has_row(kept, 50));
  }
  compact_options ranked{.budget = 24};
  ranked.selection = kvfit::selection::highest_attention{};
  CHECK(has_row(compacted_head(made.cache(), made.queries, ranked), 50));
  // By attention alone of the queries fitted on it would not be.
  ranked.selection = kvfit::selection::highest_attention{.window = 1000000};
  CHECK_FALSE(has_row(compacted_head(made.cache(), made.queries, ranked), 50));
}

TEST_CASE("budgets of one and two rows, and any share of them, are sound",
          "[compact][attention_share]") {
  const head made = make_head(7, share_shape);
  for (const index_t budget : {1, 2}) {
    for (const double share : {0.0, 0.5, 0.75, 1.0}) {
      const compacted kept =
          compacted_head(made.cache(), made.queries, shared(budget, {.attention_share = share}));
      check_sound(kept, made.cache(), budget);
    }
  }
}

TEST_CASE("a share by attention beside protected rows, at any number of threads",
          "[compact][attention_share][threads]") {
  const head made = make_head(8, share_shape);
  const kvfit::kv_block cache = made.cache();
  auto options = shared(30, {.attention_share = 0.75});
  options.protect = {.first = 2, .last = 3, .rows = {40, 41}};
  const compacted alone = compacted_head(cache, made.queries, options);
  check_sound(alone, cache, 30);
  for (const index_t row : {0, 1, 40, 41, 93, 94, 95}) CHECK(has_row(alone, row));
  CHECK(unchanged_rows(alone, cache) >= 7);
  for (const int threads : {2, 5}) {
    kvfit::thread_pool pool(threads);
    const auto more = try_compact(cache, made.queries, options, {}, pool);
    REQUIRE(more);
    CHECK(same_result(*more, alone));
  }
}

TEST_CASE("smaller budgets of one selection keep its share by attention",
          "[compact][attention_share][progressive]") {
  const head made = make_head(10, share_shape);
  const auto options = shared(1, {.attention_share = 0.5});
  const std::vector<index_t> budgets = {40, 20};
  const auto all = kvfit::compact_progressive(made.cache(), made.queries, options, budgets);
  REQUIRE(all);
  compact_options most{.budget = 10};
  most.selection = kvfit::selection::highest_attention{};
  most.replace_dead_keys = false;
  for (const index_t row : compacted_head(made.cache(), made.queries, most).positions) {
    CHECK(has_row(all->at(1), row));
  }
  most.budget = 20;
  index_t shared_rows = 0;
  for (const index_t row : compacted_head(made.cache(), made.queries, most).positions) {
    shared_rows += has_row(all->at(1), row) ? 1 : 0;
  }
  CHECK(shared_rows < 20);
}

TEST_CASE("a prior is one factor for each row of the cache, and holds for slots given away, too",
          "[compact][attention_share][prior]") {
  const head made = make_head(12, share_shape);
  auto options = shared(24, {.attention_share = 0.5});
  auto& rows = *options.selection.get_if<joint>();
  rows.prior.assign(95, 1.0F);
  for (const std::size_t length : {95, 97}) {
    rows.prior.assign(length, 1.0F);
    const auto refused = try_compact(made.cache(), made.queries, options);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == kvfit::errc::shape_mismatch);
    CHECK(refused.error().argument == "joint.prior");
    CHECK(refused.error().expected == 96);
  }
  rows.prior.assign(96, 1.0F);
  const compacted without = compacted_head(made.cache(), made.queries, options);
  for (const index_t row : without.positions) rows.prior[static_cast<std::size_t>(row)] = 0;
  options.protect.first = 2;
  const compacted others = compacted_head(made.cache(), made.queries, options);
  check_sound(others, made.cache(), 24);
  for (const index_t row : without.positions) {
    if (row > 1) CHECK_FALSE(has_row(others, row));
  }
}

TEST_CASE("a row of factor 0 comes behind rows that no query sees",
          "[compact][attention_share][prior]") {
  const head made = make_head(14, share_shape);
  kvfit::matrix mask = kvfit::matrix::Zero(320, 96);
  mask.leftCols(60).setConstant(-std::numeric_limits<float>::infinity());
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  std::vector<float> prior(96, 1.0F);
  std::fill_n(prior.begin(), 10, 0.0F);
  for (const double share : {0.0, 0.5, 0.75, 1.0}) {
    CAPTURE(share);
    // 36 rows are seen; 14 of the 50 that are neither seen nor forbidden fill the rest.
    const compacted kept =
        compacted_head(cache, made.queries, shared(50, {.attention_share = share, .prior = prior}));
    CHECK(kept.positions.size() == 50);
    for (index_t row = 0; row < 10; ++row) CHECK_FALSE(has_row(kept, row));
    // All others are kept before them.
    const compacted more =
        compacted_head(cache, made.queries, shared(88, {.attention_share = share, .prior = prior}));
    for (index_t row = 10; row < 96; ++row) CHECK(has_row(more, row));
  }
}
