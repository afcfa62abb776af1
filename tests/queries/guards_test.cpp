// SPDX-License-Identifier: MIT
// One test for each guard of queries/ that no other test needs.
#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/queries/compact_by_layers.hpp"
#include "kvfit/queries/gather.hpp"
#include "kvfit/queries/held_out_judge.hpp"
#include "kvfit/queries/hold_out_texts.hpp"
#include "kvfit/queries/model_influence.hpp"
#include "kvfit/queries/refine_passes.hpp"
#include "queries/tiny_text.hpp"
#include "support/need_error.hpp"

namespace kvfit_test::queries_guards {

using kvfit::errc;
using kvfit::token;
namespace sources = kvfit::sources;

namespace {

/// An engine whose answers are not what was asked for, from some moment on.
struct odd_engine : tiny_engine {
  index_t embedded_rows = 0;  ///< more than there are tokens
  std::string spoilt = {};    ///< which rows have other sizes than said
  index_t finished_rows = 0;  ///< hidden states more than came in
  index_t finished_columns = 0;
  index_t logit_rows = 0;  ///< more than hidden states
  index_t logit_columns = 0;
  bool has_logits = true;

  [[nodiscard]] kvfit::result<kvfit::matrix> embed(std::span<const token> tokens) const {
    auto hidden = tiny_engine::embed(tokens);
    hidden->conservativeResize(hidden->rows() + embedded_rows, hidden->cols());
    return hidden;
  }
  [[nodiscard]] kvfit::result<kvfit::layer_rows> project(index_t layer, const kvfit::matrix& hidden,
                                                         index_t position) const {
    auto rows = tiny_engine::project(layer, hidden, position);
    if (!rows) return rows;
    kvfit::matrix& key = rows->keys.back();
    kvfit::matrix& value = rows->values.back();
    if (spoilt == "keys") key.conservativeResize(key.rows() + 1, key.cols());
    if (spoilt == "values") value.conservativeResize(value.rows(), value.cols() + 1);
    return rows;
  }
  [[nodiscard]] kvfit::result<void> finish(index_t layer, const std::vector<kvfit::matrix>& outputs,
                                           kvfit::matrix& hidden) const {
    const auto ok = tiny_engine::finish(layer, outputs, hidden);
    hidden.conservativeResize(hidden.rows() + finished_rows, hidden.cols() + finished_columns);
    return ok;
  }
  [[nodiscard]] kvfit::result<kvfit::matrix> logits(const kvfit::matrix& hidden) const {
    if (!has_logits) return kvfit::error{errc::out_of_memory, "engine"};
    auto made = tiny_engine::logits(hidden);
    made->conservativeResize(made->rows() + logit_rows, made->cols() + logit_columns);
    return made;
  }
};

/// A compaction of a head that keeps its first rows.
kvfit::result<kvfit::compacted> first_row(const kvfit::cache_view& full, const kvfit::head_id& id) {
  const kvfit::kv_block& head =
      full.layers[static_cast<std::size_t>(id.layer)].heads[static_cast<std::size_t>(id.head)];
  const std::vector<index_t> row = {0};
  kvfit::compacted small;
  small.positions = row;
  small.key_positions = row;
  small.keys = kvfit::gather_rows(head.keys, row);
  small.values = kvfit::gather_rows(head.values, row);
  small.bias = kvfit::vector::Zero(1);
  return small;
}

kvfit::reference_queries repeated(const tiny_text& text) {
  auto queries =
      kvfit::gather_queries(text.read, text.tokens, text.prefix, sources::repeat{}, {.budget = 40});
  REQUIRE(queries);
  return std::move(*queries);
}

/// Layer l of a text, one row a head.
kvfit::compacted_layer small_layer(const tiny_text& text, std::size_t l) {
  const kvfit::cache_view view = text.full.cache.view();
  const kvfit::reference_queries queries = repeated(text);
  auto made = compact_heads(view.layers[l], queries.view(l), 2);
  REQUIRE(made);
  return std::move(*made);
}

}  // namespace

TEST_CASE("O: every answer of an engine is held against what was asked for",
          "[queries][reader][guards]") {
  odd_engine model;
  const auto read = kvfit::make_reader(model);
  REQUIRE(read);
  const auto tokens = model.text(5, 1);
  const auto cause = [&](const char* argument) {
    need_error(kvfit::prefill(*read, tokens), errc::shape_mismatch, argument);
  };
  REQUIRE(kvfit::prefill(*read, tokens));
  model.embedded_rows = 1;
  cause("hidden");
  model.embedded_rows = 0;
  model.spoilt = "keys";
  cause("keys");
  model.spoilt = "values";
  cause("values");
  model.spoilt.clear();
  model.finished_rows = 1;
  cause("hidden");
  model.finished_rows = 0;
  model.finished_columns = 1;
  cause("hidden");
  model.finished_columns = 0;

  // Logits: where a text is gone on with, and where the model is listened to.
  const auto text = kvfit::prefill(*read, tokens);
  REQUIRE(text);
  const kvfit::cache_prefix prefix = kvfit::prefix_of(text->cache);
  const sources::self_study study{.prompts = {{1, 2}}, .limits = {.tokens = 2}};
  const std::vector<std::vector<token>> texts = {{1, 2, 3}};
  const std::vector<index_t> grid = {1};
  const kvfit::cache_view full = text->cache.view();
  const auto both = [&](errc code, const char* argument) {
    need_error(kvfit::gather_queries(*read, tokens, prefix, study), code, argument);
    need_error(kvfit::measure_model_influence(
                   *read, full, 5, texts, grid,
                   [&](const kvfit::head_id& id, index_t) { return first_row(full, id); }),
               code, argument);
  };
  CHECK(kvfit::gather_queries(*read, tokens, prefix, study));
  model.logit_rows = 1;
  both(errc::shape_mismatch, "logits");
  model.logit_rows = 0;
  model.logit_columns = 1;
  both(errc::shape_mismatch, "logits");
  model.logit_columns = 0;
  model.has_logits = false;
  both(errc::out_of_memory, "engine");
}

TEST_CASE("O: a reader refuses engines without a vocabulary, and live rows of another one",
          "[queries][reader][guards]") {
  tiny_engine mute;
  mute.embedding.resize(0, tiny_engine::width);
  need_error(kvfit::make_reader(mute), errc::empty_input, "vocabulary");
  const tiny_engine model;
  const tiny_engine taller(4);
  const auto read = kvfit::make_reader(model);
  const auto other = kvfit::make_reader(taller);
  REQUIRE(read);
  REQUIRE(other);
  const auto tokens = model.text(4, 1);
  kvfit::live_cache wrong(other->shapes(), 0);
  need_error(read->read({}, wrong, tokens), errc::shape_mismatch, "live");
  kvfit::matrix hidden = *read->embed(tokens, 0);
  need_error(read->run({}, wrong, 0, 3, hidden), errc::shape_mismatch, "live");
  kvfit::live_cache live(read->shapes(), 0);
  for (const auto& [first, end] : {std::pair<index_t, index_t>{-1, 3}, {1, 1}, {2, 1}, {0, 4}}) {
    need_error(read->run({}, live, first, end, hidden), errc::invalid_option, "layers");
  }
  kvfit::matrix nothing(0, tiny_engine::width);
  need_error(read->run({}, live, 0, 3, nothing), errc::empty_input, "hidden");
  REQUIRE(read->run({}, live, 0, 1, hidden));  // layer 0 is now four rows ahead
  kvfit::matrix again = *read->embed(tokens, 4);
  need_error(read->run({}, live, 0, 3, again), errc::shape_mismatch, "live");
  need_error(read->check_tokens(tokens, -1), errc::invalid_option, "tokens");
  CHECK(read->check_tokens(tokens, 196));
  need_error(read->check_tokens(tokens, 197), errc::invalid_option, "tokens");
}

TEST_CASE("O: a prefix is cut, replaced and read over only where it fits",
          "[queries][prefix][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::compacted_layer small = small_layer(text, 1);
  const auto replaced = [&](const kvfit::cache_prefix& prefix, const kvfit::compacted_layer& layer,
                            index_t first = 0, index_t end = 12) {
    kvfit::cache_prefix copy = prefix;
    return kvfit::replace_rows(copy, layer, first, end);
  };
  REQUIRE(replaced(text.prefix, small));
  need_error(replaced(text.prefix, small, -1), errc::invalid_position, "end");
  kvfit::compacted_layer negative = small;
  negative.number = -1;
  CHECK_FALSE(replaced(text.prefix, negative));
  kvfit::compacted_layer behind = small;
  behind.key_positions.back() = 12;
  need_error(replaced(text.prefix, behind), errc::invalid_position, "key_positions");
  kvfit::cache_prefix one_head = text.prefix;
  one_head.blocks[1].pop_back();
  need_error(replaced(one_head, small), errc::shape_mismatch, "offsets");
  const auto torn = [&](errc code, const char* argument, const auto& spoil) {
    kvfit::cache_prefix prefix = text.prefix;
    spoil(prefix.blocks[1][1][0]);
    need_error(replaced(prefix, small), code, argument);
  };
  torn(errc::shape_mismatch, "values",
       [](kvfit::kv_block& block) { block.values = block.values.middle_rows(0, 11); });
  const std::vector<kvfit::row_view> masks(2);
  torn(errc::invalid_option, "masks", [&](kvfit::kv_block& block) { block.masks = masks; });
  std::vector<index_t> falling = {0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11};
  torn(errc::invalid_position, "positions",
       [&](kvfit::kv_block& block) { block.positions = falling; });
  torn(errc::invalid_option, "first_position",
       [](kvfit::kv_block& block) { block.first_position = std::numeric_limits<index_t>::max(); });

  const auto checked = [&](const auto& spoil) {
    kvfit::cache_prefix prefix = text.prefix;
    spoil(prefix);
    return kvfit::check_prefix(prefix, text.read.shapes());
  };
  need_error(checked([](auto& prefix) { prefix.positions = -1; }), errc::invalid_option,
             "prefix.positions");
  need_error(checked([](auto& prefix) {
               auto& block = prefix.blocks[0][0][0];
               block.values = block.values.middle_cols(0, 5);
             }),
             errc::shape_mismatch, "values");
  need_error(checked([](auto& prefix) {
               auto& block = prefix.blocks[0][0][0];
               block.keys = block.keys.middle_cols(0, 7);
             }),
             errc::shape_mismatch, "keys");
  CHECK(checked([](auto& prefix) { prefix.blocks[0].clear(); }));
  CHECK(checked([](auto& prefix) {  // no rows stand nowhere
    auto& block = prefix.blocks[0][0][0];
    block.keys = block.keys.middle_rows(0, 0);
    block.values = block.values.middle_rows(0, 0);
    block.first_position = 50;
  }));
}

TEST_CASE("O: biases and positions are cut with their rows, and hidden keys stand nowhere",
          "[queries][prefix][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  std::vector<float> bias(12);
  std::vector<index_t> places(12);
  for (std::size_t i = 0; i < 12; ++i) {
    bias[i] = 0.01F * static_cast<float>(i);
    places[i] = static_cast<index_t>(i);
  }
  kvfit::cache_prefix prefix = text.prefix;
  for (auto& head : prefix.blocks[1]) {
    head[0].bias = bias;
    head[0].positions = places;
  }
  kvfit::compacted_layer small = small_layer(text, 1);
  for (index_t& position : small.key_positions) position = 6;
  REQUIRE(kvfit::replace_rows(prefix, small, 5, 9));
  const auto& head = prefix.blocks[1][0];
  REQUIRE(head.size() == 3);
  CHECK(std::ranges::equal(head[0].positions, std::vector<index_t>{0, 1, 2, 3, 4}));
  CHECK(std::ranges::equal(head[1].positions, std::vector<index_t>{9, 10, 11}));
  CHECK(head[0].bias.size() == 5);
  REQUIRE(head[1].bias.size() == 3);
  CHECK(head[1].bias[0] == bias[9]);

  // The highest key is looked for among those that are seen, in whatever order they lie.
  kvfit::cache_prefix hidden = text.prefix;
  std::vector<index_t> far = {30, 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 9};
  std::vector<float> hides(12);
  hidden.blocks[1][0][0].positions = far;
  hidden.blocks[1][0][0].bias = hides;
  need_error(kvfit::check_prefix(hidden, text.read.shapes()), errc::invalid_position, "positions");
  hides[0] = -std::numeric_limits<float>::infinity();
  CHECK(kvfit::check_prefix(hidden, text.read.shapes()));
  hidden.positions = 11;  // the key at 11 is neither the last nor hidden
  hidden.blocks = {hidden.blocks[1], hidden.blocks[1], hidden.blocks[1]};
  CHECK_FALSE(kvfit::check_prefix(hidden, text.read.shapes()));
}

TEST_CASE("O: a caller's layers are prefixes of an engine's in their order",
          "[queries][prefix][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  kvfit::cache_view view = text.full.cache.view();
  REQUIRE(kvfit::prefix_of(view, 3, 12));
  need_error(kvfit::prefix_of(view, 2, 12), errc::invalid_option, "layer.number");
  need_error(kvfit::prefix_of(view, -1, 12), errc::invalid_option, "layer.number");
  kvfit::cache_view twice = view;
  twice.layers[1].number = 0;
  need_error(kvfit::prefix_of(twice, 3, 12), errc::invalid_option, "layer.number");
  kvfit::cache_view negative = view;
  negative.layers[0].number = -1;
  need_error(kvfit::prefix_of(negative, 3, 12), errc::invalid_option, "layer.number");
  const std::vector<std::vector<token>> texts = {{1, 2}};
  const std::vector<index_t> grid = {1};
  need_error(kvfit::measure_model_influence(
                 text.read, twice, 12, texts, grid,
                 [&](const kvfit::head_id& id, index_t) { return first_row(view, id); }),
             errc::invalid_option, "layer.number");
  view.layers[1].heads[0].keys = view.layers[1].heads[0].keys.middle_cols(0, 7);
  need_error(kvfit::measure_model_influence(
                 text.read, view, 12, texts, grid,
                 [&](const kvfit::head_id& id, index_t) { return first_row(view, id); }),
             errc::shape_mismatch, "keys");
}

TEST_CASE("O: queries of another engine or cache are refused before a layer is compacted",
          "[queries][on-policy][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::reference_queries good = repeated(text);
  const kvfit::cache_view view = text.full.cache.view();
  index_t calls = 0;
  const auto compact = [&](index_t layer, const kvfit::layer_queries& given) {
    ++calls;
    return compact_heads(view.layers[static_cast<std::size_t>(layer)], given, 2);
  };
  const auto run = [&](kvfit::reference_queries queries) {
    return kvfit::compact_by_layers(text.read, text.prefix, std::move(queries), {0, 12}, compact);
  };
  REQUIRE(run(good));
  calls = 0;
  const auto refused = [&](errc code, const char* argument, const auto& spoil) {
    kvfit::reference_queries queries = good;
    spoil(queries);
    need_error(run(std::move(queries)), code, argument);
    CHECK(calls == 0);
  };
  refused(errc::shape_mismatch, "queries", [](auto& of) { of.layers.pop_back(); });
  refused(errc::shape_mismatch, "queries", [](auto& of) { of.layers[1].number = 0; });
  refused(errc::shape_mismatch, "queries", [](auto& of) { of.layers[1].heads.pop_back(); });
  refused(errc::shape_mismatch, "queries",
          [](auto& of) { of.layers[2].heads[3].conservativeResize(of.rows() - 1, 8); });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].position = 11; });
  refused(errc::invalid_position, "readings",
          [](auto& of) { std::swap(of.readings[0].rows[0], of.readings[0].rows[1]); });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].rows[0] = -1; });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].rows.back() = 12; });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].first_row = -1; });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].first_row = 1; });
  refused(errc::invalid_option, "tokens", [](auto& of) { of.readings[0].tokens[0] = 99; });
  // A text of which no row was kept is not read again.
  kvfit::reference_queries empty = good;
  empty.readings.push_back({{1, 2}, 999, true, {}, 0});
  CHECK(run(empty));
  // Prefixes are looked at before texts.
  kvfit::cache_prefix wrong = text.prefix;
  wrong.positions = 5;
  calls = 0;
  CHECK(kvfit::compact_by_layers(text.read, wrong, good, {0, 5}, compact).error().code ==
        errc::invalid_position);
  CHECK(calls == 0);
}

TEST_CASE("O: a compaction of another layer ends the way up, and fallbacks are counted",
          "[queries][on-policy][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::cache_view view = text.full.cache.view();
  const auto run = [&](index_t number_of_one, bool falls_back) {
    return kvfit::compact_by_layers(text.read, text.prefix, repeated(text), {0, 12},
                                    [&](index_t layer, const kvfit::layer_queries& given) {
                                      auto made = compact_heads(
                                          view.layers[static_cast<std::size_t>(layer)], given, 2);
                                      if (layer == 1) made->number = number_of_one;
                                      if (falls_back)
                                        made->heads[1].outcome = kvfit::head_outcome::fallback;
                                      return made;
                                    });
  };
  need_error(run(2, false), errc::invalid_option, "layer.number");
  CHECK(run(1, true)->cache.fallbacks == 3);
  CHECK(run(1, false)->cache.fallbacks == 0);
}

TEST_CASE("O: a judge is of layers in order, and a cache that lacks a head is not judged",
          "[queries][judge][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::cache_view view = text.full.cache.view();
  const kvfit::reference_queries queries = repeated(text);
  const auto judge = kvfit::held_out_judge::make(view, queries.view(), {.mass = 0});
  REQUIRE(judge);
  kvfit::compacted_cache cache;
  for (std::size_t l = 0; l < 3; ++l) cache.layers.push_back(small_layer(text, l));
  REQUIRE((*judge)(cache));
  kvfit::compacted_cache one_head = cache;
  kvfit::compacted_layer& layer = one_head.layers[1];
  layer.offsets = {0, layer.offsets[1]};
  layer.heads.resize(1);
  layer.positions.resize(static_cast<std::size_t>(layer.offsets[1]));
  layer.key_positions.resize(static_cast<std::size_t>(layer.offsets[1]));
  layer.keys.conservativeResize(layer.offsets[1], layer.keys.cols());
  layer.values.conservativeResize(layer.offsets[1], layer.values.cols());
  layer.bias.conservativeResize(layer.offsets[1]);
  need_error((*judge)(one_head), errc::missing_entry, "cache");
  kvfit::compacted_cache narrow = cache;
  narrow.layers[1].keys.conservativeResize(narrow.layers[1].keys.rows(), 7);
  CHECK_FALSE((*judge)(narrow));

  kvfit::cache_view twice = view;
  twice.layers[1].number = 0;
  kvfit::cache_queries first = {queries.view(0)};
  need_error(kvfit::held_out_judge::make(twice, first), errc::invalid_option, "layer");
  kvfit::cache_queries stranger = {queries.view(0)};
  stranger[0].layer = 7;
  need_error(kvfit::held_out_judge::make(view, stranger), errc::invalid_option,
             "queries of layer 7");
  kvfit::cache_view sliding = view;
  for (kvfit::cache_layer& of : sliding.layers) of.kind = kvfit::layer_kind::sliding;
  need_error(kvfit::held_out_judge::make(sliding, queries.view()), errc::empty_input, "queries");
  kvfit::cache_queries three = {queries.view(0)};
  three[0].heads.pop_back();
  need_error(kvfit::held_out_judge::make(view, three), errc::shape_mismatch,
             "layer 0: query heads");
  kvfit::cache_view torn = view;
  torn.layers[0].heads[1].values = torn.layers[0].heads[1].values.middle_rows(0, 11);
  CHECK_FALSE(kvfit::held_out_judge::make(torn, queries.view()));
}

TEST_CASE("O: gatherings without a layer, a text or a whole prompt end before anything is read",
          "[queries][gather][guards]") {
  tiny_engine sliding;
  for (tiny_layer& layer : sliding.stack) layer.shape.kind = kvfit::layer_kind::sliding;
  const tiny_text seen(sliding, 12);
  need_error(kvfit::gather_queries(seen.read, seen.tokens, seen.prefix, sources::repeat{}),
             errc::empty_input, "layers");
  const tiny_engine model;
  const tiny_text text(model, 12);
  const auto gather = [&](const kvfit::query_mixture& mixture,
                          const kvfit::gather_options& options = {}) {
    return kvfit::gather_queries(text.read, text.tokens, text.prefix, mixture, options);
  };
  kvfit::cache_prefix wrong = text.prefix;
  wrong.positions = 5;
  CHECK(kvfit::gather_queries(text.read, text.tokens, wrong, sources::repeat{}).error().code ==
        errc::invalid_position);
  need_error(gather({{sources::context{-1}, 1.0}}), errc::invalid_option, "context.first");
  need_error(gather({{sources::context{12}, 1.0}}), errc::invalid_option, "context.first");
  CHECK(gather({{sources::context{11}, 1.0}}));
  sources::self_study study{.prompts = {{1, 2}}, .limits = {.tokens = -1}};
  need_error(gather({{study, 1.0}}), errc::invalid_option, "self_study.limits.tokens");
  study.limits.tokens = 2;
  study.prompts = {{1, 99}};
  need_error(gather({{study, 1.0}}), errc::invalid_option, "self_study.prompts");
  std::vector<token> strange = text.tokens;
  strange[3] = 99;
  need_error(kvfit::gather_queries(text.read, strange, text.prefix, sources::context{}),
             errc::invalid_option, "tokens");
  need_error(gather({{sources::repeat{}, 1.0}}, {.budget = 1}), errc::budget_out_of_range,
             "budget");  // a query a head, of two to a KV head
  CHECK(gather({{sources::repeat{}, 1.0}}, {.budget = 2})->rows() == 1);
  need_error(gather({{sources::repeat{}, 1.0}}, {.memory = -1}), errc::memory_cap_exceeded,
             "memory");
  kvfit::cache_prefix bare = text.prefix;
  bare.blocks[1].clear();
  need_error(kvfit::gather_queries(text.read, text.tokens, bare, sources::cache_keys{}),
             errc::empty_input, "cache_keys");
}

TEST_CASE("O: a sampler that draws no token of the vocabulary ends a text",
          "[queries][generate][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const auto generated = [&](token drawn, const kvfit::matrix& logits) {
    kvfit::live_cache live(text.read.shapes(), 12);
    kvfit::random_source random(1);
    return kvfit::generate(
        text.read, text.prefix, live, logits,
        [drawn](std::span<const float>, kvfit::random_source&) { return std::optional(drawn); },
        random, {.tokens = 2});
  };
  const kvfit::matrix logits = kvfit::matrix::Zero(1, model.vocabulary());
  CHECK(generated(0, logits)->size() == 2);
  need_error(generated(-1, logits), errc::invalid_option, "sampler");
  need_error(generated(29, logits), errc::invalid_option, "sampler");
  const kvfit::matrix two = kvfit::matrix::Zero(2, model.vocabulary());
  need_error(generated(0, two), errc::shape_mismatch, "logits");
  const kvfit::matrix wide = kvfit::matrix::Zero(1, model.vocabulary() + 1);
  need_error(generated(0, wide), errc::shape_mismatch, "logits");
}

TEST_CASE("O: sets of queries whose parts do not fit are not parted", "[queries][judge][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::reference_queries good = repeated(text);
  REQUIRE(kvfit::hold_out(good, 2));
  const auto refused = [&](errc code, const char* argument, const auto& spoil) {
    kvfit::reference_queries queries = good;
    spoil(queries);
    need_error(kvfit::hold_out(queries, 2), code, argument);
    need_error(kvfit::hold_out_texts(queries), code, argument);
  };
  refused(errc::shape_mismatch, "queries",
          [](auto& of) { of.layers[1].heads[2].conservativeResize(of.rows() - 1, 8); });
  refused(errc::shape_mismatch, "queries", [](auto& of) { of.positions.push_back(99); });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].first_row = -1; });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].first_row = 1; });
  refused(errc::invalid_position, "readings",
          [](auto& of) { of.readings[0].first_row = std::numeric_limits<index_t>::max(); });
  refused(errc::invalid_position, "readings", [](auto& of) { of.readings[0].rows.push_back(3); });
  for (const index_t every : {index_t{1}, index_t{13}}) {
    need_error(kvfit::hold_out(good, every), errc::invalid_option, "every");
  }
  CHECK(kvfit::hold_out(good, 12)->judge.rows() == 1);
}

TEST_CASE("O: texts that judge leave queries to fit on, or say that there are none",
          "[queries][judge][guards]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::reference_queries queries = repeated(text);  // one text of 12 tokens
  need_error(kvfit::hold_out_texts(queries, {.stretch = 0}), errc::invalid_option, "stretch");
  need_error(kvfit::hold_out_texts(queries, {.every = 1}), errc::invalid_option, "every");
  need_error(kvfit::hold_out_texts(queries, {.most = 0}), errc::invalid_option, "most");
  const auto parts = kvfit::hold_out_texts(queries, {.stretch = 1, .every = 2, .most = 5});
  REQUIRE(parts);
  CHECK(parts->judge.size() == 1);
  CHECK(parts->fit.rows() == 11);
  kvfit::reference_queries within = queries;
  within.readings[0].rows.clear();
  for (auto& layer : within.layers) {
    for (kvfit::matrix& head : layer.heads) head.conservativeResize(1, 8);
  }
  within.positions.resize(1);
  within.readings[0].rows = {6};
  within.readings[0].first_row = 0;
  need_error(kvfit::hold_out_texts(within, {.stretch = 2}), errc::empty_input, "queries");
}

TEST_CASE("O: passes end with what ended them, and start with a cache that can be judged",
          "[queries][passes][guards]") {
  using kvfit::compacted_cache;
  const auto next = [](index_t, const compacted_cache&) -> kvfit::result<compacted_cache> {
    return compacted_cache{};
  };
  const auto refused = [](const compacted_cache&) -> kvfit::result<double> {
    return kvfit::error{errc::empty_input, "judge"};
  };
  need_error(kvfit::refine_passes({}, next, refused), errc::empty_input, "judge");
  const auto cancelled = [](index_t, const compacted_cache&) -> kvfit::result<compacted_cache> {
    return kvfit::error{errc::cancelled, "pass"};
  };
  const auto judge = [](const compacted_cache&) -> kvfit::result<double> { return 1.0; };
  const auto ended = kvfit::refine_passes({}, cancelled, judge);
  REQUIRE(ended);
  CHECK(ended->end == kvfit::pass_end::cancelled);
  CHECK(ended->cause->argument == "pass");
  need_error(kvfit::refine_passes({}, next, judge, {.least_gain = -0.1}), errc::invalid_option,
             "least_gain");
  CHECK(kvfit::refine_passes({}, next, judge, {.least_gain = 0})->end == kvfit::pass_end::no_gain);
}

}  // namespace kvfit_test::queries_guards
