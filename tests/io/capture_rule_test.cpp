// SPDX-License-Identifier: MIT
// Captures of models whose attention is more than a scale: what is said reaches fits and errors,
// and what is said in words that nobody knows is refused.
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "io/capture_file.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/io/capture.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit_test::capture_file;
using kvfit_test::one_layer;

namespace {

constexpr float no_sink = -std::numeric_limits<float>::infinity();

kvfit::capture need_capture(const capture_file& file) {
  auto read = file.read();
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read.has_value());
  return std::move(*read);
}

kvfit::error refused(const capture_file& file) {
  const auto read = file.read();
  REQUIRE_FALSE(read.has_value());
  return read.error();
}

std::vector<std::int64_t> count_up(std::size_t count, std::int64_t first) {
  std::vector<std::int64_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

/// Attention of one query over a head in double, by the equations of the rule.
struct naive_attention {
  std::vector<double> output;
  double log_mass = 0;
};

naive_attention naive(const kvfit::query_block& queries, kvfit::index_t q,
                      const kvfit::kv_block& cache, const kvfit::logit_rule& rule) {
  naive_attention made{std::vector<double>(static_cast<std::size_t>(cache.values.cols()), 0), 0};
  double mass = std::isfinite(queries.sink_logit) ? std::exp(double{queries.sink_logit}) : 0;
  for (kvfit::index_t j = 0; j < cache.keys.rows(); ++j) {
    double logit = 0;
    for (kvfit::index_t k = 0; k < cache.keys.cols(); ++k) {
      logit += double{*rule.scale} * double{queries.rows(q, k)} * double{cache.keys(j, k)};
    }
    if (rule.soft_cap > 0) logit = rule.soft_cap * std::tanh(logit / rule.soft_cap);
    if (!cache.bias.empty()) logit += double{cache.bias[static_cast<std::size_t>(j)]};
    const kvfit::index_t back = queries.position(q) - cache.position(j);
    logit -= double{queries.alibi_slope} * static_cast<double>(back);
    if ((rule.causal && back < 0) || (rule.window > 0 && back >= rule.window)) continue;
    const double weight = std::exp(logit);
    mass += weight;
    for (kvfit::index_t k = 0; k < cache.values.cols(); ++k) {
      made.output[static_cast<std::size_t>(k)] += weight * double{cache.values(j, k)};
    }
  }
  for (double& x : made.output) x /= mass;
  made.log_mass = std::log(mass);
  return made;
}

/// `attend` by what the capture says against the equations, for every head and test query.
void check_attention(const kvfit::capture_layer& layer) {
  for (kvfit::index_t h = 0; h < layer.heads(); ++h) {
    const auto queries = layer.test_query_blocks(h);
    const auto full = kvfit::attend(std::span<const kvfit::query_block>(queries), {layer.block(h)},
                                    layer.rule().logits);
    REQUIRE(full);
    kvfit::index_t row = 0;
    for (const kvfit::query_block& block : queries) {
      for (kvfit::index_t q = 0; q < block.rows.rows(); ++q, ++row) {
        const naive_attention wanted = naive(block, q, layer.block(h), layer.rule().logits);
        CHECK(std::abs(double{full->log_mass[row]} - wanted.log_mass) < 1e-5);
        for (kvfit::index_t k = 0; k < full->output.cols(); ++k) {
          CHECK(std::abs(double{full->output(row, k)} -
                         wanted.output[static_cast<std::size_t>(k)]) < 1e-5);
        }
      }
    }
  }
}

/// Held-out errors of 6 rows, fitted and judged by `rule`.
kvfit::compacted fitted_by(const kvfit::capture_layer& layer, const kvfit::logit_rule& rule) {
  const auto queries = layer.query_blocks(0);
  kvfit::compact_options options{.budget = 6};
  options.rule = rule;
  auto made = kvfit::compact(layer.block(0), std::span<const kvfit::query_block>(queries), options);
  INFO((made ? std::string() : made.error().message()));
  REQUIRE(made);
  return std::move(*made);
}

}  // namespace

TEST_CASE("F: a soft cap in a capture reaches the fit and the errors", "[io][rule]") {
  capture_file file = one_layer();
  file.metadata["soft_cap"] = "0.75";
  const kvfit::capture capture = need_capture(file);
  const kvfit::capture_layer& layer = capture.layers[0];
  CHECK(layer.rule().logits.soft_cap == 0.75F);
  CHECK(*layer.rule().logits.scale == 0.5F);
  check_attention(layer);
  // The fit by what the capture says is the fit by the cap, and another than that without it.
  const auto by_file = fitted_by(layer, layer.rule().logits);
  const auto by_hand = fitted_by(layer, {.scale = 0.5F, .soft_cap = 0.75F});
  const auto without = fitted_by(layer, {.scale = 0.5F});
  CHECK(by_file.bias == by_hand.bias);
  CHECK(by_file.values == by_hand.values);
  CHECK(by_file.values != without.values);
  CHECK(by_file.report.train.output_error != without.report.train.output_error);
}

TEST_CASE("F: layers may differ in scale, soft cap, window, causality and rotation", "[io][rule]") {
  capture_file file = one_layer();
  kvfit_test::add_layer(file, 3);
  file.metadata["soft_cap"] = "50";
  file.metadata["rope"] = "post, half-split, theta 10000";
  file.metadata["layers.3.scale"] = "0.25";
  file.metadata["layers.3.soft_cap"] = "0";
  file.metadata["layers.3.window"] = "16";
  file.metadata["layers.3.causal"] = "true";
  file.metadata["layers.3.rope"] = "post, half-split, theta 1000000, dims 2, linear 8";
  file.add("layers.3.q_positions", count_up(30, 5));
  file.add("layers.3.q_test_positions", count_up(10, 20));
  const kvfit::capture capture = need_capture(file);
  REQUIRE(capture.layers.size() == 2);
  const kvfit::attention_rule& first = capture.layers[0].rule();
  CHECK(*first.logits.scale == 0.5F);
  CHECK(first.logits.soft_cap == 50);
  CHECK(first.logits.window == 0);
  CHECK_FALSE(first.logits.causal);
  REQUIRE(first.rotation);
  CHECK(first.rotation->base == 10000);
  const kvfit::attention_rule& second = capture.layers[1].rule();
  CHECK(*second.logits.scale == 0.25F);
  CHECK(second.logits.soft_cap == 0);
  CHECK(second.logits.window == 16);
  CHECK(second.logits.causal);
  REQUIRE(second.rotation);
  CHECK(second.rotation->base == 1000000);
  CHECK(second.rotation->dims == 2);
  CHECK(std::get<kvfit::rope_scaling::linear>(second.rotation->scaling).factor == 8);
  for (const kvfit::capture_layer& layer : capture.layers) check_attention(layer);
}

TEST_CASE("F: a sink of each query head takes part in attention", "[io][rule]") {
  capture_file file = one_layer();
  file.add("layers.0.sinks", {4}, {0.5F, no_sink, -1, 3});
  const kvfit::capture capture = need_capture(file);
  const kvfit::capture_layer& layer = capture.layers[0];
  CHECK(layer.rule().sink_logits == std::vector<float>{0.5F, no_sink, -1, 3});
  CHECK(layer.query_blocks(0)[0].sink_logit == 0.5F);
  CHECK(layer.query_blocks(0)[1].sink_logit == no_sink);
  CHECK(layer.test_query_blocks(1)[1].sink_logit == 3);
  check_attention(layer);
}

TEST_CASE("F: ALiBi slopes of each query head meet the positions that the capture gives",
          "[io][rule]") {
  capture_file file = one_layer();
  file.add("layers.0.alibi_slopes", {4}, {0.5F, 0.25F, 0.125F, 0});
  file.add("layers.0.q_positions", count_up(30, 24));
  file.add("layers.0.q_test_positions", count_up(10, 54));
  SECTION("keys at 0, 1, ...") {}
  SECTION("keys elsewhere") {
    file.add("layers.0.k_positions", count_up(24, 100));
  }
  const kvfit::capture capture = need_capture(file);
  const kvfit::capture_layer& layer = capture.layers[0];
  CHECK(layer.query_blocks(1)[0].alibi_slope == 0.125F);
  CHECK(layer.query_blocks(0)[0].position(2) == 26);
  CHECK(layer.test_query_blocks(0)[1].position(9) == 63);
  check_attention(layer);
}

TEST_CASE("F: where a rule looks at positions, those of the queries must be said", "[io][rule]") {
  capture_file file = one_layer();
  SECTION("causal") {
    file.metadata["causal"] = "true";
  }
  SECTION("window") {
    file.metadata["window"] = "8";
  }
  SECTION("slopes") {
    file.add("layers.0.alibi_slopes", {4}, {0.5F, 0.25F, 0.125F, 0});
  }
  CHECK(refused(file).code == errc::missing_entry);
  CHECK(refused(file).argument == "layers.0.q_positions");
  file.add("layers.0.q_positions", count_up(30, 24));
  CHECK(refused(file).argument == "layers.0.q_test_positions");
  file.add("layers.0.q_test_positions", count_up(10, 54));
  CHECK(file.read().has_value());
}

TEST_CASE("F: an entry that tells of attention in unknown words is refused by name", "[io][rule]") {
  const std::string name = GENERATE(
      "attn_logit_softcapping", "logit_cap", "logits_soft_cap", "softCap", "softCapValue", "cap",
      "attention_sinks", "Sink", "alibi_bias_max", "use_alibi", "sliding_window", "window_size",
      "slopes", "query_pre_attn_scalar", "logit_scale", "rope_scaling", "is_causal", "mask");
  const std::string version = GENERATE("1", "2");
  capture_file file = one_layer();
  file.metadata["version"] = version;
  file.metadata[name] = "50.0";
  const auto cause = refused(file);
  CHECK(cause.code == errc::unsupported_file);
  CHECK(cause.argument == name);
  CHECK_FALSE(cause.detail.empty());
}

TEST_CASE("F: a tensor outside the layers that tells of attention is refused by name",
          "[io][rule]") {
  capture_file file = one_layer();
  file.add("model.layers.0.self_attn.sinks", {4}, {1, 2, 3, 4});
  CHECK(refused(file).code == errc::unsupported_file);
  CHECK(refused(file).argument == "model.layers.0.self_attn.sinks");
  file.drop("model.layers.0.self_attn.sinks");
  file.add("embedding", {4}, {1, 2, 3, 4});
  CHECK(file.read().has_value());
}

TEST_CASE("F: entries of other matters are kept and change nothing", "[io][rule]") {
  capture_file file = one_layer();
  for (const char* name : {"note", "capture_date", "captured_by", "capacity", "model", "queries"}) {
    file.metadata[name] = "anything";
  }
  const kvfit::capture capture = need_capture(file);
  CHECK(capture.file.metadata.at("captured_by") == "anything");
  CHECK(capture.layers[0].rule().logits.soft_cap == 0);
}

TEST_CASE("F: an entry of a layer that is not there, or that no layer has, is refused",
          "[io][rule]") {
  capture_file file = one_layer();
  const std::string name = GENERATE("layers.1.window", "layers.x.window", "layers.0.note");
  file.metadata[name] = "1";
  CHECK(refused(file).code == errc::unsupported_file);
  CHECK(refused(file).argument == name);
}

TEST_CASE("F: values of a rule that can't be meant are malformed", "[io][rule]") {
  struct row {
    const char* key;
    const char* text;
  };
  const auto bad = GENERATE(
      row{"soft_cap", "-1"}, row{"soft_cap", "inf"}, row{"soft_cap", ""}, row{"soft_cap", "0.0"},
      row{"causal", "1"}, row{"causal", "True"}, row{"window", "-1"}, row{"window", "4096.0"},
      row{"layers.0.scale", "0"}, row{"rope", "mrope, sections 16 24 24"},
      row{"rope", "post, half-split, theta 10000, yarn"},
      row{"rope", "post, half-split, theta 10000, linear 2 "},
      row{"rope", "post, half-split, theta 10000, dims 2.5"}, row{"fingerprint", "a\nb"});
  capture_file file = one_layer();
  file.metadata[bad.key] = bad.text;
  // Refused even where the only layer says something else.
  if (GENERATE(false, true) && std::string(bad.key).find("layers.") == std::string::npos) {
    if (std::string(bad.key) == "soft_cap") file.metadata["layers.0.soft_cap"] = "50";
    if (std::string(bad.key) == "window") file.metadata["layers.0.window"] = "0";
    if (std::string(bad.key) == "causal") file.metadata["layers.0.causal"] = "false";
    if (std::string(bad.key) == "rope") {
      file.metadata["layers.0.rope"] = "post, half-split, theta 10000";
    }
  }
  INFO(bad.key << " = " << bad.text);
  const auto cause = refused(file);
  CHECK(cause.code == errc::malformed_file);
  CHECK(cause.argument == bad.key);
}

TEST_CASE("F: sinks and slopes are as many as query heads, and numbers", "[io][rule]") {
  const std::string part = GENERATE("layers.0.sinks", "layers.0.alibi_slopes");
  capture_file file = one_layer();
  file.add("layers.0.q_positions", count_up(30, 24));
  file.add("layers.0.q_test_positions", count_up(10, 54));
  SECTION("one a KV head") {
    file.add(part, {2}, {1, 2});
    CHECK(refused(file).code == errc::shape_mismatch);
    CHECK(refused(file).actual == 2);
    CHECK(refused(file).expected == 4);
  }
  SECTION("NaN") {
    file.add(part, {4}, {1, 2, std::nanf(""), 4});
    CHECK(refused(file).code == errc::malformed_file);
  }
  SECTION("integers") {
    file.add(part, kvfit::tensor_type::i32, {4}, std::vector<std::int32_t>{1, 2, 3, 4});
    CHECK(refused(file).code == errc::unsupported_file);
  }
  SECTION("two dimensions") {
    file.add(part, {2, 2}, {1, 2, 3, 4});
    CHECK(refused(file).code == errc::malformed_file);
  }
  CHECK(refused(file).argument == part);
}

TEST_CASE("a rotation in words comes back from its words", "[io][rule]") {
  std::vector<kvfit::rope> all(6);
  all[1] = {.base = 1e6 / 3, .dims = 64, .pairing = kvfit::rope_pairing::interleaved};
  all[2].scaling = kvfit::rope_scaling::linear{4};
  all[3].scaling = kvfit::rope_scaling::yarn{32, 4096, 32, 1, true};
  all[4].scaling = kvfit::rope_scaling::llama3{8, 1, 4, 8192};
  all[5].scaling = kvfit::rope_scaling::given{{1, 0.25, 1.0 / 3, 0, -2e-9}};
  all.push_back(all[3]);
  std::get<kvfit::rope_scaling::yarn>(all[6].scaling).rounds = false;
  for (const kvfit::rope& rotation : all) {
    const std::string text = kvfit::io_detail::print_rope(rotation);
    INFO(text);
    const auto parsed = kvfit::io_detail::parse_rope(text);
    REQUIRE(parsed);
    CHECK(parsed->base == rotation.base);
    CHECK(parsed->dims == rotation.dims);
    CHECK(parsed->pairing == rotation.pairing);
    CHECK(parsed->scaling.index() == rotation.scaling.index());
    CHECK(kvfit::io_detail::print_rope(*parsed) == text);
  }
}

TEST_CASE("a rotation of version 1 in other words says nothing, as ever", "[io][rule]") {
  capture_file file = one_layer();
  file.metadata["version"] = "1";
  file.metadata["rope"] = "some other text";
  const kvfit::capture capture = need_capture(file);
  CHECK_FALSE(capture.rotation);
  CHECK_FALSE(capture.layers[0].rule().rotation);
}
