// SPDX-License-Identifier: MIT
#include "kvfit/cache/compact_chunks.hpp"

#include <chrono>
#include <limits>
#include <thread>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::cache_options;
using kvfit::cache_queries;
using kvfit::chunk;
using kvfit::chunk_plan;
using kvfit::compact_chunks;
using kvfit::compact_pieces;
using kvfit::compacted_text;
using kvfit::errc;
using kvfit::head_outcome;
using kvfit::index_t;
using kvfit::text_piece;

namespace {

/// Two global layers of 90 rows with two KV heads each, and a sliding one between them.
cache_case chunked_case() {
  cache_case made({{.number = 0, .rows = 90},
                   {.number = 1, .rows = 20},
                   {.number = 2, .rows = 90, .key_size = 10}});
  made.view.layers[1].kind = kvfit::layer_kind::sliding;
  return made;
}

cache_options chunk_options() {
  cache_options options;
  options.head.selection = kvfit::selection::highest_attention{};
  options.head.refine = {.steps = 0};
  return options;
}

/// Rows 5 to 84 in three chunks, of which the last two follow a gap of two rows.
const std::vector<chunk> three_chunks = {{5, 30}, {37, 28}, {65, 20}};

chunk_plan plan_of(const std::vector<chunk>& chunks, index_t rows, index_t heads, index_t budget) {
  const auto plan = kvfit::plan_chunks(chunks, rows, heads, budget);
  REQUIRE(plan);
  return *plan;
}

compacted_text chunks_of(const cache_case& given, const chunk_plan& plan,
                         const cache_options& options = chunk_options()) {
  auto made =
      compact_chunks(given.view, std::span(&given.queries, 1), plan, options, kvfit::serial{});
  INFO((made ? "" : made.error().message()));
  REQUIRE(made);
  return std::move(*made);
}

kvfit::kv_block rows_of_block(const kvfit::kv_block& block, const chunk& where) {
  return {.keys = block.keys.middle_rows(where.first, where.rows),
          .values = block.values.middle_rows(where.first, where.rows),
          .first_position = where.first};
}

/// Rows first … of a head of the result against a block that has to be there.
void check_part(const kvfit::compacted_layer& layer, std::size_t h, index_t first,
                const kvfit::compacted& expected, index_t place) {
  const index_t rows = expected.keys.rows();
  const index_t at = layer.offsets[h] + first;
  REQUIRE(first + rows <= layer.rows(h));
  CHECK(kvfit::matrix(layer.keys.middleRows(at, rows)) == expected.keys);
  CHECK(kvfit::matrix(layer.values.middleRows(at, rows)) == expected.values);
  CHECK(kvfit::vector(layer.bias.segment(at, rows)) == expected.bias);
  for (index_t j = 0; j < rows; ++j) {
    CHECK(layer.positions[static_cast<std::size_t>(at + j)] ==
          place + expected.positions[static_cast<std::size_t>(j)]);
  }
}

/// A text's keys without rotation, of which stretches are prefilled at any position.
struct unrotated {
  kvfit::matrix first = random_matrix(60, 8, 1);
  kvfit::matrix second = random_matrix(60, 12, 2);
  kvfit::matrix values = random_matrix(60, 5, 3);
};

kvfit::rope first_rope() {
  return {.base = 10000};
}
kvfit::rope second_rope() {
  return {.base = 500,
          .dims = 8,
          .pairing = kvfit::rope_pairing::interleaved,
          .scaling = kvfit::rope_scaling::linear{2}};
}

/// Rows first … of the text, prefilled at positions from `position` on.
struct prefilled_part {
  std::vector<kvfit::matrix> keys;
  kvfit::matrix values;

  prefilled_part(const unrotated& text, index_t first, index_t rows, index_t position) {
    for (const bool is_first : {true, false}) {
      kvfit::matrix own = (is_first ? text.first : text.second).middleRows(first, rows);
      for (index_t i = 0; i < rows; ++i) {
        const kvfit::rope how = is_first ? first_rope() : second_rope();
        kvfit::row_rotation(how, own.cols(), position + i).turn(own.row(i).data());
      }
      keys.push_back(own);
    }
    values = text.values.middleRows(first, rows);
  }

  [[nodiscard]] kvfit::cache_view view(index_t position) const {
    kvfit::cache_view made;
    for (const std::size_t l : {0U, 1U}) {
      made.layers.push_back(
          {.number = static_cast<index_t>(l),
           .heads = {{.keys = keys[l], .values = values, .first_position = position}},
           .rotation = l == 0 ? first_rope() : second_rope()});
    }
    return made;
  }
};

}  // namespace

TEST_CASE("§9.14 chunks are compacted alone, and rows outside them stay as they are",
          "[cache][chunks]") {
  const cache_case given = chunked_case();
  const chunk_plan plan = plan_of(three_chunks, 90, 4, 4 * 12 + 78);
  const compacted_text made = chunks_of(given, plan);
  CHECK(made.cache.rows == 4 * 12 + 78);
  CHECK(made.cache.rows_before == 4 * 90);
  CHECK(made.cache.skipped == std::vector<index_t>{1});
  REQUIRE(made.pieces.size() == 6);  // prefix, chunk, gap, two chunks, suffix
  CHECK(made.pieces[2].where == chunk{35, 2});
  CHECK(made.pieces[2].heads[0].outcome == head_outcome::identity);
  CHECK(made.pieces[3].where == three_chunks[1]);
  index_t chunk_rows = 0;
  for (const auto& head : made.pieces[3].heads) chunk_rows += head.rows;
  CHECK(chunk_rows == plan.budgets[1]);
  for (std::size_t l = 0; l < 2; ++l) {
    const auto& layer = made.cache.layers[l];
    CHECK(layer.number == (l == 0 ? 0 : 2));
    CHECK(layer.key_positions == layer.positions);
    for (std::size_t h = 0; h < 2; ++h) {
      const auto& block = given.view.layers[2 * l].heads[h];
      index_t at = 0;
      for (std::size_t p = 0; p < 6; ++p) {
        const auto& piece = made.pieces[p];
        const auto& own_report = piece.heads[2 * l + h];
        auto own = chunk_options().head;
        own.budget = own_report.rows;
        const auto alone =
            kvfit::compact(rows_of_block(block, piece.where), given.pair(2 * l, h), own);
        REQUIRE(alone);
        check_part(layer, h, at, *alone, piece.where.first);
        at += own_report.rows;
      }
      CHECK(at == layer.rows(h));
      CHECK(layer.heads[h].rows == at);
      CHECK(layer.heads[h].rows_before == 90);
      CHECK(layer.heads[h].outcome == head_outcome::fitted);
      CHECK(std::is_sorted(layer.positions.begin() + layer.offsets[h],
                           layer.positions.begin() + layer.offsets[h + 1]));
      // Mixtures by mass of parts that are right are right.
      const auto asked = given.pair(2 * l, h);
      const auto full = kvfit::attend(asked, {block});
      const auto small = kvfit::attend(asked, {layer.block(h)});
      REQUIRE(full);
      REQUIRE(small);
      const auto errors =
          kvfit::compare(full->output, full->log_mass, small->output, small->log_mass);
      CHECK(errors.mass_error < 0.2);
    }
  }
}

TEST_CASE(
    "one chunk of everything is the whole cache's compaction, and a budget of all is the "
    "identity",
    "[cache][chunks]") {
  const cache_case given = chunked_case();
  auto options = chunk_options();
  const compacted_text one = chunks_of(given, plan_of({{0, 90}}, 90, 4, 40));
  options.budget = 40;
  const auto whole = kvfit::compact_cache(given.view, given.queries, options);
  REQUIRE(whole);
  CHECK(same_cache(one.cache, *whole));
  const compacted_text all = chunks_of(given, plan_of(three_chunks, 90, 4, 360));
  options.budget = 360;
  const auto same = kvfit::compact_cache(given.view, given.queries, options);
  REQUIRE(same);
  CHECK(same_cache(all.cache, *same));
  for (const auto& head : all.cache.layers[0].heads) CHECK(head.outcome == head_outcome::identity);
}

TEST_CASE("each chunk may have queries of its own", "[cache][chunks]") {
  const cache_case given = chunked_case();
  const cache_case other({{.number = 0, .rows = 1},
                          {.number = 1, .rows = 1},
                          {.number = 2, .rows = 1, .key_size = 10}},
                         64);
  const chunk_plan plan = plan_of({{0, 45}, {45, 45}}, 90, 4, 40);
  const std::vector<cache_queries> own = {given.queries, other.queries};
  const auto mixed = compact_chunks(given.view, own, plan, chunk_options(), kvfit::serial{});
  REQUIRE(mixed);
  const auto first = chunks_of(given, plan);
  const auto second = compact_chunks(given.view, std::span(&other.queries, 1), plan,
                                     chunk_options(), kvfit::serial{});
  REQUIRE(second);
  const auto half = [](const compacted_text& text, bool is_first) {
    const auto& layer = text.cache.layers[0];
    const index_t rows = text.pieces[0].heads[0].rows;
    return kvfit::matrix(is_first ? layer.values.topRows(rows)
                                  : layer.values.middleRows(rows, layer.rows(0) - rows));
  };
  CHECK(half(*mixed, true) == half(first, true));
  CHECK(half(*mixed, false) == half(*second, false));
  CHECK(half(*mixed, false) != half(first, false));
}

TEST_CASE("chunks give the same bytes at any number of threads, and say how far they are",
          "[cache][chunks]") {
  const cache_case given = chunked_case();
  const chunk_plan plan = plan_of(three_chunks, 90, 4, 100);
  const compacted_text alone = chunks_of(given, plan);
  kvfit::thread_pool pool(4);
  std::vector<index_t> seen;
  const auto shared =
      compact_chunks(given.view, std::span(&given.queries, 1), plan, chunk_options(), pool,
                     {.progress = [&](index_t done, index_t count) {
                       CHECK(count == 12);  // three chunks of four heads
                       seen.push_back(done);
                     }});
  REQUIRE(shared);
  CHECK(same_cache(alone.cache, shared->cache));
  REQUIRE(seen.size() == 12);
  for (std::size_t i = 0; i < 12; ++i) CHECK(seen[i] == static_cast<index_t>(i) + 1);
  kvfit::cancellation stop;
  const auto cut =
      compact_chunks(given.view, std::span(&given.queries, 1), plan, chunk_options(),
                     kvfit::serial{}, {.cancel = &stop, .progress = [&](index_t done, index_t) {
                                         if (done == 6) stop.request();
                                       }});
  REQUIRE_FALSE(cut);
  CHECK(cut.error().code == errc::cancelled);
}

TEST_CASE("a deadline holds for chunks, before the first and within any", "[cache][chunks]") {
  const cache_case given = chunked_case();
  const chunk_plan plan = plan_of(three_chunks, 90, 4, 4 * 12 + 78);
  const auto past = std::chrono::steady_clock::now();
  const auto late = compact_chunks(given.view, std::span(&given.queries, 1), plan, chunk_options(),
                                   kvfit::serial{}, {.deadline = past});
  REQUIRE_FALSE(late);
  CHECK(late.error().code == errc::cancelled);

  kvfit::watch by;
  const auto begin = std::chrono::steady_clock::now();
  by.deadline = begin + std::chrono::hours(1);
  CHECK(compact_chunks(given.view, std::span(&given.queries, 1), plan, chunk_options(),
                       kvfit::serial{}, by));
  const auto now = std::chrono::steady_clock::now();
  by.deadline = now + 4 * (now - begin) + std::chrono::milliseconds(100);
  by.progress = [&by](index_t done, index_t) {
    if (done == 6) std::this_thread::sleep_until(*by.deadline);  // in the second chunk
  };
  const auto midway = compact_chunks(given.view, std::span(&given.queries, 1), plan,
                                     chunk_options(), kvfit::serial{}, by);
  REQUIRE_FALSE(midway);
  CHECK(midway.error().code == errc::cancelled);
  CHECK(midway.error().detail == "in the piece at row 37 of the text");
}

TEST_CASE("§17 chunks prefilled alone stand where a prefill of the whole text has them",
          "[cache][chunks]") {
  const unrotated text;
  const prefilled_part whole(text, 0, 60, 0);
  const prefilled_part prefix(text, 0, 4, 0);
  // Each chunk behind a template of its own (three and two rows), at local positions.
  const prefilled_part one(text, 1, 3 + 26, 0);
  const prefilled_part two(text, 28, 2 + 30, 100);
  const cache_queries nobody;
  constexpr index_t all = std::numeric_limits<index_t>::max();
  const std::vector<text_piece> pieces = {
      {.cache = prefix.view(0), .where = {0, 4}, .place = 0, .budget = all},
      {.cache = one.view(0), .where = {3, 26}, .place = 4, .position = 4, .budget = all},
      {.cache = two.view(100), .where = {2, 30}, .place = 30, .position = 30, .budget = all}};
  const auto made = compact_pieces(std::span(pieces), chunk_options(), kvfit::serial{});
  INFO((made ? "" : made.error().message()));
  REQUIRE(made);
  for (const std::size_t l : {0U, 1U}) {
    const auto& layer = made->cache.layers[l];
    REQUIRE(layer.keys.rows() == 60);
    CHECK((layer.keys - whole.keys[l]).cwiseAbs().maxCoeff() <= 2e-6F);
    CHECK(layer.values == text.values);
    for (index_t row = 0; row < 60; ++row) {
      CHECK(layer.positions[static_cast<std::size_t>(row)] == row);
      CHECK(layer.key_positions[static_cast<std::size_t>(row)] == row);
    }
  }
}

TEST_CASE("a chunk prefilled alone is fitted as it is, and turned after", "[cache][chunks]") {
  const unrotated text;
  const prefilled_part local(text, 0, 40, 0);
  const kvfit::matrix asked = random_matrix(32, 8, 7);
  const kvfit::matrix asked_more = random_matrix(32, 12, 8);
  cache_queries queries = {{.layer = 0, .heads = {{asked}}}, {.layer = 1, .heads = {{asked_more}}}};
  auto options = chunk_options();
  options.head.storage.rows = kvfit::dtype::fp16;
  const text_piece piece{.cache = local.view(0),
                         .where = {4, 36},
                         .place = 1000,
                         .position = 1000,
                         .budget = 2 * 9,
                         .queries = queries};
  const auto made = compact_pieces(std::span(&piece, 1), options, kvfit::serial{});
  INFO((made ? "" : made.error().message()));
  REQUIRE(made);
  for (const std::size_t l : {0U, 1U}) {
    auto own = options.head;
    own.budget = 9;
    auto alone = kvfit::compact(rows_of_block(local.view(0).layers[l].heads[0], {4, 36}),
                                l == 0 ? asked : asked_more, own);
    REQUIRE(alone);
    REQUIRE(kvfit::move_keys(*alone, l == 0 ? first_rope() : second_rope(), 1000 - 4,
                             kvfit::dtype::fp16));
    check_part(made->cache.layers[l], 0, 0, *alone, 1000);
    CHECK(made->cache.layers[l].key_positions == alone->key_positions);
    CHECK(made->cache.layers[l].key_positions == made->cache.layers[l].positions);
  }
}

TEST_CASE("a chunk that no query sees is an error with its place, or a fallback that is reported",
          "[cache][chunks]") {
  cache_case given = chunked_case();
  for (auto& layer : given.queries) {
    for (auto& head : layer.heads) head.first_position = 10;  // 10 … 57
  }
  auto options = chunk_options();
  options.head.rule.causal = true;
  const chunk_plan plan = plan_of({{0, 60}, {60, 30}}, 90, 4, 40);
  const auto refused =
      compact_chunks(given.view, std::span(&given.queries, 1), plan, options, kvfit::serial{});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::all_masked);
  CHECK(refused.error().detail.find("row 60 of the text") != std::string::npos);
  options.fallback = kvfit::head_fallback::copies;
  const auto kept = chunks_of(given, plan, options);
  CHECK(kept.cache.rows == 40);
  CHECK(kept.cache.fallbacks == 4);
  CHECK(kept.cache.layers[0].heads[0].outcome == head_outcome::fallback);
  REQUIRE(kept.cache.layers[0].heads[0].cause);
  CHECK(kept.cache.layers[0].heads[0].cause->code == errc::all_masked);
}

TEST_CASE("hidden rows of a chunk are not kept, and a chunk of them alone keeps nothing",
          "[cache][chunks]") {
  cache_case given = chunked_case();
  std::vector<float> bias(90, 0.0F);
  for (std::size_t row = 0; row < 45; ++row) {
    bias[row] = -std::numeric_limits<float>::infinity();
  }
  bias[89] = -std::numeric_limits<float>::infinity();
  given.view.layers[0].heads[1].bias = bias;
  const auto made = chunks_of(given, plan_of({{0, 45}, {45, 40}}, 90, 4, 60));
  const auto& layer = made.cache.layers[0];
  for (index_t at = layer.offsets[1]; at < layer.offsets[2]; ++at) {
    const index_t row = layer.positions[static_cast<std::size_t>(at)];
    CHECK(row >= 45);
    CHECK(row < 89);
  }
  CHECK(made.pieces[0].heads[1].outcome == head_outcome::empty);
  CHECK(layer.heads[1].outcome == head_outcome::fitted);
  CHECK(layer.heads[1].rows == layer.rows(1));
}

TEST_CASE("pieces that do not make one text are refused before any is compacted",
          "[cache][chunks]") {
  const unrotated text;
  const prefilled_part part(text, 0, 40, 0);
  const auto sound = [&] {
    return std::vector<text_piece>{
        {.cache = part.view(0), .where = {0, 20}, .place = 0, .budget = 40},
        {.cache = part.view(0), .where = {20, 20}, .place = 20, .position = 25, .budget = 40}};
  };
  const auto cause = [&](const auto& change, cache_options options = chunk_options()) {
    auto pieces = sound();
    change(pieces);
    const auto made = compact_pieces(std::span<const text_piece>(pieces), options, kvfit::serial{});
    REQUIRE_FALSE(made);
    return made.error();
  };
  const auto nothing = [](auto&) {};
  {
    const auto pieces = sound();
    REQUIRE(compact_pieces(std::span(pieces), chunk_options(), kvfit::serial{}));
  }
  CHECK(cause([](auto& p) { p.clear(); }).code == errc::empty_input);
  const auto gap = cause([](auto& p) { p[1].place = 21; });
  CHECK(gap.code == errc::invalid_position);
  CHECK(gap.actual == 21);
  CHECK(gap.expected == 20);
  CHECK(cause([](auto& p) { p[0].place = -1; }).argument == "place");
  CHECK(cause([](auto& p) { p[1].where = {30, 11}; }).actual == 11);
  CHECK(cause([](auto& p) { p[1].budget = 0; }).argument == "budget");
  const auto unknown = cause([](auto& p) { p[1].cache.layers[1].rotation.reset(); });
  CHECK(unknown.code == errc::missing_entry);
  CHECK(unknown.argument == "layer 1: rotation");
  CHECK(cause([](auto& p) { p[1].cache.layers[1].rotation->base = -1; }).argument ==
        "L1H0: rope.base");
  CHECK(cause([](auto& p) { p[1].cache.layers.pop_back(); }).argument == "layers");
  CHECK(cause([](auto& p) { p[1].cache.layers[1].number = 7; }).argument == "layer 7: number");
  CHECK(cause([](auto& p) {
          auto& heads = p[1].cache.layers[1].heads;
          heads.push_back(heads.front());
        }).argument == "layer 1: heads");
  CHECK(cause([](auto& p) {
          p[1].cache.layers[1].heads[0].keys = p[1].cache.layers[0].heads[0].keys;
        }).argument == "layer 1: d_k");
  CHECK(cause([](auto& p) {
          p[1].cache.layers.push_back({.number = 9, .kind = kvfit::layer_kind::recurrent});
        }).argument == "layer");
  CHECK(cause([](auto& p) { p[1].cache.layers[1].heads[0].keys = {}; }).argument == "layer 1: d_k");
  auto options = chunk_options();
  options.head.protect.first = 1;
  CHECK(cause(nothing, options).argument == "protect");
  options = chunk_options();
  options.head.selection = kvfit::selection::joint{.prior = std::vector<float>(8, 1.0F)};
  CHECK(cause(nothing, options).argument == "joint.prior");
  options = chunk_options();
  options.shares = kvfit::budgets::rows{};
  CHECK(cause(nothing, options).argument == "shares");
  options = chunk_options();
  options.skip = {0, 1};
  CHECK(cause(nothing, options).code == errc::empty_input);

  const cache_case given = chunked_case();
  auto plan = plan_of(three_chunks, 90, 4, 100);
  const auto refusal = [&](const kvfit::cache_view& view, const chunk_plan& asked) {
    const auto made =
        compact_chunks(view, std::span(&given.queries, 1), asked, chunk_options(), kvfit::serial{});
    REQUIRE_FALSE(made);
    return made.error();
  };
  auto uneven = given.view;
  uneven.layers[2].heads[1] = uneven.layers[1].heads[1];
  CHECK(refusal(uneven, plan).argument == "L2H1: keys");
  plan.chunks.back().rows = 26;
  CHECK(refusal(given.view, plan).argument == "chunks");
  plan.budgets.pop_back();
  CHECK(refusal(given.view, plan).argument == "plan.budgets");
  plan = plan_of(three_chunks, 90, 4, 100);
  const std::vector<cache_queries> two = {given.queries, given.queries};
  CHECK(compact_chunks(given.view, two, plan, chunk_options(), kvfit::serial{}).error().argument ==
        "queries");
}

}  // namespace kvfit_test
