// SPDX-License-Identifier: MIT
#include "kvfit/compact/check.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::errc;
using kvfit::error;

namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

/// A sound call over T = 12, d = 4, d_v = 3, n = 8, of which a case breaks one thing.
struct call {
  call() {
    cache = made.cache();
    queries = {kvfit::row_view(made.queries)};
  }
  [[nodiscard]] error refused() const {
    const auto fitted = try_compact(cache, std::span<const kvfit::query_block>(queries), options);
    REQUIRE_FALSE(fitted);
    INFO(fitted.error().message());
    return fitted.error();
  }

  head made = make_head(1, {.queries = 8, .keys = 12, .depth = 4, .width = 3});
  std::vector<float> bias = std::vector<float>(12, 0.0F);
  kvfit::matrix mask = kvfit::matrix::Zero(8, 12);
  std::vector<kvfit::row_view> masks;
  kvfit::kv_block cache;
  std::vector<kvfit::query_block> queries;
  compact_options options{.budget = 5};
};

void check(const error& found, errc code, const std::string& argument,
           std::int64_t actual = error::none, std::int64_t expected = error::none) {
  INFO(found.message());
  CHECK(found.code == code);
  CHECK(found.argument == argument);
  CHECK(found.actual == actual);
  CHECK(found.expected == expected);
}

}  // namespace

TEST_CASE("the call that the cases below break is sound", "[compact][refusal]") {
  const call sound;
  CHECK(
      try_compact(sound.cache, std::span<const kvfit::query_block>(sound.queries), sound.options));
}

TEST_CASE("sizes that do not fit together are refused with both of them", "[compact][refusal]") {
  call c;
  SECTION("values have other rows than keys") {
    c.cache.values = c.cache.values.middle_rows(0, 11);
    check(c.refused(), errc::shape_mismatch, "values", 11, 12);
  }
  SECTION("queries have other columns than keys") {
    c.queries[0].rows = c.queries[0].rows.middle_cols(0, 3);
    check(c.refused(), errc::shape_mismatch, "queries", 3, 4);
  }
  SECTION("the second query block too, which is named") {
    c.queries.emplace_back(c.queries[0].rows.middle_cols(0, 2));
    check(c.refused(), errc::shape_mismatch, "queries", 2, 4);
    CHECK(c.refused().detail == "columns must equal the keys'; query block 1");
  }
  SECTION("bias is not one number a key") {
    c.bias.pop_back();
    c.cache.bias = c.bias;
    check(c.refused(), errc::shape_mismatch, "bias", 11, 12);
  }
  SECTION("positions are not one number a key") {
    const std::vector<kvfit::index_t> positions(13, 0);
    c.cache.positions = positions;
    check(c.refused(), errc::shape_mismatch, "positions", 13, 12);
  }
  SECTION("masks are not one a query block") {
    c.masks = {c.mask, c.mask};
    c.cache.masks = c.masks;
    check(c.refused(), errc::shape_mismatch, "masks", 2, 1);
  }
  SECTION("a mask has other rows than queries") {
    c.masks = {kvfit::row_view(c.mask).middle_rows(0, 7)};
    c.cache.masks = c.masks;
    check(c.refused(), errc::shape_mismatch, "masks", 7, 8);
  }
  SECTION("a mask has other columns than keys") {
    c.masks = {kvfit::row_view(c.mask).middle_cols(0, 10)};
    c.cache.masks = c.masks;
    check(c.refused(), errc::shape_mismatch, "masks", 10, 12);
  }
}

TEST_CASE("§9.27 nothing to compact, or no memory behind it, is refused", "[compact][refusal]") {
  call c;
  SECTION("no keys") {
    c.cache.keys = c.cache.keys.middle_rows(0, 0);
    check(c.refused(), errc::empty_input, "keys", 0);
  }
  SECTION("keys without columns") {
    c.cache.keys = c.cache.keys.middle_cols(0, 0);
    check(c.refused(), errc::empty_input, "keys", 12);
  }
  SECTION("no values") {
    c.cache.values = c.cache.values.middle_rows(0, 0);
    check(c.refused(), errc::empty_input, "values", 0);
  }
  SECTION("no queries") {
    c.queries[0].rows = c.queries[0].rows.middle_rows(0, 0);
    check(c.refused(), errc::empty_input, "queries", 0);
  }
  SECTION("no query blocks") {
    c.queries.clear();
    check(c.refused(), errc::empty_input, "queries", 0);
  }
  SECTION("null keys") {
    c.cache.keys = kvfit::row_view(static_cast<const float*>(nullptr), 12, 4);
    check(c.refused(), errc::null_data, "keys");
  }
  SECTION("null values") {
    c.cache.values = kvfit::row_view(static_cast<const float*>(nullptr), 12, 3);
    check(c.refused(), errc::null_data, "values");
  }
  SECTION("null queries") {
    c.queries[0].rows = kvfit::row_view(static_cast<const float*>(nullptr), 8, 4);
    check(c.refused(), errc::null_data, "queries");
  }
  SECTION("null mask") {
    c.masks = {kvfit::row_view(static_cast<const float*>(nullptr), 8, 12)};
    c.cache.masks = c.masks;
    check(c.refused(), errc::null_data, "masks");
  }
}

TEST_CASE("§9.10 NaN and infinity are found, with their place", "[compact][refusal]") {
  const float bad = std::array{std::numeric_limits<float>::quiet_NaN(), infinite,
                               -infinite}[GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{2})];
  const kvfit::index_t budget =
      GENERATE(kvfit::index_t{5}, kvfit::index_t{12});  // the identity too
  INFO("number " << bad << ", budget " << budget);
  call c;
  c.options.budget = budget;
  SECTION("keys") {
    c.made.keys(7, 2) = bad;
    check(c.refused(), errc::non_finite, "keys", 7, 2);
  }
  SECTION("values") {
    c.made.values(11, 0) = bad;
    check(c.refused(), errc::non_finite, "values", 11, 0);
  }
  SECTION("queries") {
    c.made.queries(3, 3) = bad;
    check(c.refused(), errc::non_finite, "queries", 3, 3);
  }
  SECTION("bias, where -infinity hides") {
    c.bias[6] = bad;
    c.cache.bias = c.bias;
    if (bad == -infinite) {
      CHECK(try_compact(c.cache, std::span<const kvfit::query_block>(c.queries), c.options));
    } else {
      check(c.refused(), errc::non_finite, "bias", 6, 0);
    }
  }
  SECTION("masks, where -infinity hides") {
    c.mask(4, 9) = bad;
    c.masks = {c.mask};
    c.cache.masks = c.masks;
    if (bad == -infinite) {
      CHECK(try_compact(c.cache, std::span<const kvfit::query_block>(c.queries), c.options));
    } else {
      check(c.refused(), errc::non_finite, "masks", 4, 9);
    }
  }
}

TEST_CASE("a product of finite numbers that overflows is refused, not passed on",
          "[compact][refusal]") {
  call c;
  c.made.keys.row(2).setConstant(2e30F);
  c.made.queries.row(6).setConstant(2e30F);
  const error found = c.refused();
  CHECK(found.code == errc::non_finite);
  CHECK(found.argument == "logits");
}

TEST_CASE("budgets that can't be met are refused with what would do", "[compact][refusal]") {
  call c;
  SECTION("none") {
    c.options.budget = 0;
    check(c.refused(), errc::budget_out_of_range, "budget", 0, 1);
  }
  SECTION("negative") {
    c.options.budget = -3;
    check(c.refused(), errc::budget_out_of_range, "budget", -3, 1);
  }
  SECTION("forgotten") {
    c.options = compact_options{};
    check(c.refused(), errc::budget_out_of_range, "budget", 0, 1);
  }
  SECTION("used up by protected rows") {
    c.options.protect.first = 3;
    c.options.protect.last = 2;
    check(c.refused(), errc::budget_out_of_range, "budget", 5, 6);
    c.options.budget = 6;
    CHECK(try_compact(c.cache, std::span<const kvfit::query_block>(c.queries), c.options));
  }
  SECTION("everything protected, sums that would overflow") {
    c.options.protect.first = std::numeric_limits<kvfit::index_t>::max();
    c.options.protect.last = std::numeric_limits<kvfit::index_t>::max();
    check(c.refused(), errc::budget_out_of_range, "budget", 5, 12);
  }
  SECTION("protected rows touch") {
    c.options.protect.first = 10;
    c.options.protect.last = 2;
    c.options.budget = 11;
    check(c.refused(), errc::budget_out_of_range, "budget", 11, 12);
  }
}

TEST_CASE("options outside their ranges are refused by name, whatever the budget",
          "[compact][refusal]") {
  call c;
  SECTION("queries.held_out") {
    for (const double share : {-0.01, 0.51, std::numeric_limits<double>::quiet_NaN()}) {
      c.options.queries.held_out = share;
      check(c.refused(), errc::invalid_option, "queries.held_out");
    }
  }
  SECTION("protect.first") {
    c.options.protect.first = -1;
    check(c.refused(), errc::invalid_option, "protect.first", -1, 0);
  }
  SECTION("protect.last") {
    c.options.protect.last = -4;
    check(c.refused(), errc::invalid_option, "protect.last", -4, 0);
  }
  SECTION("memory.selection") {
    c.options.memory.selection = -1;
    check(c.refused(), errc::invalid_option, "memory.selection", -1, 0);
  }
  SECTION("scale") {
    c.options.rule.scale = infinite;
    check(c.refused(), errc::invalid_option, "rule.scale");
  }
  SECTION("soft cap") {
    c.options.rule.soft_cap = -1;
    check(c.refused(), errc::invalid_option, "rule.soft_cap");
  }
  SECTION("window") {
    c.options.rule.window = -2;
    check(c.refused(), errc::invalid_option, "rule.window", -2, 0);
  }
  SECTION("a measure of importance that is none") {
    c.options.selection =
        kvfit::selection::highest_attention{.importance = kvfit::importance_kind::none};
    check(c.refused(), errc::invalid_option, "importance");
  }
  SECTION("pooling of an even width") {
    c.options.selection = kvfit::selection::highest_attention{.pooling_width = 6};
    check(c.refused(), errc::invalid_option, "pooling_width", 6);
  }
  SECTION("a negative observation window") {
    c.options.selection = kvfit::selection::highest_attention{.window = -1};
    check(c.refused(), errc::invalid_option, "window", -1, 0);
  }
  SECTION("a share of attention below 0") {
    c.options.selection = kvfit::selection::expected_attention{.epsilon = -0.5};
    check(c.refused(), errc::invalid_option, "expected_attention.epsilon");
  }
  SECTION("expected attention under a soft cap") {
    c.options.selection = kvfit::selection::expected_attention{};
    c.options.rule.soft_cap = 30;
    check(c.refused(), errc::invalid_option, "rule.soft_cap");
  }
  SECTION("the selection's own") {
    c.options.budget = GENERATE(kvfit::index_t{5}, kvfit::index_t{12});  // the identity too
    c.options.selection = kvfit::selection::omp{.keys_per_round = 0};
    check(c.refused(), errc::invalid_option, "omp.keys_per_round", 0, 1);
  }
  SECTION("the bias's own") {
    c.options.budget = GENERATE(kvfit::index_t{5}, kvfit::index_t{12});
    c.options.bias = kvfit::bias::nnls{.lower = 0};
    check(c.refused(), errc::invalid_option, "nnls.lower");
  }
  SECTION("the values' own") {
    c.options.budget = GENERATE(kvfit::index_t{5}, kvfit::index_t{12});
    c.options.values = kvfit::values::least_squares{.ridge = -1};
    check(c.refused(), errc::invalid_option, "least_squares.ridge");
  }
  SECTION("weights of a selection that fits none") {
    c.options.selection = kvfit::selection::first{};
    c.options.bias = kvfit::bias::from_selection{};
    check(c.refused(), errc::invalid_option, "bias::from_selection", 0, 5);
  }
  SECTION("given rows that do not exist") {
    c.options.selection = kvfit::selection::given{{0, 1, 2, 3, 12}};
    check(c.refused(), errc::invalid_position, "positions", 12, 12);
  }
}

TEST_CASE("§9.1 a head that nobody may look at is refused", "[compact][refusal]") {
  call c;
  c.options.queries.held_out = 0;
  SECTION("all rows hidden by their bias") {
    c.bias.assign(12, hidden_key);
    c.cache.bias = c.bias;
    check(c.refused(), errc::all_masked, "bias", 0, 8);
  }
  SECTION("the same at full budget") {
    c.bias.assign(12, hidden_key);
    c.cache.bias = c.bias;
    c.options.budget = 12;
    check(c.refused(), errc::all_masked, "bias", 0, 8);
  }
  SECTION("all queries masked") {
    c.mask.setConstant(hidden_key);
    c.masks = {c.mask};
    c.cache.masks = c.masks;
    check(c.refused(), errc::all_masked, "queries", 0, 8);
  }
  SECTION("all keys after the queries") {
    c.options.rule.causal = true;
    c.cache.first_position = 100;
    check(c.refused(), errc::all_masked, "queries", 0, 8);
  }
}

TEST_CASE("§9.22 numbers that the storage type can't hold are refused, with their place",
          "[compact][refusal][storage]") {
  call c;
  c.options.storage.rows = kvfit::dtype::fp16;
  c.options.budget = GENERATE(kvfit::index_t{5}, kvfit::index_t{12});
  SECTION("a key") {
    // Row 1 is kept by name (or with all the others) and is the second row of the result.
    if (c.options.budget == 5) c.options.selection = kvfit::selection::given{{0, 1, 4, 5, 9}};
    c.made.keys(1, 3) = 70000;
    c.made.queries.col(3).setZero();
    check(c.refused(), errc::storage_overflow, "keys", 1, 3);
    c.options.storage.rows = kvfit::dtype::bf16;
    CHECK(try_compact(c.cache, std::span<const kvfit::query_block>(c.queries), c.options));
  }
  SECTION("a value") {
    if (c.options.budget == 5) c.options.selection = kvfit::selection::given{{0, 1, 4, 5, 9}};
    c.options.values = kvfit::values::copy{};
    c.made.values(4, 2) = -65520;  // the first number that rounds to infinity
    check(c.refused(), errc::storage_overflow, "values", c.options.budget == 5 ? 2 : 4, 2);
    c.made.values(4, 2) = -65519;
    CHECK(try_compact(c.cache, std::span<const kvfit::query_block>(c.queries), c.options));
  }
  SECTION("a bias") {
    c.bias[2] = 66000;
    c.bias[3] = 66000;
    c.cache.bias = c.bias;
    c.options.storage.rows = kvfit::dtype::fp32;
    c.options.storage.bias = kvfit::dtype::fp16;
    if (c.options.budget == 5) c.options.selection = kvfit::selection::given{{0, 1, 2, 3, 9}};
    check(c.refused(), errc::storage_overflow, "bias", 2, 0);
  }
}

TEST_CASE("§9.17 the place of an overflow counts protected rows", "[compact][refusal][protect]") {
  call c;
  c.options.storage.rows = kvfit::dtype::fp16;
  c.options.budget = 8;
  c.options.protect.first = 2;
  c.options.protect.last = 3;
  c.options.selection = kvfit::selection::given{{3, 5, 8}};
  SECTION("in the fitted part") {
    c.made.keys(5, 1) = 70000;
    c.made.queries.col(1).setZero();
    check(c.refused(), errc::storage_overflow, "keys", 3, 1);
  }
  SECTION("in the protected rows at the end") {
    c.made.values(11, 2) = 70000;
    check(c.refused(), errc::storage_overflow, "values", 7, 2);
  }
  SECTION("given rows that are protected already") {
    c.options.selection = kvfit::selection::given{{1, 3, 5}};
    check(c.refused(), errc::invalid_position, "positions", 1, 9);
    c.options.selection = kvfit::selection::given{{3, 5, 9}};
    check(c.refused(), errc::invalid_position, "positions", 9, 9);
  }
}

TEST_CASE("§9.22 fitted values that fp16 can't hold are refused", "[compact][refusal][storage]") {
  // One kept row must stand in for a row of value 60000 whose mass is several times its own.
  call c;
  c.options.budget = 1;
  c.options.selection = kvfit::selection::given{{0}};
  c.options.storage.rows = kvfit::dtype::fp16;
  c.options.queries.held_out = 0;
  c.made.values.setConstant(64000);
  c.made.values.row(0).setConstant(1);
  CHECK(try_compact(c.cache, std::span<const kvfit::query_block>(c.queries), c.options));
  c.made.values.setConstant(90000);
  c.made.values.row(0).setConstant(1);
  const error found = c.refused();
  check(found, errc::storage_overflow, "values", 0, 0);
}
