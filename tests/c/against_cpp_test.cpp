// SPDX-License-Identifier: MIT
// The C library gives the bytes and the errors of the C++ library that it is made of.
#include <kvfit/c/kvfit.h>

#include <algorithm>
#include <kvfit/attention/attend.hpp>
#include <kvfit/cache/compact_cache.hpp>
#include <kvfit/cache/plan_cache.hpp>
#include <kvfit/compact.hpp>
#include <kvfit/presets.hpp>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

using kvfit::index_t;
using kvfit::matrix;

namespace {

kvfit_rows c_rows(const matrix& from) {
  kvfit_rows rows{};
  rows.struct_size = sizeof rows;
  rows.data = from.data();
  rows.rows = from.rows();
  rows.cols = from.cols();
  return rows;
}

kvfit_block c_block(const kvfit_rows& keys, const kvfit_rows& values) {
  kvfit_block block{};
  block.struct_size = sizeof block;
  block.keys = &keys;
  block.values = &values;
  return block;
}

kvfit_queries c_queries(const kvfit_rows& rows) {
  kvfit_queries queries{};
  queries.struct_size = sizeof queries;
  queries.rows = &rows;
  return queries;
}

struct c_options {
  explicit c_options(const char* preset) {
    REQUIRE(kvfit_options_make(preset, &own, nullptr) == 0);
  }
  c_options(const c_options&) = delete;
  c_options& operator=(const c_options&) = delete;
  ~c_options() { kvfit_options_free(own); }

  void set(const char* name, double value) {
    CAPTURE(name);
    REQUIRE(kvfit_options_set(own, name, value, nullptr) == 0);
  }
  void word(const char* name, const char* value) {
    CAPTURE(name);
    REQUIRE(kvfit_options_set_word(own, name, value, nullptr) == 0);
  }

  kvfit_options* own = nullptr;
};

/// One head: matrices, and structs of C over them.
struct c_head {
  explicit c_head(unsigned seed)
      : keys(random_matrix(200, 16, seed)),
        values(random_matrix(200, 8, seed + 1)),
        queries(random_matrix(96, 16, seed + 2)) {}
  matrix keys, values, queries;
  kvfit_rows key_rows = c_rows(keys), value_rows = c_rows(values), query_rows = c_rows(queries);
  kvfit_block block = c_block(key_rows, value_rows);
  kvfit_queries asked = c_queries(query_rows);
};

bool same(const float* a, const matrix& b) {
  return std::equal(b.data(), b.data() + b.size(), a);
}

}  // namespace

TEST_CASE("every preset gives from C the bytes that it gives from C++", "[c]") {
  const c_head head(1);
  for (const kvfit::presets::preset& preset : kvfit::presets::all) {
    CAPTURE(preset.name);
    c_options options(std::string(preset.name).c_str());
    options.set("budget", 24);
    kvfit_compacted* small = nullptr;
    REQUIRE(kvfit_compact(&head.block, &head.asked, 1, options.own, nullptr, &small, nullptr) == 0);
    const kvfit_result& from_c = *kvfit_compacted_result(small);
    const auto from_cpp = kvfit::compact(head.keys, head.values, head.queries, preset.make(24));
    REQUIRE(from_cpp);
    CHECK(from_c.rows == from_cpp->keys.rows());
    CHECK(same(from_c.keys, from_cpp->keys));
    CHECK(same(from_c.values, from_cpp->values));
    CHECK(std::equal(from_cpp->bias.data(), from_cpp->bias.data() + from_cpp->bias.size(),
                     from_c.bias));
    CHECK(std::equal(from_cpp->positions.begin(), from_cpp->positions.end(), from_c.positions));
    CHECK(from_c.report->train_output_error == from_cpp->report.train.output_error);
    kvfit_compacted_free(small);
  }
}

TEST_CASE("options of C are those of the same name in C++", "[c]") {
  const c_head head(7);
  c_options options("default");
  kvfit::compact_options cpp = kvfit::presets::joint(30);
  options.set("budget", 30);
  options.set("rule.scale", 0.5);
  options.set("rule.soft_cap", 20);
  options.set("queries.held_out", 0.25);
  options.set("protect.first", 2);
  options.set("protect.last", 3);
  options.set("refine.steps", 2);
  options.word("storage.rows", "fp16");
  options.word("storage.bias", "bf16");
  const std::vector<int64_t> rows = {50, 60};
  REQUIRE(kvfit_options_set_list(options.own, "protect.rows", rows.data(), 2, nullptr) == 0);
  cpp.rule.scale = 0.5F;
  cpp.rule.soft_cap = 20;
  cpp.queries.held_out = 0.25;
  cpp.protect = {.first = 2, .last = 3, .rows = {50, 60}};
  cpp.refine.steps = 2;
  cpp.storage = {kvfit::dtype::fp16, kvfit::dtype::bf16};
  kvfit_compacted* small = nullptr;
  REQUIRE(kvfit_compact(&head.block, &head.asked, 1, options.own, nullptr, &small, nullptr) == 0);
  const auto expected = kvfit::compact(head.keys, head.values, head.queries, cpp);
  REQUIRE(expected);
  CHECK(same(kvfit_compacted_result(small)->keys, expected->keys));
  CHECK(same(kvfit_compacted_result(small)->values, expected->values));
  kvfit_compacted_free(small);
}

TEST_CASE("errors of C carry code, argument, sizes and sentence of C++'s", "[c]") {
  const c_head head(3);
  c_options options("default");
  options.set("budget", 20);
  options.set("protect.first", 20);
  kvfit_error error{};
  error.struct_size = sizeof error;
  kvfit_compacted* small = nullptr;
  const int32_t code =
      kvfit_compact(&head.block, &head.asked, 1, options.own, nullptr, &small, &error);
  kvfit::compact_options cpp{.budget = 20};
  cpp.protect.first = 20;
  const auto expected = kvfit::compact(head.keys, head.values, head.queries, cpp);
  REQUIRE_FALSE(expected);
  CHECK(code == static_cast<int32_t>(expected.error().code) + 1);
  CHECK(error.code == code);
  CHECK(error.argument == expected.error().argument);
  CHECK(error.actual == expected.error().actual);
  CHECK(error.expected == expected.error().expected);
  CHECK(error.message == expected.error().message());
  CHECK(small == nullptr);
  for (int number = 0; number < 24; ++number) {
    const auto of_cpp = static_cast<kvfit::errc>(number);
    CHECK(std::string(kvfit_code_name(number + 1)) == kvfit::name(of_cpp));
  }
  CHECK(std::string(kvfit_code_name(KVFIT_OUT_OF_MEMORY)) == "out_of_memory");
}

TEST_CASE("a message that is too long for its place is cut between characters", "[c]") {
  kvfit_error error{};
  error.struct_size = sizeof error;
  std::string name(500, 'x');
  name.replace(90, 10, "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4");
  c_options options("default");
  CHECK(kvfit_options_set(options.own, name.c_str(), 1, &error) == KVFIT_INVALID_OPTION);
  const std::string argument = error.argument;
  CHECK(argument == name.substr(0, 94));
  CHECK(std::string(error.message).size() < sizeof error.message);
}

TEST_CASE("rows of C are read in every layout as those of C++ are", "[c]") {
  const c_head head(5);
  c_options options("highest_attention");
  options.set("budget", 16);
  const auto expected =
      kvfit::compact(head.keys, head.values, head.queries, kvfit::presets::highest_attention(16));
  REQUIRE(expected);
  const auto check = [&](const kvfit_rows& keys) {
    const kvfit_block block = c_block(keys, head.value_rows);
    kvfit_compacted* small = nullptr;
    kvfit_error error{};
    error.struct_size = sizeof error;
    const int32_t code =
        kvfit_compact(&block, &head.asked, 1, options.own, nullptr, &small, &error);
    INFO(error.message);
    REQUIRE(code == 0);
    CHECK(same(kvfit_compacted_result(small)->values, expected->values));
    kvfit_compacted_free(small);
  };
  const index_t rows = head.keys.rows();
  SECTION("transposed") {
    const matrix turned = head.keys.transpose();
    kvfit_rows keys = c_rows(turned);
    keys.rows = rows;
    keys.cols = 16;
    keys.row_stride = 1;
    keys.col_stride = rows;
    check(keys);
  }
  SECTION("by a list") {
    std::vector<int64_t> list;
    matrix reversed(rows, 16);
    for (index_t i = 0; i < rows; ++i) {
      list.push_back(rows - 1 - i);
      reversed.row(rows - 1 - i) = head.keys.row(i);
    }
    kvfit_rows keys = c_rows(reversed);
    keys.list = list.data();
    keys.list_memory = rows;
    check(keys);
  }
  SECTION("in pages") {
    std::vector<int32_t> table;
    const index_t pages = rows / 8;
    matrix pool(rows, 16);
    for (index_t p = 0; p < pages; ++p) {
      table.push_back(static_cast<int32_t>((p * 7) % pages));
      pool.middleRows(table.back() * 8, 8) = head.keys.middleRows(p * 8, 8);
    }
    kvfit_rows keys = c_rows(pool);
    keys.table = table.data();
    keys.table_entries = pages;
    keys.page_size = 8;
    keys.page_stride = 8 * 16;
    keys.pages = pages;
    check(keys);
  }
  SECTION("decoded by the caller") {
    kvfit_rows keys = c_rows(head.keys);
    keys.type = KVFIT_DECODED;
    keys.data = &head.keys;
    keys.decode = [](const void* data, int64_t row, float* out) {
      const auto& from = *static_cast<const matrix*>(data);
      std::copy_n(from.data() + row * from.cols(), from.cols(), out);
    };
    check(keys);
  }
}

TEST_CASE("attention from C has masks, sinks and rules as from C++", "[c]") {
  const c_head head(11);
  const matrix mask = random_matrix(96, 200, 21);
  const kvfit_rows mask_rows = c_rows(mask);
  kvfit_block block = head.block;
  block.masks = &mask_rows;
  block.mask_count = 1;
  kvfit_queries asked = head.asked;
  asked.first_position = 120;
  asked.alibi_slope = 0.01F;
  asked.has_sink = 1;
  asked.sink_logit = 0.5F;
  kvfit_rule rule{};
  rule.struct_size = sizeof rule;
  rule.causal = 1;
  rule.window = 50;
  rule.soft_cap = 30;
  matrix output(96, 8);
  kvfit::vector mass(96);
  REQUIRE(kvfit_attend(&asked, 1, &block, 1, &rule, 0, output.data(), mass.data(), nullptr) == 0);
  kvfit::query_block queries(head.queries, 120, 0.01F);
  queries.sink_logit = 0.5F;
  const kvfit::row_view masks[] = {mask};
  const auto expected = kvfit::attend(
      queries, {kvfit::kv_block{.keys = head.keys, .values = head.values, .masks = masks}},
      {.soft_cap = 30, .causal = true, .window = 50});
  REQUIRE(expected);
  CHECK(same(output.data(), expected->output));
  CHECK(std::equal(mass.data(), mass.data() + mass.size(), expected->log_mass.data()));
}

TEST_CASE("a cache from C has the bytes of C++'s at any number of threads", "[c]") {
  const c_head one(31);
  const c_head two(41);
  const kvfit_block blocks[] = {one.block, two.block};
  const kvfit_queries asked[] = {one.asked, two.asked};
  kvfit_layer layers[2] = {};
  layers[0].struct_size = sizeof layers[0];
  layers[0].number = 4;
  layers[0].heads = blocks;
  layers[0].head_count = 2;
  layers[1].struct_size = sizeof layers[1];
  layers[1].number = 5;
  layers[1].kind = KVFIT_SLIDING;
  kvfit_layer_queries queries{};
  queries.struct_size = sizeof queries;
  queries.layer = 4;
  queries.heads = asked;
  queries.head_count = 2;
  c_options options("default");
  options.set("cache.budget", 40);
  options.word("cache.shares", "global_ranking");
  kvfit::cache_view view;
  view.layers.push_back({.number = 4,
                         .heads = {{.keys = one.keys, .values = one.values},
                                   {.keys = two.keys, .values = two.values}}});
  view.layers.push_back({.number = 5, .kind = kvfit::layer_kind::sliding});
  const kvfit::query_block one_asked(one.queries);
  const kvfit::query_block two_asked(two.queries);
  const kvfit::cache_queries cpp_queries = {{.layer = 4, .heads = {one_asked, two_asked}}};
  const auto expected = kvfit::compact_cache(
      view, cpp_queries, {.budget = 40, .shares = kvfit::budgets::global_ranking{}},
      kvfit::serial{});
  REQUIRE(expected);
  for (const int threads : {0, 1, 3}) {
    CAPTURE(threads);
    kvfit_call call{};
    call.struct_size = sizeof call;
    call.threads = threads;
    kvfit_cache* small = nullptr;
    REQUIRE(kvfit_compact_cache(layers, 2, &queries, 1, options.own, &call, &small, nullptr) == 0);
    const kvfit_cache_result& from_c = *kvfit_cache_get(small);
    REQUIRE(from_c.layer_count == 1);
    REQUIRE(from_c.skipped_count == 1);
    CHECK(from_c.skipped[0] == 5);
    CHECK(from_c.layers[0].offsets[1] == expected->layers[0].offsets[1]);
    CHECK(same(from_c.layers[0].keys, expected->layers[0].keys));
    CHECK(same(from_c.layers[0].values, expected->layers[0].values));
    kvfit_cache_free(small);
  }
  // The same number twice is the caller's mistake, named.
  layers[1].number = 4;
  kvfit_error error{};
  error.struct_size = sizeof error;
  kvfit_cache* none = nullptr;
  CHECK(kvfit_compact_cache(layers, 2, &queries, 1, options.own, nullptr, &none, &error) != 0);
  CHECK(none == nullptr);
}

namespace {

/// Two heads of one layer, in C and in C++.
struct two_heads {
  c_head one{61}, two{71};
  kvfit_block blocks[2] = {one.block, two.block};
  kvfit_queries asked[2] = {one.asked, two.asked};
  kvfit_layer layer{};
  kvfit_layer_queries queries{};
  kvfit::query_block one_asked{one.queries}, two_asked{two.queries};
  kvfit::cache_view view;
  kvfit::cache_queries cpp_queries = {{.layer = 0, .heads = {one_asked, two_asked}}};

  two_heads() {
    two.keys *= 3;  // its attention falls on fewer keys, so that rankings tell them apart
    layer.struct_size = sizeof layer;
    layer.heads = blocks;
    layer.head_count = 2;
    queries.struct_size = sizeof queries;
    queries.heads = asked;
    queries.head_count = 2;
    view.layers.push_back({.number = 0,
                           .heads = {{.keys = one.keys, .values = one.values},
                                     {.keys = two.keys, .values = two.values}}});
  }
  two_heads(const two_heads&) = delete;
  two_heads& operator=(const two_heads&) = delete;
  ~two_heads() = default;
};

}  // namespace

TEST_CASE("every way of C to share rows out gives the plan of C++", "[c]") {
  const two_heads cache;
  std::vector<std::vector<int64_t>> plans;
  const auto check = [&](const char* name, const c_options& options,
                         const kvfit::any_budget& shares) {
    CAPTURE(name);
    std::vector<int64_t> rows(2);
    size_t count = 2;
    kvfit_error error{};
    error.struct_size = sizeof error;
    const int32_t code = kvfit_plan_cache(&cache.layer, 1, &cache.queries, 1, options.own, nullptr,
                                          rows.data(), &count, &error);
    INFO(error.message);
    REQUIRE(code == 0);
    kvfit::cache_options cpp{.budget = 60, .shares = shares};
    cpp.limits.at_least = 2;
    const auto plan = kvfit::plan_cache(cache.view, cache.cpp_queries, cpp, kvfit::serial{});
    REQUIRE(plan);
    CHECK(rows == plan->rows);
    plans.push_back(rows);
  };
  const auto asked = [](c_options& options) {
    options.set("cache.budget", 60);
    options.set("cache.at_least", 2);
  };
  using namespace kvfit::budgets;
  {
    c_options options("default");
    asked(options);
    check("uniform", options, uniform{});
    CHECK(plans.back() == std::vector<int64_t>{30, 30});
    options.word("cache.shares", "global_ranking");
    options.word("cache.importance", "max");
    options.word("cache.pooling", "average");
    options.set("cache.pooling_width", 3);
    options.set("cache.window", 40);
    const kvfit::selection::highest_attention by{.importance = kvfit::importance_kind::max,
                                                 .pooling = kvfit::pooling_kind::average,
                                                 .pooling_width = 3,
                                                 .window = 40};
    check("global_ranking", options, global_ranking{.by = by});
    CHECK(plans.back() != plans.front());
  }
  {
    c_options options("default");
    asked(options);
    options.word("cache.shares", "layer_ranking");
    check("layer_ranking", options, layer_ranking{});
    const auto adaptive = plans.back();
    CHECK(adaptive != plans.front());
    options.set("cache.safeguard", 1);
    check("layer_ranking, safeguard 1", options, layer_ranking{.safeguard = 1});
    CHECK(plans.back() == plans.front());
  }
  {
    c_options options("default");
    asked(options);
    const double shares[] = {0, 0, 1, 0, 1, 3};
    REQUIRE(kvfit_options_set_numbers(options.own, "cache.given", shares, 6, nullptr) == 0);
    check("given", options, given{.shares = {{{0, 0}, 1}, {{0, 1}, 3}}});
    CHECK(plans.back() == std::vector<int64_t>{15, 45});
    const double curves[] = {0, 10, 1, 0, 50, 0, 1, 10, 9, 1, 50, 0};
    REQUIRE(kvfit_options_set_numbers(options.own, "cache.curves", curves, 12, nullptr) == 0);
    influence by{.curves = {{.points = {{10, 1}, {50, 0}}}, {.points = {{10, 9}, {50, 0}}}}};
    check("curves", options, by);
    CHECK(plans.back()[1] > plans.back()[0]);
    options.set("cache.exact_step", 2);
    by.exact = kvfit::dynamic_programming{.step = 2};
    check("curves, exact", options, by);
  }
}

TEST_CASE("a cache whose keys turn by a scaled rotation has from C the bytes of C++", "[c]") {
  two_heads cache;
  kvfit_rope turned{};
  turned.struct_size = sizeof turned;
  turned.base = 500000;
  turned.scaling = KVFIT_ROPE_LLAMA3;
  cache.layer.rotation = &turned;
  kvfit::rope rotation{.base = 500000, .scaling = kvfit::rope_scaling::llama3{}};
  c_options options("default");
  options.set("cache.budget", 40);
  options.set("refine.sets", 1);
  options.set("refine.steps", 2);
  kvfit::cache_options cpp{.budget = 40};
  cpp.head.refine.sets = 1;
  cpp.head.refine.steps = 2;
  const auto keys_of = [&](const kvfit_layer& layer) {
    kvfit_cache* small = nullptr;
    REQUIRE(kvfit_compact_cache(&layer, 1, &cache.queries, 1, options.own, nullptr, &small,
                                nullptr) == 0);
    const kvfit_layer_result& from_c = kvfit_cache_get(small)->layers[0];
    const int64_t count = from_c.offsets[2] * from_c.depth;
    std::vector<float> keys(from_c.keys, from_c.keys + count);
    kvfit_cache_free(small);
    return keys;
  };
  const std::vector<float> keys = keys_of(cache.layer);
  cache.view.layers[0].rotation = rotation;
  const auto expected = kvfit::compact_cache(cache.view, cache.cpp_queries, cpp, kvfit::serial{});
  REQUIRE(expected);
  CHECK(same(keys.data(), expected->layers[0].keys));
  // The scaling makes a difference, so that it was not lost on the way.
  turned.scaling = KVFIT_ROPE_UNSCALED;
  CHECK(keys_of(cache.layer) != keys);
}

TEST_CASE("fields of a call that it does not use are refused", "[c]") {
  const c_head head(51);
  c_options options("default");
  options.set("budget", 10);
  kvfit_error error{};
  error.struct_size = sizeof error;
  const auto refused = [&](const kvfit_call& call, const char* argument) {
    CAPTURE(argument);
    kvfit_compacted* none = nullptr;
    CHECK(kvfit_compact(&head.block, &head.asked, 1, options.own, &call, &none, &error) ==
          KVFIT_INVALID_OPTION);
    CHECK(std::string(error.argument) == argument);
    CHECK(none == nullptr);
  };
  kvfit_call call{};
  call.struct_size = sizeof call;
  kvfit_call other = call;
  other.threads = -1;
  refused(other, "call.threads");
  other = call;
  other.pool_threads = 2;
  refused(other, "call.pool");
  other = call;
  other.deadline = -1;
  refused(other, "call.deadline");
  other = call;
  other.progress = [](void*, int64_t, int64_t) {};
  refused(other, "call.progress");
  other = call;
  other.parallel_for = [](void*, int64_t count, void (*body)(void*, int64_t), void* context) {
    for (int64_t i = 0; i < count; ++i) body(context, i);
  };
  other.threads = 2;
  refused(other, "call.threads");
}

}  // namespace kvfit_test
