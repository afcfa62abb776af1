// SPDX-License-Identifier: MIT
// One test for each guard of cache/ that no other test needs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cache/cache_case.hpp"
#include "cache/layer_case.hpp"
#include "cache/rolling_case.hpp"
#include "kvfit/attention/check.hpp"
#include "kvfit/cache/allocate.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/compact_chunks.hpp"
#include "kvfit/cache/dynamic_programming.hpp"
#include "kvfit/cache/engine_bias.hpp"
#include "kvfit/cache/global_ranking.hpp"
#include "kvfit/cache/heads_within_memory.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/padded.hpp"
#include "kvfit/cache/recent_queries.hpp"
#include "kvfit/cache/refit.hpp"
#include "kvfit/cache/share_out.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/cache/stacked_rows.hpp"
#include "kvfit/cache/zero_bias_refit.hpp"
#include "support/catch.hpp"
#include "support/need_error.hpp"

namespace kvfit_test::cache_guards {

using kvfit::errc;
using kvfit::index_t;

namespace {

constexpr index_t bits_53 = index_t{1} << 53U;
constexpr index_t largest_index = std::numeric_limits<index_t>::max();

kvfit::cache_options quick_options(index_t budget) {
  kvfit::cache_options options;
  options.budget = budget;
  options.head.selection = kvfit::selection::highest_attention{};
  options.head.refine = {.steps = 0};
  return options;
}

kvfit::result<kvfit::compacted_cache> compacted(const cache_case& given,
                                                const kvfit::cache_options& options) {
  return kvfit::compact_cache(given.view, given.queries, options, kvfit::serial{});
}

/// One global layer of two heads of 30 rows, as two pieces of a text.
struct two_pieces {
  cache_case given{{{.number = 3, .rows = 30}}};
  std::vector<kvfit::text_piece> pieces = {
      {.cache = given.view, .where = {0, 20}, .place = 0, .budget = 12, .queries = given.queries},
      {.cache = given.view, .where = {20, 10}, .place = 20, .budget = 8, .queries = given.queries}};
  kvfit::cache_options options = quick_options(0);

  [[nodiscard]] kvfit::result<kvfit::compacted_text> run() const {
    return kvfit::compact_pieces(std::span<const kvfit::text_piece>(pieces), options,
                                 kvfit::serial{});
  }
  kvfit::kv_block& head(std::size_t piece, std::size_t h) {
    return pieces[piece].cache.layers[0].heads[h];
  }
};

}  // namespace

// ---- What a cache must be
// ------------------------------------------------------------------------

TEST_CASE("O: heads of a layer are as wide as its first, keys and values, and there are some",
          "[cache][compact_cache][guards]") {
  cache_case values(std::vector<kvfit_test::layer_sizes>{{.number = 2}});
  values.view.layers[0].heads[1].values = values.view.layers[0].heads[1].values.middle_cols(0, 5);
  need_error(compacted(values, quick_options(20)), errc::shape_mismatch, "L2H1: values");
  const auto none = kvfit::detail::tasks_of_layer({.number = 2}, {});
  need_error(none, errc::empty_input, "layer 2: heads");
  const auto silent = kvfit::detail::tasks_of_layer(values.view.layers[0], {});
  need_error(silent, errc::shape_mismatch, "layer 2: query heads");
  CHECK(kvfit::queries_of_layer(values.queries, 2, -1).error().code == errc::empty_input);
}

TEST_CASE("O: only rows of global layers count, and layers may start at 0",
          "[cache][compact_cache][guards]") {
  cache_case given({{.number = 0, .rows = 10}, {.number = 1, .rows = 20}});
  CHECK(kvfit::rows_of(given.view) == 60);
  given.view.layers[1].kind = kvfit::layer_kind::sliding;
  CHECK(kvfit::rows_of(given.view) == 20);
  CHECK(kvfit::detail::in_head({errc::empty_input, ""}, {0, 1}).argument == "L0H1");
  cache_case twice({{.number = 1, .rows = 10}, {.number = 1, .rows = 10}});
  need_error(compacted(twice, quick_options(4)), errc::invalid_option, "layer");
}

TEST_CASE("O: values without columns are named as such", "[cache][padded][guards]") {
  kvfit::compacted_layer layer;
  layer.number = 2;
  layer.offsets = {0, 0};
  layer.heads.resize(1);
  layer.keys.resize(0, 4);
  layer.values.resize(0, 0);
  need_error(kvfit::check_layer(layer), errc::empty_input, "layer 2 values");
  layer.values.resize(0, 3);
  layer.keys.resize(0, 0);
  need_error(kvfit::check_layer(layer), errc::empty_input, "layer 2 keys");
}

// ---- Budgets
// -------------------------------------------------------------------------------------

TEST_CASE("O: rankings, heads and limits that do not fit are refused by every policy",
          "[cache][allocate][guards]") {
  std::vector<std::vector<float>> importance = {{3, 1}, {2}};
  const std::vector<kvfit::row_bounds> bounds = {{0, 2}, {0, 1}};
  CHECK(kvfit::rank_globally(importance, bounds, 2));
  need_error(kvfit::rank_globally(std::span(importance).first(1), bounds, 2), errc::shape_mismatch,
             "importance");
  need_error(kvfit::rank_globally(importance, bounds, 4), errc::budget_out_of_range, "total");
  const std::vector<kvfit::head_rows> bad = {{{-1, 0}, 8}};
  const auto code = kvfit::check_heads(bad).error().code;
  CHECK(kvfit::budgets::shares_of(kvfit::budgets::uniform{}, bad).error().code == code);
  CHECK(kvfit::budgets::shares_of(kvfit::budgets::pyramid{}, bad).error().code == code);
  CHECK(kvfit::budgets::shares_of(kvfit::budgets::given{{{{0, 0}, 1.0}}}, bad).error().code ==
        code);
}

TEST_CASE("O: a plan refuses limits, totals and rankings before any key is looked at",
          "[cache][compact_cache][guards]") {
  cache_case given(std::vector<kvfit_test::layer_sizes>{{.number = 0}});
  kvfit::cache_options limits = quick_options(20);
  limits.limits.at_least = -1;
  CHECK(compacted(given, limits).error().code == errc::invalid_option);
  kvfit::cache_options least = quick_options(2);
  least.limits.at_least = 4;
  CHECK(compacted(given, least).error().code == errc::budget_out_of_range);
  kvfit::cache_options one = quick_options(1);
  one.limits.at_least = 0;
  CHECK(compacted(given, one)->rows == 1);
  for (const index_t budget : {index_t{0}, index_t{-1}}) {
    need_error(compacted(given, quick_options(budget)), errc::budget_out_of_range, "budget");
  }
  for (const index_t protected_rows : {index_t{1}, index_t{0}}) {
    kvfit::cache_options negative = quick_options(20);
    negative.head.protect = {.first = -1, .last = protected_rows};
    CHECK(compacted(given, negative).error().code == errc::invalid_option);
    negative.head.protect = {.first = protected_rows, .last = -1};
    CHECK(compacted(given, negative).error().code == errc::invalid_option);
  }
}

TEST_CASE("O: rows that are protected do not raise a head's limits beyond its rows",
          "[cache][compact_cache][guards]") {
  // Heads of 3 and 40 rows; 10 rows at either end are protected, more than the first head has.
  cache_case given({{.number = 0, .heads = 1, .rows = 3}, {.number = 1, .heads = 1, .rows = 40}});
  kvfit::cache_options options = quick_options(24);
  options.head.protect = {.first = 10, .last = 10};
  const auto made = compacted(given, options);
  INFO((made ? "" : made.error().message()));
  REQUIRE(made);
  CHECK(made->layers[0].rows(0) == 3);
  CHECK(made->layers[1].rows(0) == 21);
  const auto few =
      kvfit::detail::count_protected({.first = 2, .last = 3, .rows = {7, 8, 9, 10}}, 6);
  CHECK(few.least == 5);
  CHECK(few.most == 6);
  const auto tiny = kvfit::detail::count_protected({.first = 4, .last = 4, .rows = {0, 1, 2}}, 2);
  CHECK(tiny.least == 2);
  CHECK(tiny.most == 2);
  const auto named = kvfit::detail::count_protected({.first = 1, .last = 0, .rows = {5, 6, 7}}, 9);
  CHECK(named.least == 3);
  CHECK(named.most == 4);
}

TEST_CASE("O: a grid of more than 32 bits of steps is refused where memory would do",
          "[cache][influence][guards]") {
  const index_t rows = index_t{1} << 33U;
  const std::vector<kvfit::row_bounds> bounds = {{0, rows}};
  const std::vector<kvfit::influence_curve> curves = {{{{0, 1.0}, {rows, 0.0}}}};
  kvfit::dynamic_programming options{.step = 1, .memory = largest_index};
  need_error(kvfit::plan_by_dynamic_programming(curves, bounds, rows, options),
             errc::invalid_option, "dynamic_programming.step");
  options.memory = 0;
  need_error(kvfit::plan_by_dynamic_programming(curves, bounds, rows, options),
             errc::memory_cap_exceeded, "dynamic_programming");
  options.memory = -1;
  need_error(kvfit::plan_by_dynamic_programming(curves, bounds, rows, options),
             errc::invalid_option, "dynamic_programming.memory");
}

// ---- Chunks and pieces
// ---------------------------------------------------------------------------

TEST_CASE("O: parts begin within their text, and plans are of numbers that doubles hold",
          "[cache][chunks][guards]") {
  need_error(kvfit::detail::check_part({11, 1}, 10, "part"), errc::invalid_position, "part");
  need_error(kvfit::detail::check_part({10, 1}, 10, "part"), errc::invalid_option, "part");
  CHECK(kvfit::detail::check_part({9, 1}, 10, "part"));
  need_error(kvfit::split_at({-1, 5}, std::vector<index_t>{2}), errc::invalid_position, "part");
  const std::vector<kvfit::chunk> whole = {{0, bits_53}};
  CHECK(kvfit::plan_chunks(whole, bits_53, 1, 5)->budgets == std::vector<index_t>{5});
  for (const index_t rows : {index_t{0}, bits_53 + 1}) {
    need_error(kvfit::plan_chunks(whole, rows, 1, 5), errc::invalid_option, "rows");
  }
  need_error(kvfit::plan_chunks(whole, bits_53, 2, 5), errc::invalid_option, "heads");
  need_error(kvfit::plan_chunks(whole, bits_53, 0, 5), errc::invalid_option, "heads");
  CHECK(kvfit::plan_chunks(whole, bits_53, 1, bits_53, bits_53));
  for (const index_t least : {index_t{0}, bits_53 + 1}) {
    need_error(kvfit::plan_chunks(whole, bits_53, 1, 5, least), errc::invalid_option, "at_least");
  }
  need_error(kvfit::plan_chunks(whole, bits_53, 1, 0), errc::budget_out_of_range, "budget");
}

TEST_CASE("O: what does not fit in one piece is named with the piece, before any is compacted",
          "[cache][chunks][guards]") {
  two_pieces good;
  REQUIRE(good.run());
  const std::string where = "in the piece at row 20 of the text";
  const auto refused = [&](const two_pieces& of, errc code, std::string_view argument) {
    CHECK(holds(need_error(of.run(), code, argument), where));
  };
  for (const index_t budget : {index_t{0}, index_t{-3}}) {
    two_pieces starved;
    starved.pieces[1].budget = budget;
    refused(starved, errc::budget_out_of_range, "budget");
  }
  two_pieces bare;
  bare.pieces[1].cache.layers[0].heads.clear();
  refused(bare, errc::shape_mismatch, "layer 3: heads");
  two_pieces narrow;
  narrow.head(1, 1).values = narrow.head(1, 1).values.middle_cols(0, 5);
  refused(narrow, errc::shape_mismatch, "layer 3: d_v");
  two_pieces values;
  values.head(1, 0).values = values.head(1, 0).values.middle_rows(0, 29);
  refused(values, errc::shape_mismatch, "L3H0: values");
  const std::vector<float> numbers(31);
  two_pieces biased;
  biased.head(1, 1).bias = numbers;
  refused(biased, errc::shape_mismatch, "L3H1: bias");
  const std::vector<index_t> many(31);
  two_pieces placed;
  placed.head(1, 1).positions = many;
  refused(placed, errc::shape_mismatch, "L3H1: positions");
  const kvfit::matrix mask = kvfit::matrix::Zero(48, 29);
  const std::vector<kvfit::row_view> masks = {mask, mask};
  two_pieces masked;
  masked.head(1, 0).masks = masks;
  refused(masked, errc::shape_mismatch, "L3H0: masks");
  two_pieces beyond;
  beyond.pieces[1].where = {25, 10};
  refused(beyond, errc::invalid_option, "L3H0: where");
  two_pieces unasked;
  unasked.pieces[1].queries[0].layer = 9;
  refused(unasked, errc::invalid_option, "queries of layer 9");
}

TEST_CASE("O: pieces are moved by positions within 53 bits, alike in all heads, or not at all",
          "[cache][chunks][guards]") {
  const auto moved = [](index_t position) {
    two_pieces made;
    made.pieces[1].position = position;
    return made;
  };
  CHECK(moved(20).run());  // where it stands: no rotation is needed
  need_error(moved(21).run(), errc::missing_entry, "layer 3: rotation");
  for (const index_t far : {bits_53 + 1, -bits_53 - 1}) {
    need_error(moved(far).run(), errc::invalid_option, "position");
  }
  two_pieces turned = moved(25);
  turned.pieces[1].cache.layers[0].rotation = kvfit::rope{};
  turned.pieces[0].cache.layers[0].rotation = kvfit::rope{};
  CHECK(turned.run());
  turned.head(1, 1).first_position = 1;
  need_error(turned.run(), errc::invalid_position, "L3H1: position");
  two_pieces farther = moved(25);
  farther.head(1, 0).first_position = bits_53;
  CHECK_FALSE(farther.run());
}

TEST_CASE("O: a text ends within 53 bits, wherever its pieces say that they stand",
          "[cache][chunks][guards]") {
  // Rows are numbered from the place on: without a limit these sums overflow.
  for (const index_t place : {largest_index, largest_index - 5, bits_53, bits_53 - 29}) {
    two_pieces made;
    made.pieces[0].place = place;
    made.pieces.resize(1);
    if (place <= bits_53 - 20) {
      CHECK(made.run()->cache.layers[0].positions.back() < bits_53);
    } else {
      need_error(made.run(), errc::invalid_position, "place");
    }
  }
}

TEST_CASE("O: chunks of a cache without layers to compact are chunks of nothing",
          "[cache][chunks][guards]") {
  cache_case given({{.number = 3, .rows = 30}});
  given.view.layers[0].kind = kvfit::layer_kind::sliding;
  const auto plan = kvfit::plan_chunks(std::vector<kvfit::chunk>{{0, 30}}, 30, 2, 8);
  REQUIRE(plan);
  need_error(kvfit::compact_chunks(given.view, std::span(&given.queries, 1), *plan,
                                   quick_options(0), kvfit::serial{}),
             errc::empty_input, "layers");
}

TEST_CASE("O: what is kept as it is holds numbers that its storage holds",
          "[cache][chunks][guards]") {
  two_pieces made;
  made.options.head.storage.rows = kvfit::dtype::fp16;
  made.pieces[1].budget = 20;  // all rows
  REQUIRE(made.run());
  kvfit::matrix values = random_matrix(30, 6, 9);
  values(25, 2) = 70000;
  made.head(1, 1).values = values;
  CHECK(holds(need_error(made.run(), errc::storage_overflow, "L3H1: values"),
              "in the piece at row 20"));
  values(25, 2) = std::nanf("");
  need_error(made.run(), errc::non_finite, "L3H1: values");
}

// ---- Fallbacks, memory and order
// -----------------------------------------------------------------

TEST_CASE("O: a head whose logits overflow falls back to its last rows, and says why",
          "[cache][compact_cache][guards]") {
  cache_case given({{.number = 0, .heads = 1, .rows = 20}});
  const kvfit::matrix keys = kvfit::matrix::Constant(20, 8, 1e30F);
  const kvfit::matrix queries = kvfit::matrix::Constant(48, 8, 1e30F);
  given.view.layers[0].heads[0].keys = keys;
  for (kvfit::query_block& block : given.queries[0].heads) block.rows = queries;
  kvfit::cache_options options = quick_options(5);
  need_error(compacted(given, options), errc::non_finite, "L0H0: logits");
  options.fallback = kvfit::head_fallback::copies;
  const auto made = compacted(given, options);
  INFO((made ? "" : made.error().message()));
  REQUIRE(made);
  CHECK(made->fallbacks == 1);
  CHECK(made->layers[0].heads[0].cause->code == errc::non_finite);
  CHECK(made->layers[0].positions == std::vector<index_t>{15, 16, 17, 18, 19});
}

TEST_CASE("O: copies that overflow their storage are an error, not another set of rows",
          "[cache][compact_cache][guards]") {
  cache_case given({{.number = 0, .heads = 1, .rows = 20}});
  const kvfit::matrix values = kvfit::matrix::Constant(20, 6, 1e6F);
  given.view.layers[0].heads[0].values = values;
  kvfit::cache_options options = quick_options(5);
  options.head.storage.rows = kvfit::dtype::fp16;
  options.fallback = kvfit::head_fallback::copies;
  CHECK(compacted(given, options).error().code == errc::storage_overflow);
}

TEST_CASE("O: heads at a time are what memory has room for, and no more than was asked for",
          "[cache][memory][guards]") {
  kvfit::cache_options options;
  options.heads_at_once = 3;
  CHECK(kvfit::detail::lanes_of(10, options) == 3);
  options.memory = 100;
  CHECK(kvfit::detail::lanes_of(10, options) == 3);
  CHECK(kvfit::detail::lanes_of(50, options) == 2);
  CHECK(kvfit::detail::lanes_of(101, options) == 1);
  CHECK(kvfit::detail::lanes_of(0, options) == 3);
  options.heads_at_once = 0;
  CHECK(kvfit::detail::lanes_of(10, options) == 10);
}

TEST_CASE("O: of several failures in a loop the one at the lowest place is told",
          "[cache][guards]") {
  using kvfit::detail::first_failure;
  first_failure failure;
  CHECK(failure.outcome());
  CHECK(failure.place() == first_failure::nowhere);
  failure.record(5, {errc::empty_input, "five"});
  failure.record(7, {errc::empty_input, "seven"});
  CHECK(failure.matters(4));
  CHECK_FALSE(failure.matters(5));
  failure.record(3, {errc::empty_input, "three"});
  failure.record(3, {errc::empty_input, "three again"});
  CHECK(failure.place() == 3);
  CHECK(failure.outcome().error().argument == "three");
#if KVFIT_HAS_EXCEPTIONS
  const auto thrown = [&](index_t place) {
    try {
      throw std::runtime_error("thrown at " + std::to_string(place));
    } catch (...) {
      failure.record_thrown(place);
    }
  };
  thrown(4);
  CHECK(failure.outcome().error().argument == "three");
  thrown(2);
  CHECK_THROWS_WITH(failure.outcome(), "thrown at 2");
  failure.record(1, {errc::empty_input, "one"});
  CHECK(failure.outcome().error().argument == "one");
#endif
}

TEST_CASE("O: items above one that failed are not begun, and a wish to stop is no failure",
          "[cache][guards]") {
  std::vector<index_t> begun;
  index_t failed_at = -1;
  const auto failing = kvfit::detail::over_heads(
      kvfit::serial{}, 6, 0, {},
      [&](index_t i) -> kvfit::result<void> {
        begun.push_back(i);
        if (i == 2) return kvfit::error{errc::empty_input, "two"};
        return {};
      },
      &failed_at);
  need_error(failing, errc::empty_input, "two");
  CHECK(failed_at == 2);
  CHECK(begun == std::vector<index_t>{0, 1, 2});
  // A policy's own `cancelled` is its error; one that was asked for ends the loop.
  kvfit::cancellation stop;
  const auto run = [&](bool asks) {
    return kvfit::detail::over_heads(kvfit::serial{}, 4, 0, {.cancel = &stop},
                                     [&](index_t i) -> kvfit::result<void> {
                                       if (i != 1) return {};
                                       if (asks) stop.request();
                                       return kvfit::error{errc::cancelled, "own"};
                                     });
  };
  need_error(run(false), errc::cancelled, "own");
  const auto stopped = run(true);
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == errc::cancelled);
  CHECK(stopped.error().argument != "own");
  CHECK(stopped.error().actual == 1);
  CHECK(stopped.error().expected == 4);
}

// ---- Padding and biases of engines
// ---------------------------------------------------------------

TEST_CASE("O: rows beyond 63 bits are refused before they are multiplied or allocated",
          "[cache][padded][guards]") {
  CHECK(*kvfit::detail::round_up(largest_index - 3, 4, "multiple") == largest_index - 3);
  need_error(kvfit::detail::round_up(largest_index - 2, 4, "multiple"), errc::invalid_option,
             "multiple");
  need_error(kvfit::detail::round_up(5, 0, "multiple"), errc::invalid_option, "multiple");
  const layer_case made(2);
  const kvfit::compacted_layer layer = ragged(made, {3, 2});
  need_error(kvfit::pad(layer, index_t{1} << 58U), errc::out_of_memory, "pad");
  need_error(kvfit::pad(layer, 1, -1), errc::invalid_option, "memory");
  kvfit::padded_layer padded = *kvfit::pad(layer);
  CHECK(same_layer(*kvfit::unpad(padded), layer));
  padded.length = (index_t{1} << 62U) + 1;  // times 2 heads: beyond
  need_error(kvfit::unpad(padded), errc::invalid_option, "length");
  padded.length = 3;
  padded.lengths.pop_back();
  need_error(kvfit::unpad(padded), errc::shape_mismatch, "lengths");
  CHECK_FALSE(kvfit::unpad({}));  // no head: nothing is divided by that
}

TEST_CASE("O: room for keys and values counts the wider of both", "[cache][padded][guards]") {
  const layer_case made(1);
  kvfit::compacted_layer layer = ragged(made, {2});
  const index_t multiple = largest_index / 8 / 100;
  layer.values = kvfit::matrix::Zero(2, 200);
  need_error(kvfit::pad(layer, multiple), errc::out_of_memory, "pad");
  layer.keys = kvfit::matrix::Zero(2, 200);
  layer.values = kvfit::matrix::Zero(2, 1);
  need_error(kvfit::pad(layer, multiple), errc::out_of_memory, "pad");
}

// ---- Refits
// --------------------------------------------------------------------------------------

TEST_CASE("O: rows of a refit are ascending rows of the cache, one list a head",
          "[cache][refit][guards]") {
  const layer_case made(2);
  const index_t length = made.heads[0].keys.rows();
  const auto refit = [&](std::vector<std::vector<index_t>> rows, bool has_cap = false) {
    kvfit::compact_options options;
    if (has_cap) options.memory.cap = index_t{1} << 30U;
    return kvfit::refit_layer(made.layer, rows, made.queries, options);
  };
  CHECK(refit({{0, length - 1}, {3, 4}}));
  for (const bool has_cap : {false, true}) {
    need_error(refit({{0, 5}, {4, 4}}, has_cap), errc::invalid_position, "L3H1: rows");
    need_error(refit({{5, 2}, {3, 4}}, has_cap), errc::invalid_position, "L3H0: rows");
    need_error(refit({{0, length}, {3, 4}}, has_cap), errc::invalid_position, "L3H0: rows");
    need_error(refit({{-1, 5}, {3, 4}}, has_cap), errc::invalid_position, "L3H0: rows");
  }
  need_error(refit({{0, 5}}), errc::shape_mismatch, "rows");
  need_error(refit({{0, 5}, {1}, {2}}), errc::shape_mismatch, "rows");
  kvfit::cache_layer sliding = made.layer;
  sliding.kind = kvfit::layer_kind::sliding;
  const std::vector<std::vector<index_t>> two = {{0}, {1}};
  need_error(kvfit::refit_layer(sliding, two, made.queries, {}), errc::invalid_option, "layer 3");
}

TEST_CASE("O: what a refit is told to protect is checked in every head", "[cache][refit][guards]") {
  layer_case made(2);
  const std::vector<std::vector<index_t>> rows = {{0, 5}, {0, 5}};
  for (const bool has_cap : {false, true}) {
    kvfit::compact_options options;
    if (has_cap) options.memory.cap = index_t{1} << 30U;
    options.protect = {.first = -1};
    CHECK(kvfit::refit_layer(made.layer, rows, made.queries, options).error().code ==
          errc::invalid_option);
    options.protect = {.rows = {0, made.heads[0].keys.rows()}};
    CHECK_FALSE(kvfit::refit_layer(made.layer, rows, made.queries, options));
    options.protect = {.first = 1};
    CHECK(kvfit::refit_layer(made.layer, rows, made.queries, options));
    const std::vector<float> bias(7);
    kvfit::cache_layer torn = made.layer;
    torn.heads[1].bias = bias;
    const auto refused = kvfit::refit_layer(torn, rows, made.queries, options);
    need_error(refused, errc::shape_mismatch, "L3H1: bias");
  }
}

TEST_CASE("O: a refit of a hidden row says that it is hidden", "[cache][refit][guards]") {
  layer_case made(1);
  std::vector<float> bias(static_cast<std::size_t>(made.heads[0].keys.rows()));
  bias[5] = -std::numeric_limits<float>::infinity();
  made.layer.heads[0].bias = bias;
  const std::vector<std::vector<index_t>> rows = {{0, 5, 9}};
  CHECK_FALSE(kvfit::refit_layer(made.layer, rows, made.queries, {}));
  const std::vector<std::vector<index_t>> seen = {{0, 6, 9}};
  CHECK(kvfit::refit_layer(made.layer, seen, made.queries, {}));
}

TEST_CASE("O: forms of a layer that was made of another are refused",
          "[cache][shared][zero_bias][guards]") {
  const layer_case made(2);
  const kvfit::compacted_layer fitted = ragged(made, {3, 2});
  const auto refused = [&](const kvfit::compacted_layer& other) {
    const auto shared = kvfit::share_positions(made.layer, other, made.queries, {});
    const auto bare = kvfit::refit_without_bias(made.layer, other, made.queries, {});
    REQUIRE_FALSE(shared);
    REQUIRE_FALSE(bare);
    CHECK(shared.error().code == errc::shape_mismatch);
    CHECK(bare.error().code == errc::shape_mismatch);
  };
  kvfit::compacted_layer number = fitted;
  number.number = 4;
  refused(number);
  refused(ragged(layer_case(1), {3}));
  kvfit::compacted_layer torn = fitted;
  torn.positions.pop_back();
  refused(torn);
  const std::vector<float> bias(static_cast<std::size_t>(made.heads[0].keys.rows()));
  kvfit::cache_layer biased = made.layer;
  biased.heads[0].bias = bias;
  kvfit::compacted_layer beyond = fitted;
  beyond.positions[2] = static_cast<index_t>(bias.size());
  need_error(kvfit::refit_without_bias(biased, beyond, made.queries, {}), errc::invalid_position,
             "L3H0: rows");
}

TEST_CASE("O: a union as large as its cap is kept whole, a head without rows has no say",
          "[cache][shared][guards]") {
  const layer_case made(2);
  const kvfit::compacted_layer fitted = ragged(made, {4, 0});
  const auto four = kvfit::share_positions(made.layer, fitted, made.queries, {}, 4);
  REQUIRE(four);
  CHECK(four->rows(1) == 4);
  const auto two = kvfit::share_positions(made.layer, fitted, made.queries, {}, 2);
  INFO((two ? "" : two.error().message()));
  REQUIRE(two);
  CHECK(two->rows(1) == 2);
  need_error(kvfit::share_positions(made.layer, fitted, made.queries, {}, -1),
             errc::budget_out_of_range, "most_rows");
  kvfit::compact_options options;
  options.protect = {.last = -1};
  CHECK(kvfit::share_positions(made.layer, fitted, made.queries, options, 2).error().code ==
        errc::invalid_option);
}

// ---- Rolling caches
// ------------------------------------------------------------------------------

TEST_CASE("O: stacked rows have one width and memory on both sides", "[cache][rolling][guards]") {
  const kvfit::matrix rows = random_matrix(3, 4, 1);
  const kvfit::matrix wide = random_matrix(3, 5, 1);
  const kvfit::row_view nothing(static_cast<const float*>(nullptr), 3, 4);
  const auto stacked = [](const kvfit::row_view& top, const kvfit::row_view& bottom) {
    const kvfit::stacked_rows stack{top, bottom};
    const auto view = kvfit::stacked_view(stack);
    return view ? kvfit::result<index_t>(view->rows()) : view.error();
  };
  CHECK(*stacked(rows, rows) == 6);
  need_error(stacked(rows, wide), errc::shape_mismatch, "bottom");
  need_error(stacked(nothing, rows), errc::null_data, "top");
  need_error(stacked(rows, nothing), errc::null_data, "bottom");
  CHECK(*stacked(rows, nothing.middle_rows(0, 0)) == 3);
  CHECK(*stacked(nothing.middle_rows(0, 0), rows) == 3);
}

TEST_CASE("O: settings of rounds end where rows of all heads still fit 63 bits",
          "[cache][rolling][guards]") {
  constexpr index_t most = index_t{1} << 40U;
  kvfit::rolling_options options{.trigger = most, .target = most - 1, .sinks = 0, .recent = 0};
  CHECK(kvfit::check_rolling(options));
  options.trigger = most + 1;
  need_error(kvfit::check_rolling(options), errc::invalid_option, "trigger");
  for (index_t kvfit::rolling_options::*const part :
       {&kvfit::rolling_options::sinks, &kvfit::rolling_options::recent}) {
    kvfit::rolling_options wide{.trigger = 100, .target = 50, .sinks = 0, .recent = 0};
    wide.*part = most + 1;
    CHECK(kvfit::check_rolling(wide).error().expected == most);
    wide.*part = -1;
    CHECK(kvfit::check_rolling(wide).error().expected == 0);
  }
  kvfit::rolling_options last{.trigger = 100, .target = 50, .sinks = 0, .recent = 0};
  last.cache.head.protect = {.last = 7};
  CHECK(kvfit::check_rolling(last).error().actual == 7);
  last.cache.head.protect = {.first = 3};
  CHECK(kvfit::check_rolling(last).error().actual == 3);
}

TEST_CASE("O: a text grows to 53 bits of rows and positions, and no further",
          "[cache][rolling][position][guards]") {
  const kvfit::rolling_options options = quick_rounds(60, 30);
  auto roll = rolling_of(options);
  CHECK(roll.append(bits_53));
  CHECK(roll.length() == bits_53);
  need_error(roll.append(1), errc::invalid_option, "rows");
  need_error(roll.append(std::vector<index_t>{0}, bits_53), errc::invalid_option, "rows");
  auto placed = rolling_of(options);
  CHECK(placed.append(std::vector<index_t>{0, bits_53}, bits_53));
  need_error(placed.append(1), errc::invalid_option, "rows");
  CHECK(placed.append(std::vector<index_t>{bits_53}, bits_53));
  need_error(placed.append(std::vector<index_t>{5}, bits_53 + 1), errc::invalid_position,
             "next_position");
  need_error(placed.append(std::vector<index_t>{5}, bits_53 - 1), errc::invalid_position,
             "next_position");
  need_error(placed.append(std::vector<index_t>{-1}, bits_53), errc::invalid_position, "positions");
  CHECK(placed.length() == 3);
}

TEST_CASE("O: a text is cut within its live rows, and goes on no earlier than they stand",
          "[cache][rolling][position][guards]") {
  auto roll = rolling_of(quick_rounds(60, 30));
  REQUIRE(roll.append(std::vector<index_t>{0, 5, 2}, 9));
  need_error(roll.truncate(4), errc::invalid_position, "length");
  need_error(roll.truncate(-1), errc::invalid_position, "length");
  need_error(roll.truncate(-1, 0), errc::invalid_position, "length");
  need_error(roll.truncate(4, 9), errc::invalid_position, "length");
  need_error(roll.truncate(2, 10), errc::invalid_position, "next_position");
  need_error(roll.truncate(2, 4), errc::invalid_position, "next_position");
  CHECK(roll.truncate(3, 9));
  CHECK(roll.truncate(2, 5));
  CHECK(roll.next_position() == 5);
  need_error(roll.truncate(0, -1), errc::invalid_position, "next_position");
  CHECK(roll.truncate(0, 0));
  CHECK(roll.next_position() == 0);
}

TEST_CASE("O: counts of a saved text that no text has are refused",
          "[cache][rolling][position][guards]") {
  const kvfit::rolling_options options = quick_rounds(60, 30);
  const auto make = [&](kvfit::rolling_state saved) {
    const auto roll = kvfit::rolling_cache::make(options, std::move(saved));
    return roll ? kvfit::result<index_t>(roll->length()) : roll.error();
  };
  using runs = std::vector<kvfit::position_run>;
  CHECK(*make({.length = bits_53, .next_position = bits_53, .live_positions = {{0, bits_53, 1}}}) ==
        bits_53);
  for (const index_t bad : {index_t{-1}, bits_53 + 1}) {
    need_error(make({.length = bad}), errc::invalid_option, "length");
    need_error(make({.next_position = bad}), errc::invalid_option, "next_position");
  }
  need_error(make({.length = 3, .live_first = -1}), errc::invalid_option, "live_first");
  need_error(make({.length = 3, .live_first = 4}), errc::invalid_option, "live_first");
  const auto with_runs = [&](const runs& of, index_t rows = 3) {
    return make({.length = rows, .next_position = 9, .live_positions = of});
  };
  CHECK(with_runs({{7, 3, 1}}));
  CHECK(with_runs({{9, 3, 0}}));
  CHECK(with_runs({{9, 1, 1}, {0, 2, 1}}));
  for (const index_t rows : {index_t{0}, index_t{-1}, bits_53 + 1}) {
    need_error(with_runs({{0, rows, 0}}), errc::invalid_option, "live_positions");
  }
  for (const index_t step : {index_t{-1}, index_t{2}}) {
    need_error(with_runs({{5, 3, step}}), errc::invalid_option, "live_positions");
  }
  for (const index_t first : {index_t{-1}, index_t{8}, index_t{10}}) {
    need_error(with_runs({{first, 3, 1}}), errc::invalid_position, "live_positions");
  }
  need_error(with_runs({{10, 3, 0}}), errc::invalid_position, "live_positions");
  need_error(with_runs({{0, 2, 1}}), errc::shape_mismatch, "live_positions");
  const runs endless(2000, {0, bits_53, 0});  // whose sum exceeds 64 bits
  need_error(with_runs(endless), errc::shape_mismatch, "live_positions");
}

TEST_CASE("O: a saved block's keys stand between 0 and the next position",
          "[cache][rolling][position][guards]") {
  const growing_text text(40);
  auto roll = rolling_of(quick_rounds(30, 20));
  run_round(roll, text, 40);
  const kvfit::rolling_state saved = roll.state();
  const auto with_key_at = [&](index_t position) {
    kvfit::compacted_cache block = *saved.block;
    block.layers[1].key_positions[0] = position;
    kvfit::rolling_state other = saved;
    other.block = std::make_shared<const kvfit::compacted_cache>(std::move(block));
    const auto made = kvfit::rolling_cache::make(quick_rounds(30, 20), std::move(other));
    return made ? kvfit::result<index_t>(made->length()) : made.error();
  };
  CHECK(with_key_at(0));
  CHECK(with_key_at(saved.next_position));
  need_error(with_key_at(saved.next_position + 1), errc::invalid_position, "block");
  need_error(with_key_at(-1), errc::invalid_position, "block");
}

TEST_CASE("O: a block with fewer layers than the live rows has no round",
          "[cache][rolling][guards]") {
  const growing_text text(60);
  auto roll = rolling_of(quick_rounds(30, 20));
  run_round(roll, text, 40);
  REQUIRE(roll.append(20));
  kvfit::cache_view live = text.live(roll);
  kvfit::cache_layer third = live.layers.back();
  third.number = 9;
  live.layers.push_back(third);
  need_error(roll.begin(live), errc::missing_entry, "layer 9");
}

TEST_CASE("O: recent queries are recorded in the order of the text", "[cache][queries][guards]") {
  const kvfit::matrix rows = random_matrix(3, 4, 1);
  const std::vector<index_t> falling = {4, 6, 5};
  kvfit::recent_queries ring(8);
  kvfit::query_block head{rows};
  head.positions = falling;
  const std::vector<kvfit::query_block> heads = {head, head};
  const auto recorded = ring.record(2, heads);
  REQUIRE_FALSE(recorded);
  CHECK(recorded.error().code == errc::invalid_position);
  CHECK(recorded.error().actual == 5);
  CHECK(recorded.error().expected == 6);
}

}  // namespace kvfit_test::cache_guards
