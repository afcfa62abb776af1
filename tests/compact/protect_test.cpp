// SPDX-License-Identifier: MIT
// Rows protected by their place in the text or by number, and rows that are hidden.
#include "kvfit/compact/protection.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/compact/progressive.hpp"
#include "kvfit/presets.hpp"
#include "support/allocations.hpp"
#include "support/watched_rows.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;
using kvfit::errc;

namespace {

using row_list = std::vector<kvfit::index_t>;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The preset, its thousands of steps cut short.
compact_options short_preset(const kvfit::presets::preset& preset, kvfit::index_t budget) {
  compact_options options = preset.make(budget);
  if (options.gradient.holds<kvfit::gradient_keys>())
    options.gradient.get_if<kvfit::gradient_keys>()->steps = 3;
  if (options.refine.steps.value_or(0) > 0) options.refine.steps = 5;
  return options;
}

/// Whether row `row` is in the result as it is.
bool is_kept(const compacted& c, const kvfit::kv_block& cache, kvfit::index_t row) {
  const auto at = std::lower_bound(c.positions.begin(), c.positions.end(), row);
  if (at == c.positions.end() || *at != row) return false;
  const auto j = at - c.positions.begin();
  bool is_same =
      c.bias[j] == (cache.bias.empty() ? 0.0F : cache.bias[static_cast<std::size_t>(row)]);
  for (kvfit::index_t k = 0; k < c.keys.cols(); ++k) {
    is_same = is_same && c.keys(j, k) == cache.keys(row, k);
  }
  for (kvfit::index_t k = 0; k < c.values.cols(); ++k) {
    is_same = is_same && c.values(j, k) == cache.values(row, k);
  }
  return is_same && c.key_positions[static_cast<std::size_t>(j)] == cache.position(row);
}

/// A ring buffer of 64 rows whose newest row is number 20: positions 1000 … 1063.
struct ring {
  ring() {
    for (kvfit::index_t j = 0; j < 64; ++j) positions.push_back(1000 + (j + 43) % 64);
  }
  [[nodiscard]] kvfit::kv_block cache() const {
    kvfit::kv_block block = made.cache();
    block.positions = positions;
    return block;
  }
  head made = make_head(21);
  row_list positions;
};

/// A head of 64 rows of which 8 at the front and 5 at the end are padding of NaN, and three between
/// were never written.
struct padded_head {
  explicit padded_head(bool hides_between = true) {
    for (kvfit::index_t j = 0; j < 64; ++j) {
      const bool is_between = hides_between && (j == 20 || j == 21 || j == 40);
      if (j >= 8 && j < 59 && !is_between) continue;
      bias[static_cast<std::size_t>(j)] = hidden_key;
      spoilt_keys.row(j).setConstant(not_a_number);
      spoilt_values.row(j).setConstant(std::numeric_limits<float>::infinity());
    }
  }
  [[nodiscard]] kvfit::kv_block cache() const {
    return {.keys = made.keys, .values = made.values, .bias = bias};
  }
  [[nodiscard]] kvfit::kv_block spoilt() const {
    return {.keys = spoilt_keys, .values = spoilt_values, .bias = bias};
  }
  head made = make_head(22);
  std::vector<float> bias = std::vector<float>(64, 0.25F);
  kvfit::matrix spoilt_keys = made.keys;
  kvfit::matrix spoilt_values = made.values;
};

}  // namespace

TEST_CASE("H: the newest rows of a ring buffer are protected by position", "[compact][protect]") {
  const ring of;
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    compact_options options = short_preset(preset, 28);
    options.protect.last = 16;
    options.protect.first = 2;
    const compacted c = compacted_head(of.cache(), of.made.queries, options);
    check_sound(c, of.cache(), 28);
    for (kvfit::index_t row = 5; row <= 20; ++row) CHECK(is_kept(c, of.cache(), row));
    for (const kvfit::index_t row : {21, 22}) CHECK(is_kept(c, of.cache(), row));  // the oldest
  }
}

TEST_CASE("rows at one position are protected in the order of memory, the first and the last",
          "[compact][protect]") {
  ring of;
  of.positions.assign(64, 7);
  of.positions[30] = 6;
  const auto kept = [&](kvfit::protection protect) {
    compact_options options{.budget = 6, .protect = std::move(protect)};
    options.selection = kvfit::selection::given{{31, 32}};
    return compacted_head(of.cache(), of.made.queries, options).positions;
  };
  CHECK(kept({.first = 3, .last = 1}) == row_list{0, 1, 30, 31, 32, 63});
  CHECK(kept({.first = 1, .last = 3}) == row_list{30, 31, 32, 61, 62, 63});
}

TEST_CASE("H: padding is not protected", "[compact][protect][hidden]") {
  const padded_head of(false);
  const kvfit::row_view keys = of.made.keys;
  const kvfit::row_view values = of.made.values;
  const kvfit::kv_block bare{.keys = keys.middle_rows(8, 51),
                             .values = values.middle_rows(8, 51),
                             .bias = std::span(of.bias).subspan(8, 51),
                             .first_position = 8};
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    compact_options options = short_preset(preset, 20);
    options.protect = {.first = 4, .last = 3};
    const compacted c = compacted_head(of.spoilt(), of.made.queries, options);
    check_sound(c, of.cache(), 20);
    for (const kvfit::index_t row : {8, 9, 10, 11, 56, 57, 58}) CHECK(is_kept(c, of.cache(), row));
    // What remains is the cache without padding, to the last bit.
    const compacted alone = compacted_head(bare, of.made.queries, options);
    REQUIRE(alone.positions.size() == c.positions.size());
    for (std::size_t j = 0; j < c.positions.size(); ++j) {
      CHECK(c.positions[j] == 8 + alone.positions[j]);
    }
    CHECK(c.key_positions == alone.key_positions);
    CHECK(same_numbers(c.keys, alone.keys));
    CHECK(same_numbers(c.bias, alone.bias));
    CHECK(same_numbers(c.values, alone.values));
  }
}

TEST_CASE("protection counts visible rows, and the budget what it protects",
          "[compact][protect][hidden]") {
  const head made = make_head(10, {.keys = 30});
  std::vector<float> bias(30, 0.0F);
  bias[1] = bias[29] = hidden_key;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  const compacted c =
      compacted_head(cache, made.queries, {.budget = 10, .protect = {.first = 3, .last = 2}});
  check_sound(c, cache, 10);
  for (const kvfit::index_t row : {0, 2, 3, 27, 28}) CHECK(is_kept(c, cache, row));
}

TEST_CASE("H: rows hidden by a bias are never read", "[compact][protect][hidden]") {
  const padded_head of;
  const kvfit::matrix mask = random_matrix(96, 64, 5, 0.2F);
  kvfit::matrix spoilt_mask = mask;
  row_list positions(64);
  std::iota(positions.begin(), positions.end(), 500);
  row_list spoilt_positions = positions;
  for (kvfit::index_t j = 0; j < 64; ++j) {
    if (of.bias[static_cast<std::size_t>(j)] != hidden_key) continue;
    spoilt_mask.col(j).setConstant(not_a_number);
    spoilt_positions[static_cast<std::size_t>(j)] = std::numeric_limits<kvfit::index_t>::min();
  }
  const std::vector<kvfit::row_view> masks = {mask};
  const std::vector<kvfit::row_view> spoilt_masks = {spoilt_mask};
  const bool has_masks = GENERATE(false, true);
  const kvfit::query_block queries(of.made.queries, 900, 0.001F);
  const watched_rows keys(of.spoilt_keys);
  const watched_rows values(of.spoilt_values);
  kvfit::kv_block clean = of.cache();
  clean.positions = positions;
  kvfit::kv_block cache{
      .keys = keys.view(), .values = values.view(), .bias = of.bias, .positions = spoilt_positions};
  if (has_masks) {
    clean.masks = masks;
    cache.masks = spoilt_masks;
  }
  for (const auto& preset : kvfit::presets::all) {
    if (has_masks && preset.name == "expected_attention") continue;
    for (const kvfit::index_t budget : {kvfit::index_t{18}, kvfit::index_t{64}}) {
      INFO(preset.name << " " << budget);
      compact_options options = short_preset(preset, budget);
      options.rule = {.causal = true};
      options.protect = {.first = 2, .last = 3, .rows = {30}};
      if (options.selection.index() == compact_options{}.selection.index()) {
        options.memory.selection = 0;  // columns made anew
      }
      const compacted c = compacted_head(cache, queries, options);
      CHECK(same_result(c, compacted_head(clean, queries, options)));
      check_sound(c, clean, std::min<kvfit::index_t>(budget, 48));
      if (budget == 64) continue;
      for (const kvfit::index_t row : {8, 9, 30, 56, 57, 58}) CHECK(is_kept(c, clean, row));
    }
  }
  compact_options options;
  options.protect = {.first = 2, .rows = {50}};
  const row_list budgets = {12, 6};
  REQUIRE(kvfit::compact_progressive(cache, queries, options, budgets));
  for (kvfit::index_t j = 0; j < 64; ++j) {
    const bool is_visible = of.bias[static_cast<std::size_t>(j)] != hidden_key;
    CHECK(keys.was_asked(j) == is_visible);
    CHECK(values.was_asked(j) == is_visible);
  }
}

TEST_CASE("H: any rows may be named as protected, and each counts once", "[compact][protect]") {
  const head made = make_head(23);
  const std::vector<float> bias(64, -0.125F);
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    compact_options options = short_preset(preset, 16);
    options.protect = {.first = 2, .last = 1, .rows = {40, 0, 17, 63, 41}};
    const compacted c = compacted_head(cache, made.queries, options);
    check_sound(c, cache, 16);
    for (const kvfit::index_t row : {0, 1, 17, 40, 41, 63}) CHECK(is_kept(c, cache, row));
  }
  // Six rows are protected: a budget of seven has room for one more, one of six for none.
  compact_options options{.budget = 7,
                          .protect = {.first = 2, .last = 1, .rows = {40, 0, 17, 63, 41}}};
  CHECK(try_compact(cache, made.queries, options));
  options.budget = 6;
  const auto refused = try_compact(cache, made.queries, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message() ==
        "budget_out_of_range: budget: 6, limit 7 (must exceed the protected rows)");
}

TEST_CASE("rows beside named ones are those that are left, as they lie", "[compact][protect]") {
  // Rows that are hidden from the fit, and rows that are not there, come to the same.
  const head made = make_head(24);
  const row_list named = {0, 63, 31};
  row_list others;
  for (kvfit::index_t row = 1; row < 63; ++row) {
    if (row != 31) others.push_back(row);
  }
  kvfit::matrix keys(61, 16);
  kvfit::matrix values(61, 8);
  for (kvfit::index_t j = 0; j < 61; ++j) {
    keys.row(j) = made.keys.row(others[static_cast<std::size_t>(j)]);
    values.row(j) = made.values.row(others[static_cast<std::size_t>(j)]);
  }
  const kvfit::kv_block rest{.keys = keys, .values = values, .positions = others};
  for (const char* name : {"highest_attention", "omp", "default"}) {
    compact_options options = kvfit::presets::find(name)->make(13);
    options.protect.rows = named;
    const compacted whole = compacted_head(made.cache(), made.queries, options);
    options.protect = {};
    options.budget = 10;
    const compacted alone = compacted_head(rest, made.queries, options);
    row_list expected = named;
    for (const kvfit::index_t row : alone.positions) {
      expected.push_back(others[static_cast<std::size_t>(row)]);
    }
    std::sort(expected.begin(), expected.end());
    CHECK(whole.positions == expected);
    CHECK(whole.report.train.output_error == Approx(alone.report.train.output_error).epsilon(1e-3));
  }
}

TEST_CASE("named rows that can't be protected are refused by number", "[compact][protect]") {
  const padded_head of;
  const auto cause = [&](kvfit::protection protect) {
    const auto made =
        try_compact(of.spoilt(), of.made.queries, {.budget = 20, .protect = std::move(protect)});
    REQUIRE_FALSE(made);
    CHECK(made.error().code == errc::invalid_position);
    CHECK(made.error().argument == "protect.rows");
    return made.error();
  };
  CHECK(cause({.rows = {64}}).actual == 64);
  CHECK(cause({.rows = {9, -1}}).actual == -1);
  CHECK(cause({.rows = {9, 30, 9}}).detail == "named twice");
  CHECK(cause({.rows = {9, 20}}).message() ==
        "invalid_position: protect.rows: 20 (its bias hides this row)");
  // In a budget that keeps everything, too.
  const auto whole =
      try_compact(of.spoilt(), of.made.queries, {.budget = 64, .protect = {.rows = {3}}});
  REQUIRE_FALSE(whole);
  CHECK(whole.error().code == errc::invalid_position);
  // A row that is protected can't be given besides.
  const auto twice = try_compact(
      of.spoilt(), of.made.queries,
      {.budget = 3, .selection = kvfit::selection::given{{30, 31}}, .protect = {.rows = {30}}});
  REQUIRE_FALSE(twice);
  CHECK(twice.error().message() ==
        "invalid_position: positions: 30 (its bias hides this key, or it is protected)");
}

TEST_CASE("§9.17 the place of an overflow is that in the result, wherever protected rows lie",
          "[compact][refusal][protect]") {
  ring of;  // rows 19, 20 are the newest, 21 the oldest
  compact_options options{.budget = 6,
                          .selection = kvfit::selection::given{{3, 30, 40}},
                          .protect = {.first = 1, .last = 2},
                          .storage = {.rows = kvfit::dtype::fp16}};
  of.made.queries.col(1).setZero();
  const auto place = [&] {
    const auto made = try_compact(of.cache(), of.made.queries, options);
    REQUIRE_FALSE(made);
    CHECK(made.error().code == errc::storage_overflow);
    return made.error().actual;
  };
  // In order: 3, 19, 20, 21, 30, 40.
  SECTION("of a row selected before them") {
    of.made.keys(3, 1) = 70000;
    CHECK(place() == 0);
  }
  SECTION("of one selected after them") {
    of.made.keys(30, 1) = 70000;
    CHECK(place() == 4);
  }
  SECTION("of a protected one") {
    of.made.values(20, 0) = 70000;
    CHECK(place() == 2);
  }
}

TEST_CASE("a progressive compaction protects by position, too", "[compact][progressive][protect]") {
  const ring of;
  compact_options options = kvfit::presets::highest_attention(1);
  options.protect = {.last = 5, .rows = {60}};
  const row_list budgets = {20, 9};
  const auto all = kvfit::compact_progressive(of.cache(), of.made.queries, options, budgets);
  REQUIRE(all);
  for (std::size_t i = 0; i < 2; ++i) {
    REQUIRE(static_cast<kvfit::index_t>((*all)[i].positions.size()) == budgets[i]);
    for (const kvfit::index_t row : {16, 17, 18, 19, 20, 60}) {
      CHECK(is_kept((*all)[i], of.cache(), row));
    }
    options.budget = budgets[i];
    CHECK(compacted_head(of.cache(), of.made.queries, options).positions == (*all)[i].positions);
  }
  const row_list few = {6};
  const auto refused = kvfit::compact_progressive(of.cache(), of.made.queries, options, few);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::budget_out_of_range);
}

TEST_CASE("the memory of a call with hidden and protected rows is known beforehand",
          "[compact][memory][protect]") {
  if (!can_count) return;
  const head made = make_head(3, {.queries = 300, .keys = 3000, .depth = 8});
  std::vector<float> bias(3000, 0.0F);
  row_list positions(3000);
  for (kvfit::index_t j = 0; j < 3000; ++j)
    positions[static_cast<std::size_t>(j)] = (j + 900) % 3000;
  struct sizes_case {
    const char* name;
    std::vector<kvfit::index_t> hidden;  // the first rows, the last ones, every so many-th
    bool is_ring;
    kvfit::protection protect;
  };
  const std::vector<sizes_case> cases = {
      {"padding", {40, 300, 0}, false, {.first = 4, .last = 60}},
      {"gaps", {0, 0, 7}, false, {.first = 4, .last = 60}},
      {"a ring", {0, 0, 0}, true, {.first = 4, .last = 60}},
      {"named", {0, 0, 0}, false, {.first = 3, .rows = {1, 70, 2000}}},
      {"all of it", {9, 0, 11}, true, {.first = 4, .last = 3, .rows = {2, 70, 1800}}},
  };
  for (const sizes_case& one : cases) {
    std::fill(bias.begin(), bias.end(), 0.0F);
    for (kvfit::index_t j = 0; j < 3000; ++j) {
      const bool is_hidden = j < one.hidden[0] || j >= 3000 - one.hidden[1] ||
                             (one.hidden[2] > 0 && j % one.hidden[2] == 5);
      const auto& named = one.protect.rows;
      if (is_hidden && std::find(named.begin(), named.end(), j) == named.end()) {
        bias[static_cast<std::size_t>(j)] = hidden_key;
      }
    }
    kvfit::kv_block cache = made.cache();
    cache.bias = bias;
    if (one.is_ring) cache.positions = positions;
    for (const char* name : {"topk", "omp", "expected_attention", "default"}) {
      compact_options options = short_preset(*kvfit::presets::find(name), 90);
      options.protect = one.protect;
      for (const bool has_cap : {false, true}) {
        INFO(one.name << ", " << name << (has_cap ? ", capped" : ""));
        const auto plan = kvfit::planned_memory(kvfit::sizes_of(cache, made.queries), options);
        REQUIRE(plan);
        if (has_cap) options.memory.cap = plan->needed / 2;
        const auto within = kvfit::planned_memory(kvfit::sizes_of(cache, made.queries), options);
        if (!within) {
          CHECK(within.error().code == errc::memory_cap_exceeded);
          continue;
        }
        std::optional<kvfit::result<compacted>> fitted;
        const auto held = count_allocations([&] {
                            fitted.emplace(try_compact(cache, made.queries, options));
                          }).peak_bytes;
        REQUIRE(*fitted);
        CHECK((*fitted)->report.memory.needed == within->needed);
        CHECK(held <= within->needed);
        CHECK(within->needed <= (has_cap ? *options.memory.cap : within->needed));
      }
    }
  }
}
