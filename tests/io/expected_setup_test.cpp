// SPDX-License-Identifier: MIT
// States and results compared with the set-up of the engine that reads them.
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "kvfit/io/compact_file.hpp"
#include "kvfit/io/state.hpp"
#include "support/catch.hpp"

using kvfit::attention_rule;
using kvfit::errc;
using kvfit::expected_attention;
using kvfit::expected_setup;

namespace {

/// Layers 2 and 5, a KV head each of 2 rows, d = 4, d_v = 1.
kvfit::compacted_cache two_layers() {
  kvfit::compacted_cache cache;
  for (const kvfit::index_t number : {2, 5}) {
    kvfit::compacted_layer& layer = cache.layers.emplace_back();
    layer.number = number;
    layer.offsets = {0, 2};
    layer.positions = {3, 8};
    layer.key_positions = {3, 8};
    layer.keys = kvfit::matrix::Constant(2, 4, 0.5F);
    layer.bias = kvfit::vector::Zero(2);
    layer.values = kvfit::matrix::Constant(2, 1, 2);
    layer.heads = {{{number, 0}, 9, 2, kvfit::head_outcome::fitted, {}, {}}};
  }
  cache.rows = 4;
  cache.rows_before = 18;
  return cache;
}

/// Layer 2 global, layer 5 with a window and a base of its own; both capped, with sinks.
std::vector<attention_rule> two_rules() {
  attention_rule global;
  global.logits = {.scale = 0.25F, .soft_cap = 50};
  global.sink_logits = {1, -2};
  global.rotation = kvfit::rope{.base = 1e6, .scaling = kvfit::rope_scaling::llama3{8, 1, 4, 8192}};
  attention_rule local = global;
  local.logits.window = 4096;
  local.logits.causal = true;
  local.rotation = kvfit::rope{.base = 10000};
  return {global, local};
}

const std::string model = "sha256:3b1f";

/// A state and a result of the same cache, read under an expectation.
kvfit::result<void> read_both(const expected_setup& expected, bool has_rules = true) {
  const kvfit::compacted_cache cache = two_layers();
  kvfit::state_info info{.next_position = 9, .rules = {}, .fingerprint = model};
  if (has_rules) info.rules = two_rules();
  const auto saved = kvfit::write_state(cache, info);
  REQUIRE(saved);
  const auto state = kvfit::read_state(*saved, expected);
  if (!has_rules) return state ? kvfit::result<void>() : state.error();

  std::vector<kvfit::compact_layer> layers;
  for (std::size_t l = 0; l < 2; ++l) {
    const kvfit::compacted_layer& layer = cache.layers[l];
    layers.push_back(
        {layer.number,
         {{layer.keys, layer.values, {layer.bias.data(), 2}, layer.positions, layer.key_positions}},
         info.rules[l]});
  }
  const kvfit_test::scratch_folder folder;
  const auto written = kvfit::write_compact_file(
      folder / "result", {"omp", 9, 0.25F, kvfit::dtype::fp32, model}, layers);
  INFO((written ? std::string() : written.error().message()));
  REQUIRE(written);
  const auto result = kvfit::read_compact_file(folder / "result", expected);
  const auto from_path = [&] {
    REQUIRE(kvfit::write_state(folder / "state", cache, info));
    return kvfit::read_state(folder / "state", expected);
  }();
  // All three say the same.
  REQUIRE(result.has_value() == state.has_value());
  REQUIRE(from_path.has_value() == state.has_value());
  if (state) return {};
  CHECK(result.error().message() == state.error().message());
  CHECK(from_path.error().message() == state.error().message());
  return state.error();
}

/// What all layers are expected to have.
expected_setup of_all(expected_attention asked) {
  return {.layers = {std::move(asked)}};
}

/// What layer `number` is expected to have.
expected_setup of_layer(kvfit::index_t number, expected_attention asked) {
  asked.layer = number;
  return {.layers = {std::move(asked)}};
}

void check_refused(const expected_setup& expected, const std::string& field, const std::string& is,
                   const std::string& wanted) {
  const auto read = read_both(expected);
  REQUIRE_FALSE(read);
  const kvfit::error& cause = read.error();
  INFO(cause.message());
  CHECK(cause.code == errc::unsupported_file);
  CHECK(cause.argument == field);
  CHECK(cause.detail == "is " + is + ", expected " + wanted);
}

}  // namespace

TEST_CASE("I: a state held against another scale is refused, naming it", "[io][setup]") {
  const auto rules = two_rules();
  auto other = rules[0].logits;
  other.scale = 0.125F;
  check_refused(of_layer(2, {.logits = other}), "layer 2 scale", "0.25", "0.125");
  // 1/√4 where the engine gives none
  other.scale = {};
  check_refused(of_layer(2, {.logits = other}), "layer 2 scale", "0.25", "0.5");
}

TEST_CASE("I: a state held against another cap, window or causality is refused, naming it",
          "[io][setup]") {
  const auto rules = two_rules();
  auto other = rules[1].logits;
  other.soft_cap = 30;
  check_refused(of_layer(5, {.logits = other}), "layer 5 soft_cap", "50", "30");
  other = rules[1].logits;
  other.window = 1024;
  check_refused(of_layer(5, {.logits = other}), "layer 5 window", "4096", "1024");
  other = rules[1].logits;
  other.causal = false;
  check_refused(of_layer(5, {.logits = other}), "layer 5 causal", "true", "false");
  // The rule of the global layer is not that of the other one.
  check_refused(of_all({.logits = rules[0].logits}), "layer 5 causal", "true", "false");
}

TEST_CASE("I: a state held against other sinks or slopes is refused, naming the query head",
          "[io][setup]") {
  check_refused(of_all({.sink_logits = {{1, -3}}}), "layer 2 sink_logits of query head 1", "-2",
                "-3");
  check_refused(of_all({.sink_logits = {{1, -std::numeric_limits<float>::infinity()}}}),
                "layer 2 sink_logits of query head 1", "-2", "-infinity");
  check_refused(of_all({.sink_logits = {std::vector<float>()}}), "layer 2 sink_logits",
                "2 query heads'", "0 query heads'");
  check_refused(of_all({.alibi_slopes = {{0.5F, 0.25F}}}), "layer 2 alibi_slopes", "0 query heads'",
                "2 query heads'");
}

TEST_CASE("I: a state held against another rotation is refused, naming what differs",
          "[io][setup]") {
  kvfit::rope other = *two_rules()[0].rotation;
  other.base = 500000;
  check_refused(of_layer(2, {.rotation = other}), "layer 2 rope.base", "1000000", "500000");
  other = *two_rules()[0].rotation;
  other.dims = 2;
  check_refused(of_layer(2, {.rotation = other}), "layer 2 rope.dims", "4", "2");
  other = *two_rules()[0].rotation;
  other.pairing = kvfit::rope_pairing::interleaved;
  check_refused(of_layer(2, {.rotation = other}), "layer 2 rope.pairing", "half-split",
                "interleaved");
  other.pairing = kvfit::rope_pairing::half_split;
  other.scaling = kvfit::rope_scaling::linear{8};
  check_refused(of_layer(2, {.rotation = other}), "layer 2 rope.scaling", "llama3", "linear");
  other.scaling = kvfit::rope_scaling::llama3{8, 1, 4, 4096};
  check_refused(of_layer(2, {.rotation = other}), "layer 2 rope.scaling.original_positions", "8192",
                "4096");
}

TEST_CASE("I: a state held against another model is refused, naming both", "[io][setup]") {
  check_refused({.fingerprint = "sha256:77aa"}, "fingerprint", "'sha256:3b1f'", "'sha256:77aa'");
}

TEST_CASE("I: what agrees is read, and what is not asked is not looked at but returned",
          "[io][setup]") {
  CHECK(read_both({}));
  CHECK(read_both({.fingerprint = model}));
  expected_setup all{.fingerprint = model};
  const auto rules = two_rules();
  for (std::size_t l = 0; l < 2; ++l) {
    all.layers.push_back({.layer = l == 0 ? 2 : 5,
                          .logits = rules[l].logits,
                          .sink_logits = rules[l].sink_logits,
                          .alibi_slopes = rules[l].alibi_slopes,
                          .rotation = rules[l].rotation});
  }
  all.layers[0].rotation->dims = 4;          // what 0 means here
  all.layers[0].logits->scale = 0.2500001F;  // another order of operations
  const auto read = read_both(all);
  INFO((read ? std::string() : read.error().message()));
  CHECK(read);
}

TEST_CASE("I: what is asked for and not said is missing, by name", "[io][setup]") {
  const auto rules = two_rules();
  const auto missing = [](const expected_setup& expected, bool has_rules, const char* what) {
    const auto read = read_both(expected, has_rules);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == errc::missing_entry);
    CHECK(read.error().argument == what);
  };
  missing(of_all({.logits = rules[0].logits}), false, "layer 2 scale");
  missing(of_all({.sink_logits = rules[0].sink_logits}), false, "layer 2 sink_logits");
  missing(of_all({.alibi_slopes = rules[0].alibi_slopes}), false, "layer 2 alibi_slopes");
  missing(of_all({.rotation = rules[0].rotation}), false, "layer 2 rope");
  missing(of_layer(3, {.logits = rules[0].logits}), true, "layer 3");
  const auto nameless = kvfit::write_state(two_layers(), {.next_position = 9});
  REQUIRE(nameless);
  const auto read = kvfit::read_state(*nameless, {.fingerprint = model});
  REQUIRE_FALSE(read);
  CHECK(read.error().code == errc::missing_entry);
  CHECK(read.error().argument == "fingerprint");
  CHECK(read.error().detail.find(model) != std::string::npos);
}
