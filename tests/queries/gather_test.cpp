// SPDX-License-Identifier: MIT
#include "kvfit/queries/gather.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "queries/tiny_text.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::gather_queries;
using kvfit::query_mixture;
using kvfit::reference_queries;
using kvfit::token;
namespace sources = kvfit::sources;

namespace {

/// The largest difference of queries from those of an oracle that has read all of it: the context,
/// then `reading` after it, or the context alone.
double worst(const reference_queries& queries, const kvfit::query_reading& reading,
             const oracle_run& oracle) {
  double most = 0;
  for (const reference_queries::layer& layer : queries.layers) {
    for (std::size_t i = 0; i < reading.rows.size(); ++i) {
      const auto at = static_cast<std::size_t>(reading.position + reading.rows[i]);
      const auto& token = oracle.layers[static_cast<std::size_t>(layer.number)][at];
      for (std::size_t h = 0; h < layer.heads.size(); ++h) {
        const auto row = layer.heads[h].row(reading.first_row + static_cast<index_t>(i));
        most = std::max(most, difference(row, token.queries[h]));
      }
    }
  }
  return most;
}

bool same_bytes(const reference_queries& a, const reference_queries& b) {
  if (a.positions != b.positions || a.layers.size() != b.layers.size()) return false;
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    if (a.layers[l].heads != b.layers[l].heads) return false;
  }
  return true;
}

std::vector<index_t> numbers_from(index_t first, index_t count) {
  std::vector<index_t> all;
  for (index_t i = 0; i < count; ++i) all.push_back(first + i);
  return all;
}

}  // namespace

TEST_CASE("queries of a repeat are those of the model reading it after the context",
          "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 30, {.chunk = 11});
  const auto prompt = model.text(4, 9);
  const auto queries = gather_queries(text.read, text.tokens, text.prefix, sources::repeat{prompt});
  REQUIRE(queries);
  REQUIRE(queries->layers.size() == 3);
  CHECK(queries->rows() == 34);
  CHECK(queries->positions == numbers_from(30, 34));
  REQUIRE(queries->readings.size() == 1);
  CHECK(queries->readings[0].tokens == joined(prompt, text.tokens));
  const auto all = joined(text.tokens, joined(prompt, text.tokens));
  CHECK(worst(*queries, queries->readings[0], oracle_read(model, all)) < tiny_tolerance);

  const kvfit::cache_queries view = queries->view();
  REQUIRE(view.size() == 3);
  CHECK(view[2].layer == 2);
  REQUIRE(view[2].heads.size() == 4);
  CHECK(view[2].heads[3].rows.rows() == 34);
  CHECK(view[2].heads[3].position(33) == 63);
  const kvfit::gather_report& report = queries->report;
  CHECK(report.budget == 10000);
  CHECK(report.rows == 5000);
  CHECK_FALSE(report.is_cut_by_memory);
  REQUIRE(report.sources.size() == 1);
  CHECK(report.sources[0].name == "repeat");
  CHECK(report.sources[0].asked == 5000);
  CHECK(report.sources[0].obtained == 34);
  CHECK(report.sources[0].kept == 34);
  CHECK(report.bytes == 34 * (3 * 4 * 8 * 4 + 8));
}

TEST_CASE("queries of the context stand where they stood, or all behind it", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 30);
  const auto causal = gather_queries(text.read, text.tokens, text.prefix, sources::context{6});
  const auto published =
      gather_queries(text.read, text.tokens, text.prefix, sources::context{6, false});
  REQUIRE(causal);
  REQUIRE(published);
  CHECK(causal->positions == numbers_from(6, 24));
  CHECK(published->positions == numbers_from(30, 24));
  CHECK(causal->layers[1].heads == published->layers[1].heads);
  CHECK(worst(*causal, causal->readings[0], oracle_read(model, text.tokens)) < tiny_tolerance);

  // What each form sees of the cache under a causal rule.
  const kvfit::cache_view full = text.full.cache.view();
  const auto masses = [&](const reference_queries& queries, bool is_causal) {
    const kvfit::layer_queries asked = queries.view(1);
    const auto y = kvfit::attend(asked.heads[0], {full.layers[1].heads[0]}, {.causal = is_causal});
    REQUIRE(y);
    return y->log_mass;
  };
  CHECK(masses(*published, true) == masses(*published, false));
  const kvfit::vector seen = masses(*causal, true);
  const kvfit::vector all = masses(*causal, false);
  CHECK((seen.head(23).array() < all.head(23).array()).all());
  CHECK(seen[23] == all[23]);  // the last token sees everything
}

TEST_CASE("texts are read each by itself, and subsampled across all of them", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 20);
  const sources::texts three{{model.text(10, 1), model.text(1, 2), model.text(13, 3)}};
  const auto how = GENERATE(kvfit::sampling::stride, kvfit::sampling::reservoir);
  const auto queries = gather_queries(text.read, text.tokens, text.prefix, three,
                                      {.budget = 19, .how = how, .seed = 4});
  REQUIRE(queries);
  CHECK(queries->rows() == 9);  // 9 tokens of 2 query heads: 18
  CHECK(queries->report.sources[0].obtained == 24);
  std::size_t rows = 0;
  for (const kvfit::query_reading& reading : queries->readings) {
    const auto all = joined(text.tokens, reading.tokens);
    CHECK(worst(*queries, reading, oracle_read(model, all)) < tiny_tolerance);
    for (std::size_t i = 0; i < reading.rows.size(); ++i) {
      CHECK(queries->positions[rows + i] == 20 + reading.rows[i]);
    }
    CHECK(reading.first_row == static_cast<index_t>(rows));
    rows += reading.rows.size();
  }
  CHECK(rows == 9);
  if (how == kvfit::sampling::stride) CHECK(queries->positions.back() == 32);  // the last row too
}

TEST_CASE("a mixture keeps its fractions, cut alike where one source is short",
          "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 40);
  const query_mixture mixture = {{sources::repeat{}, 0.5},
                                 {sources::texts{{model.text(6, 1)}}, 0.25},
                                 {sources::cache_keys{}, 0.125},
                                 {sources::random_vectors{2.0, 5}, 0.125}};
  const auto queries = gather_queries(text.read, text.tokens, text.prefix, mixture, {.budget = 64});
  REQUIRE(queries);
  const auto& report = queries->report.sources;
  REQUIRE(report.size() == 4);
  const std::vector<index_t> asked = {16, 8, 4, 4};
  const std::vector<index_t> obtained = {40, 6, 20, 4};
  const std::vector<index_t> kept = {12, 6, 3, 3};  // γ = 6/8
  for (std::size_t s = 0; s < 4; ++s) {
    CHECK(report[s].asked == asked[s]);
    CHECK(report[s].obtained == obtained[s]);
    CHECK(report[s].kept == kept[s]);
  }
  CHECK(queries->rows() == 24);
  for (const reference_queries::layer& layer : queries->layers) {
    for (const kvfit::matrix& head : layer.heads) {
      REQUIRE(head.rows() == 24);
      CHECK(head.rowwise().norm().minCoeff() > 0);  // no row was forgotten
    }
  }
  CHECK(queries->positions[18] == 40);
  CHECK(queries->positions[23] == 40);

  // Each as far as it goes, where that is wanted.
  const auto apart = gather_queries(text.read, text.tokens, text.prefix, mixture,
                                    {.budget = 64, .is_cut_alike = false});
  REQUIRE(apart);
  const std::vector<index_t> there = {16, 6, 4, 4};
  for (std::size_t s = 0; s < 4; ++s) CHECK(apart->report.sources[s].kept == there[s]);
  CHECK(apart->rows() == 30);
}

TEST_CASE("cache keys are dealt out among the query heads of a group, as they are",
          "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 21);
  const auto queries =
      gather_queries(text.read, text.tokens, text.prefix, sources::cache_keys{}, {.budget = 12});
  REQUIRE(queries);
  CHECK(queries->rows() == 6);
  const kvfit::cache_view full = text.full.cache.view();
  for (std::size_t l = 0; l < 3; ++l) {
    for (std::size_t h = 0; h < 2; ++h) {
      std::set<index_t> rows;
      for (std::size_t g = 0; g < 2; ++g) {
        const kvfit::matrix& head = queries->layers[l].heads[2 * h + g];
        for (index_t i = 0; i < 6; ++i) {
          for (index_t r = 0; r < 21; ++r) {
            bool is_same = true;
            for (index_t k = 0; k < 8; ++k) {
              is_same = is_same && head(i, k) == full.layers[l].heads[h].keys(r, k);
            }
            if (is_same) rows.insert(r);
          }
        }
      }
      CHECK(rows.size() == 12);  // each another one
      CHECK(*rows.begin() == 0);
      CHECK(*rows.rbegin() == 20);
    }
  }
}

TEST_CASE("H: cache keys are those of rows that are not hidden", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 21);
  std::vector<float> bias(21, 0.0F);
  bias[0] = bias[13] = -std::numeric_limits<float>::infinity();
  kvfit::cache_prefix prefix = text.prefix;
  kvfit::matrix unwritten = kvfit::matrix(text.full.cache.block(1, 0).keys.rows(), 8);
  for (index_t r = 0; r < 21; ++r) {
    for (index_t k = 0; k < 8; ++k) {
      const bool is_hidden = r == 0 || r == 13;
      unwritten(r, k) = is_hidden ? std::numeric_limits<float>::quiet_NaN()
                                  : text.full.cache.block(1, 0).keys(r, k);
    }
  }
  prefix.blocks[1][0][0].keys = unwritten;
  for (auto& layer : prefix.blocks) {
    for (auto& head : layer) head[0].bias = bias;
  }
  // All that are there: 19 keys for the two query heads of a KV head.
  const auto queries =
      gather_queries(text.read, text.tokens, prefix, sources::cache_keys{}, {.budget = 100});
  INFO((queries ? "" : queries.error().message()));
  REQUIRE(queries);
  CHECK(queries->rows() == 9);
  for (std::size_t g = 0; g < 2; ++g) {
    const kvfit::matrix& head = queries->layers[1].heads[g];
    CHECK(head.allFinite());
    CHECK(kvfit::matrix(head.row(0)) == kvfit::matrix(unwritten.row(1 + static_cast<index_t>(g))));
  }
}

TEST_CASE("random vectors are Gaussian by their seed, of every head others", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 5);
  const auto make = [&](std::uint64_t seed) {
    auto queries = gather_queries(text.read, text.tokens, text.prefix,
                                  sources::random_vectors{2.0, seed}, {.budget = 1000});
    REQUIRE(queries);
    return std::move(*queries);
  };
  const reference_queries first = make(1);
  CHECK(same_bytes(first, make(1)));
  CHECK_FALSE(same_bytes(first, make(2)));
  for (const reference_queries::layer& layer : first.layers) {
    for (const kvfit::matrix& head : layer.heads) {
      // 4,000 numbers: the mean is off by 2/√4000 = 0.03, the spread by 2/√8000 = 0.02.
      CHECK(std::abs(head.mean()) < 0.15F);
      CHECK(std::sqrt(head.squaredNorm() / static_cast<float>(head.size())) ==
            Approx(2.0).margin(0.1));
    }
  }
  CHECK(first.layers[0].heads[0] != first.layers[0].heads[1]);
  CHECK(first.layers[0].heads[0] != first.layers[1].heads[0]);
}

TEST_CASE("self-study reads prompts with the answers that the model gave", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 20);
  sources::self_study study{.prompts = {model.text(3, 1), model.text(5, 2)}, .rounds = 2};
  study.limits.tokens = 7;
  study.draw = kvfit::make_sampler(kvfit::greedy{});
  const auto queries = gather_queries(text.read, text.tokens, text.prefix, study);
  REQUIRE(queries);
  REQUIRE(queries->readings.size() == 4);
  CHECK(queries->rows() == 3 + 7 + 3 + 7 + 5 + 7 + 5 + 7);
  for (std::size_t r = 0; r < 4; ++r) {
    const kvfit::query_reading& reading = queries->readings[r];
    const auto prompt = study.prompts[r / 2].size();
    // Each answer is what the oracle finds likeliest, from the prompt on: later rounds too.
    const auto all = joined(text.tokens, reading.tokens);
    const oracle_run oracle = oracle_read(model, all);
    for (std::size_t i = 20 + prompt; i < all.size(); ++i) {
      const numbers& logits = oracle.logits[i - 1];
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      CHECK(all[i] == static_cast<token>(best));
    }
    CHECK(worst(*queries, reading, oracle) < tiny_tolerance);
  }
}

TEST_CASE("every round of self-study has a seed of its own, and the same seed the same bytes",
          "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 20);
  sources::self_study study{.prompts = {model.text(3, 1)}, .rounds = 4, .limits = {.tokens = 12}};
  study.draw = kvfit::make_sampler(kvfit::nucleus{.temperature = 3, .top_p = 1, .top_k = 0});
  const auto make = [&](std::uint64_t seed) {
    study.seed = seed;
    auto queries = gather_queries(text.read, text.tokens, text.prefix, study);
    REQUIRE(queries);
    return std::move(*queries);
  };
  const reference_queries first = make(7);
  REQUIRE(first.readings.size() == 4);
  std::set<std::vector<token>> conversations;
  for (const auto& reading : first.readings) conversations.insert(reading.tokens);
  CHECK(conversations.size() == 4);
  CHECK(same_bytes(first, make(7)));
  const reference_queries other = make(8);
  for (const auto& reading : other.readings) conversations.insert(reading.tokens);
  CHECK(conversations.size() == 8);
}

TEST_CASE("an answer ends at a stop token, by the sampler's wish, or where positions do",
          "[queries][gather]") {
  tiny_engine model;
  model.known_positions = 30;
  const tiny_text text(model, 20);
  sources::self_study study{.prompts = {model.text(3, 1)}};
  const auto length = [&] {
    const auto queries = gather_queries(text.read, text.tokens, text.prefix, study);
    REQUIRE(queries);
    return queries->readings[0].tokens.size();
  };
  int draws = 0;
  study.draw = [&draws](std::span<const float>, kvfit::random_source&) -> std::optional<token> {
    return ++draws;
  };
  CHECK(length() == 10);  // positions 20 … 29
  draws = 0;
  study.limits.stop = {9, 4};
  CHECK(length() == 6);
  study.draw = [](std::span<const float>, kvfit::random_source&) { return std::nullopt; };
  CHECK(length() == 3);
  study.limits = {.tokens = 0};
  study.draw = [](std::span<const float>, kvfit::random_source&) { return token{1}; };
  CHECK(length() == 3);
}

TEST_CASE("a text goes on from logits given, and not from anything else", "[queries][generate]") {
  const tiny_engine model;
  const tiny_text text(model, 20);
  const auto greedy = kvfit::make_sampler(kvfit::greedy{});
  kvfit::random_source random(1);
  kvfit::live_cache live(text.read.shapes(), 20);
  const auto start = model.logits(text.full.hidden.bottomRows(1));
  REQUIRE(start);
  const auto more =
      kvfit::generate(text.read, text.prefix, live, *start, greedy, random, {.tokens = 6});
  REQUIRE(more);
  CHECK(more->size() == 6);
  CHECK(live.rows(0) == 5);  // the last one has not been read
  const oracle_run oracle = oracle_read(model, joined(text.tokens, *more));
  for (std::size_t i = 0; i < 6; ++i) {
    const numbers& logits = oracle.logits[19 + i];
    CHECK((*more)[i] == std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

  const auto refused = [&](const kvfit::matrix& logits, const kvfit::sampler& draw,
                           index_t tokens) {
    const auto none =
        kvfit::generate(text.read, text.prefix, live, logits, draw, random, {.tokens = tokens});
    REQUIRE_FALSE(none.has_value());
    CHECK(live.rows(0) == 5);
    return none.error().argument;
  };
  CHECK(refused(start->leftCols(3), greedy, 6) == "logits");
  CHECK(refused(*start, {}, 6) == "sampler");
  CHECK(refused(*start, greedy, -1) == "tokens");
  kvfit::live_cache elsewhere(text.read.shapes().first(2), 20);
  CHECK_FALSE(kvfit::generate(text.read, text.prefix, elsewhere, *start, greedy, random));
}

TEST_CASE("a memory cap lowers the number of queries, and says so", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 40);
  const index_t row = 3 * 4 * 8 * 4 + 8;
  const query_mixture mixture = {{sources::repeat{}, 0.75}, {sources::random_vectors{}, 0.25}};
  const auto queries = gather_queries(text.read, text.tokens, text.prefix, mixture,
                                      {.budget = 60, .memory = 13 * row - 1});
  REQUIRE(queries);
  CHECK(queries->report.is_cut_by_memory);
  CHECK(queries->report.budget == 60);
  CHECK(queries->report.rows == 12);
  CHECK(queries->rows() == 12);
  CHECK(queries->report.sources[0].kept == 9);
  CHECK(queries->report.sources[1].kept == 3);
  CHECK(queries->report.bytes == 12 * row);
  CHECK(queries->positions[8] == 79);  // still to the end of the repeat

  const auto none = gather_queries(text.read, text.tokens, text.prefix, mixture,
                                   {.budget = 60, .memory = 4 * row - 1});
  REQUIRE_FALSE(none.has_value());
  CHECK(none.error().code == errc::memory_cap_exceeded);
  CHECK(none.error().actual == 4 * row);
  CHECK(none.error().expected == 4 * row - 1);
}

TEST_CASE("layers that are not global give no queries, but are read through", "[queries][gather]") {
  tiny_engine model;
  model.stack[1].shape.kind = kvfit::layer_kind::sliding;
  model.stack[1].shape.rule.window = 5;
  const tiny_text text(model, 16);
  const auto queries = gather_queries(text.read, text.tokens, text.prefix, sources::repeat{});
  REQUIRE(queries);
  REQUIRE(queries->layers.size() == 2);
  CHECK(queries->layers[1].number == 2);
  const oracle_run oracle = oracle_read(model, joined(text.tokens, text.tokens));
  CHECK(worst(*queries, queries->readings[0], oracle) < tiny_tolerance);
}

TEST_CASE("gatherings that can't be are refused before any text is read", "[queries][gather]") {
  const tiny_engine model;
  const tiny_text text(model, 20);
  const auto cause = [&](const query_mixture& mixture, const kvfit::gather_options& options = {}) {
    const auto before = model.projections;
    const auto queries = gather_queries(text.read, text.tokens, text.prefix, mixture, options);
    REQUIRE_FALSE(queries.has_value());
    INFO(queries.error().message());
    CHECK(model.projections == before);
    return queries.error();
  };
  const sources::repeat repeat;
  CHECK(cause({}).code == errc::empty_input);
  CHECK(cause({{repeat, 0.0}}).code == errc::invalid_option);
  CHECK(cause({{repeat, 0.7}, {repeat, 0.7}}).code == errc::invalid_option);
  CHECK(cause({{repeat, 1}}, {.budget = 0}).code == errc::budget_out_of_range);
  CHECK(cause({{repeat, 1}}, {.budget = 1}).expected == 2);  // two query heads a KV head
  CHECK(cause({{repeat, 0.9}, {repeat, 0.1}}, {.budget = 18}).code == errc::budget_out_of_range);
  CHECK(cause({{sources::texts{}, 1}}).argument == "texts");
  CHECK(cause({{sources::texts{{{}}}, 1}}).code == errc::empty_input);
  CHECK(cause({{sources::texts{{{1}, {99}}}, 1}}).actual == 99);
  CHECK(cause({{sources::texts{{model.text(181, 1)}}, 1}}).actual == 201);
  CHECK(cause({{sources::context{20}, 1}}).argument == "context.first");
  CHECK(cause({{sources::random_vectors{0}, 1}}).argument == "random_vectors.spread");

  // What is wrong with the last is found before the first answers.
  const sources::self_study study{.prompts = {{1, 2}}};
  const sources::self_study no_prompts;
  const sources::self_study empty{.prompts = {{1}, {}}};
  const sources::self_study no_rounds{.prompts = {{1}}, .rounds = 0};
  CHECK(cause({{study, 0.5}, {no_prompts, 0.5}}).argument == "self_study.prompts");
  CHECK(cause({{study, 0.5}, {empty, 0.5}}).code == errc::empty_input);
  CHECK(cause({{study, 0.5}, {no_rounds, 0.5}}).argument == "self_study.rounds");
  CHECK(cause({{study, 0.5}, {sources::texts{}, 0.5}}).argument == "texts");

  const auto other = std::span(text.tokens).first(19);
  const auto refused = gather_queries(text.read, other, text.prefix, sources::context{});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == errc::shape_mismatch);
  CHECK(gather_queries(text.read, {}, text.prefix, repeat).error().argument == "context");
  CHECK(gather_queries(text.read, {}, {}, sources::cache_keys{}).error().argument == "cache_keys");
}

TEST_CASE("a sampler's token outside the vocabulary, and the wish to stop, end a gathering",
          "[queries][gather]") {
  const tiny_engine model;
  kvfit::cancellation stop;
  const tiny_text text(model, 20, {.stop = {.cancel = &stop}});
  sources::self_study study{.prompts = {{1, 2}}};
  study.draw = [](std::span<const float> logits, kvfit::random_source&) {
    return static_cast<token>(logits.size());
  };
  const auto outside = gather_queries(text.read, text.tokens, text.prefix, study);
  REQUIRE_FALSE(outside.has_value());
  CHECK(outside.error().argument == "sampler");
  CHECK(outside.error().actual == 29);
  study.draw = [&stop](std::span<const float>, kvfit::random_source&) {
    stop.request();
    return token{1};
  };
  const auto stopped = gather_queries(text.read, text.tokens, text.prefix, study);
  REQUIRE_FALSE(stopped.has_value());
  CHECK(stopped.error().code == errc::cancelled);
}

}  // namespace kvfit_test
