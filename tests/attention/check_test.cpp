// SPDX-License-Identifier: MIT
// Everything attention refuses, with the sizes and places at fault.
#include "kvfit/attention/check.hpp"

#include <functional>

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::error;
using kvfit::kv_block;
using kvfit::logit_rule;
using kvfit::query_block;
using kvfit::row_view;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float inf = std::numeric_limits<float>::infinity();

/// Sound inputs: 12 keys of 4, values of 6, query blocks of 5 and 3 rows.
struct inputs {
  inputs() {
    blocks = {row_view(head.queries).middle_rows(0, 5), row_view(head.queries).middle_rows(5, 3)};
    masks = {first_mask, second_mask};
    positions.resize(12);
    cache = {.keys = head.keys,
             .values = head.values,
             .bias = bias,
             .positions = positions,
             .masks = masks};
  }
  inputs(const inputs&) = delete;
  inputs& operator=(const inputs&) = delete;
  [[nodiscard]] std::span<const query_block> queries() const { return blocks; }

  sample head{8, 12, 4, 6};
  std::vector<float> bias = std::vector<float>(12, 0.5F);
  std::vector<index_t> positions;
  kvfit::matrix first_mask = kvfit::matrix::Zero(5, 12);
  kvfit::matrix second_mask = kvfit::matrix::Zero(3, 12);
  std::vector<row_view> masks;
  std::vector<query_block> blocks;
  kv_block cache;
  logit_rule rule;
};

struct wrong {
  const char* what;
  std::function<void(inputs&)> spoil;
  error expected;
};

std::vector<wrong> wrong_inputs() {
  return {
      {"no keys",
       [](inputs& x) { x.cache.keys = row_view(x.head.keys).middle_rows(0, 0); },
       {errc::empty_input, "keys", 0}},
      {"keys without columns",
       [](inputs& x) { x.cache.keys = row_view(x.head.keys.data(), 12, 0); },
       {errc::empty_input, "keys", 12}},
      {"keys without memory",
       [](inputs& x) { x.cache.keys = row_view(static_cast<const float*>(nullptr), 12, 4); },
       {errc::null_data, "keys"}},
      {"NaN in the keys",
       [](inputs& x) { x.head.keys(11, 3) = not_a_number; },
       {errc::non_finite, "keys", 11, 3}},
      {"infinity in the keys",
       [](inputs& x) { x.head.keys(0, 2) = inf; },
       {errc::non_finite, "keys", 0, 2}},
      {"-infinity in the keys",
       [](inputs& x) { x.head.keys(7, 0) = -inf; },
       {errc::non_finite, "keys", 7, 0}},
      {"no values", [](inputs& x) { x.cache.values = {}; }, {errc::empty_input, "values", 0}},
      {"values without memory",
       [](inputs& x) { x.cache.values = row_view(static_cast<const float*>(nullptr), 12, 6); },
       {errc::null_data, "values"}},
      {"NaN in the values",
       [](inputs& x) { x.head.values(10, 5) = not_a_number; },
       {errc::non_finite, "values", 10, 5}},
      {"infinity in the values",
       [](inputs& x) { x.head.values(1, 1) = -inf; },
       {errc::non_finite, "values", 1, 1}},
      {"fewer values than keys",
       [](inputs& x) { x.cache.values = row_view(x.head.values).middle_rows(0, 11); },
       {errc::shape_mismatch, "values", 11, 12}},
      {"fewer keys than values",
       [](inputs& x) { x.cache.keys = row_view(x.head.keys).middle_rows(0, 11); },
       {errc::shape_mismatch, "values", 12, 11}},
      {"a position too few",
       [](inputs& x) { x.cache.positions = x.cache.positions.first(11); },
       {errc::shape_mismatch, "positions", 11, 12}},
      {"a bias too short",
       [](inputs& x) { x.cache.bias = x.cache.bias.first(3); },
       {errc::shape_mismatch, "bias", 3, 12}},
      {"a bias too long",
       [](inputs& x) {
         x.bias.resize(13);
         x.cache.bias = x.bias;
       },
       {errc::shape_mismatch, "bias", 13, 12}},
      {"NaN in the bias",
       [](inputs& x) { x.bias[9] = not_a_number; },
       {errc::non_finite, "bias", 9, 0}},
      {"+infinity in the bias",
       [](inputs& x) { x.bias[11] = inf; },
       {errc::non_finite, "bias", 11, 0}},
      {"a mask too few",
       [](inputs& x) {
         x.masks.resize(1);
         x.cache.masks = x.masks;
       },
       {errc::shape_mismatch, "masks", 1, 2}},
      {"a mask with too few rows",
       [](inputs& x) { x.masks[1] = row_view(x.second_mask).middle_rows(0, 2); },
       {errc::shape_mismatch, "masks", 2, 3}},
      {"a mask with too few columns",
       [](inputs& x) { x.masks[0] = row_view(x.first_mask).middle_cols(0, 10); },
       {errc::shape_mismatch, "masks", 10, 12}},
      {"a mask without memory",
       [](inputs& x) { x.masks[0] = row_view(static_cast<const float*>(nullptr), 5, 12); },
       {errc::null_data, "masks"}},
      {"NaN in a mask",
       [](inputs& x) { x.second_mask(2, 7) = not_a_number; },
       {errc::non_finite, "masks", 2, 7}},
      {"+infinity in a mask",
       [](inputs& x) { x.first_mask(4, 11) = inf; },
       {errc::non_finite, "masks", 4, 11}},
      {"queries without columns",
       [](inputs& x) { x.blocks[1].rows = row_view(x.head.queries.data(), 3, 0); },
       {errc::empty_input, "queries", 3}},
      {"queries without memory",
       [](inputs& x) { x.blocks[0].rows = row_view(static_cast<const float*>(nullptr), 5, 4); },
       {errc::null_data, "queries"}},
      {"NaN in the queries",
       [](inputs& x) { x.head.queries(3, 1) = not_a_number; },
       {errc::non_finite, "queries", 3, 1}},
      {"infinity in the second query block",
       [](inputs& x) { x.head.queries(6, 0) = inf; },
       {errc::non_finite, "queries", 1, 0}},
      {"narrow queries",
       [](inputs& x) { x.blocks[0].rows = row_view(x.head.queries.data(), 5, 3, 4); },
       {errc::shape_mismatch, "queries", 3, 4}},
      {"an infinite ALiBi slope",
       [](inputs& x) { x.blocks[1].alibi_slope = inf; },
       {errc::invalid_option, "queries.alibi_slope"}},
      {"a NaN sink",
       [](inputs& x) { x.blocks[0].sink_logit = not_a_number; },
       {errc::invalid_option, "queries.sink_logit"}},
      {"an infinite sink",
       [](inputs& x) { x.blocks[1].sink_logit = inf; },
       {errc::invalid_option, "queries.sink_logit"}},
      {"a NaN scale",
       [](inputs& x) { x.rule.scale = not_a_number; },
       {errc::invalid_option, "rule.scale"}},
      {"an infinite scale",
       [](inputs& x) { x.rule.scale = -inf; },
       {errc::invalid_option, "rule.scale"}},
      {"a negative soft cap",
       [](inputs& x) { x.rule.soft_cap = -1; },
       {errc::invalid_option, "rule.soft_cap"}},
      {"a NaN soft cap",
       [](inputs& x) { x.rule.soft_cap = not_a_number; },
       {errc::invalid_option, "rule.soft_cap"}},
      {"an infinite soft cap",
       [](inputs& x) { x.rule.soft_cap = inf; },
       {errc::invalid_option, "rule.soft_cap"}},
      {"a negative window",
       [](inputs& x) { x.rule.window = -3; },
       {errc::invalid_option, "rule.window", -3, 0}},
  };
}

void check_error(const error& found, const error& expected) {
  INFO("found: " << found.message());
  INFO("expected: " << expected.message());
  CHECK(found.code == expected.code);
  CHECK(found.argument == expected.argument);
  CHECK(found.actual == expected.actual);
  CHECK(found.expected == expected.expected);
}

}  // namespace

TEST_CASE("Sound inputs pass every check", "[attention][check]") {
  inputs x;
  x.bias[2] = -inf;
  x.first_mask(0, 0) = -inf;
  x.blocks[0].sink_logit = -inf;
  x.rule = {.scale = 0.0F, .soft_cap = 1, .causal = true, .window = 3};
  CHECK(kvfit::check_rule(x.rule));
  CHECK(kvfit::check_cache(x.cache, x.queries()));
  CHECK(kvfit::check_queries(x.queries(), 4));
  CHECK(kvfit::attend(x.queries(), {x.cache}, x.rule));
  CHECK(kvfit::score_pass(x.cache, x.queries(), x.rule));
}

TEST_CASE("§9.10 unsound inputs are refused with the sizes and places at fault",
          "[attention][check]") {
  for (const wrong& input : wrong_inputs()) {
    DYNAMIC_SECTION(input.what) {
      inputs x;
      input.spoil(x);
      const auto y = kvfit::attend(x.queries(), {x.cache}, x.rule);
      const auto scores = kvfit::score_pass(x.cache, x.queries(), x.rule);
      REQUIRE_FALSE(y);
      REQUIRE_FALSE(scores);
      check_error(y.error(), input.expected);
      check_error(scores.error(), input.expected);
    }
  }
}

TEST_CASE("§9.10 one of the checks finds what attend and the score pass refuse",
          "[attention][check]") {
  for (const wrong& input : wrong_inputs()) {
    DYNAMIC_SECTION(input.what) {
      inputs x;
      input.spoil(x);
      std::vector<error> causes;
      if (const auto ok = kvfit::check_rule(x.rule); !ok) causes.push_back(ok.error());
      if (const auto ok = kvfit::check_cache(x.cache, x.queries()); !ok)
        causes.push_back(ok.error());
      if (const auto ok = kvfit::check_queries(x.queries(), 4); !ok) causes.push_back(ok.error());
      REQUIRE(causes.size() == 1);
      check_error(causes[0], input.expected);
    }
  }
}

TEST_CASE("§9.10 a bad number is found wherever it stands", "[attention][check]") {
  const auto at = GENERATE(as<index_t>{}, 0, 1, 255, 256, 257, 511, 512, 599);
  const auto bad = GENERATE(as<float>{}, not_a_number, inf, -inf);
  CAPTURE(at, bad);
  sample head(2, 3, 600, 4);
  head.keys(1, at) = bad;
  const auto scores = kvfit::score_pass(head.cache(), head.queries);
  REQUIRE_FALSE(scores);
  check_error(scores.error(), {errc::non_finite, "keys", 1, at});
}

TEST_CASE("§9.27 no queries and no blocks are refused", "[attention][check]") {
  const sample head(4, 12, 4, 6);
  const std::span<const query_block> nothing;
  SECTION("no query blocks") {
    const auto y = kvfit::attend(nothing, {head.cache()});
    const auto scores = kvfit::score_pass(head.cache(), nothing);
    REQUIRE_FALSE(y);
    REQUIRE_FALSE(scores);
    check_error(y.error(), {errc::empty_input, "queries", 0});
    check_error(scores.error(), {errc::empty_input, "queries", 0});
  }
  SECTION("query blocks without rows") {
    const row_view no_rows = row_view(head.queries).middle_rows(0, 0);
    const auto y = kvfit::attend(no_rows, {head.cache()});
    const auto scores = kvfit::score_pass(head.cache(), no_rows);
    REQUIRE_FALSE(y);
    REQUIRE_FALSE(scores);
    check_error(y.error(), {errc::empty_input, "queries", 0});
    check_error(scores.error(), {errc::empty_input, "queries", 0});
  }
  SECTION("no blocks of keys") {
    const auto y = kvfit::attend(head.queries, std::span<const kv_block>());
    REQUIRE_FALSE(y);
    check_error(y.error(), {errc::empty_input, "blocks", 0});
  }
}

TEST_CASE("attend refuses values of different widths and checks every block",
          "[attention][check]") {
  const sample head(4, 12, 4, 6);
  const sample wide(1, 5, 4, 7, 2);
  sample other(1, 5, 4, 6, 3);
  SECTION("widths") {
    const auto y = kvfit::attend(head.queries, {head.cache(), wide.cache()});
    REQUIRE_FALSE(y);
    check_error(y.error(), {errc::shape_mismatch, "values", 7, 6});
  }
  SECTION("numbers of the second block") {
    other.values(4, 5) = not_a_number;
    const auto y = kvfit::attend(head.queries, {head.cache(), other.cache()});
    REQUIRE_FALSE(y);
    check_error(y.error(), {errc::non_finite, "values", 4, 5});
    CHECK(y.error().detail == "cache block 1");
  }
  SECTION("keys of another width than the first block's") {
    const sample deep(1, 5, 9, 6, 4);
    const auto y = kvfit::attend(head.queries, {head.cache(), deep.cache()});
    REQUIRE_FALSE(y);
    check_error(y.error(), {errc::shape_mismatch, "keys", 9, 4});
    CHECK(y.error().detail == "columns must be the same in all blocks; cache block 1");
  }
  SECTION("keys of another width than the queries'") {
    const sample deep(1, 5, 9, 6, 4);
    const auto y = kvfit::attend(head.queries, {deep.cache(), deep.cache()});
    REQUIRE_FALSE(y);
    check_error(y.error(), {errc::shape_mismatch, "queries", 4, 9});
  }
}

}  // namespace kvfit_test
