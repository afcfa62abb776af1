// SPDX-License-Identifier: MIT
// Results carry the rule of each layer, and come back with it.
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "io/capture_file.hpp"
#include "kvfit/io/compact_file.hpp"
#include "support/catch.hpp"

using kvfit::compact_file_info;
using kvfit::compact_head;
using kvfit::compact_layer;
using kvfit::errc;

namespace {

/// Two layers of two heads with two rows each, d = 4, d_v = 2.
struct result_with_rules {
  std::vector<float> keys = kvfit_test::drawn(8, 1);
  std::vector<float> values = kvfit_test::drawn(4, 2);
  std::vector<float> bias = {0.5F, -1};
  std::vector<kvfit::index_t> positions = {3, 70};
  std::vector<kvfit::index_t> key_positions = {30, 30};
  compact_file_info info = {"omp", 68, 0.5F, kvfit::dtype::fp32, "model-1"};

  [[nodiscard]] std::vector<compact_layer> layers() const {
    const compact_head head{kvfit::row_view(keys.data(), 2, 4),
                            kvfit::row_view(values.data(), 2, 2), bias, positions, key_positions};
    std::vector<compact_layer> made = {{1, {head, head}, {}}, {6, {head, head}, {}}};
    made[0].rule.logits.soft_cap = 50;
    made[0].rule.sink_logits = {1, -std::numeric_limits<float>::infinity(), 0.1F, 2};
    made[0].rule.rotation = kvfit::rope{.base = 1e6, .scaling = kvfit::rope_scaling::linear{8}};
    made[1].rule.logits = {.scale = 0.25F, .soft_cap = 50, .causal = true, .window = 64};
    made[1].rule.alibi_slopes = {0.5F, 0.25F};
    made[1].rule.rotation = kvfit::rope{.base = 10000};
    return made;
  }
};

kvfit::error not_written(const compact_file_info& info, const std::vector<compact_layer>& layers) {
  const kvfit_test::scratch_folder folder;
  const auto written = kvfit::write_compact_file(folder / "file", info, layers);
  REQUIRE_FALSE(written);
  CHECK(folder.count() == 0);
  return written.error();
}

}  // namespace

TEST_CASE("F: a result carries the rule of each layer, and comes back with it", "[io][rule]") {
  const result_with_rules data;
  const auto layers = data.layers();
  const kvfit_test::scratch_folder folder;
  const auto written = kvfit::write_compact_file(folder / "file", data.info, layers);
  INFO((written ? std::string() : written.error().message()));
  REQUIRE(written);
  const auto read = kvfit::read_compact_file(folder / "file");
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  CHECK(read->info.fingerprint == "model-1");
  CHECK(read->info.scale == 0.5F);
  REQUIRE(read->layers.size() == 2);
  for (std::size_t l = 0; l < 2; ++l) {
    const kvfit::attention_rule& found = read->layers[l].rule;
    const kvfit::attention_rule& wanted = layers[l].rule;
    CHECK(*found.logits.scale == wanted.logits.scale.value_or(0.5F));
    CHECK(found.logits.soft_cap == wanted.logits.soft_cap);
    CHECK(found.logits.causal == wanted.logits.causal);
    CHECK(found.logits.window == wanted.logits.window);
    CHECK(found.sink_logits == wanted.sink_logits);
    CHECK(found.alibi_slopes == wanted.alibi_slopes);
    REQUIRE(found.rotation);
    CHECK(found.rotation->base == wanted.rotation->base);
    CHECK(found.rotation->scaling.index() == wanted.rotation->scaling.index());
    CHECK(std::ranges::equal(read->layers[l].heads[1].key_positions, data.key_positions));
  }
  // What all layers share is said once, what they do not of each.
  CHECK(read->file.metadata.at("soft_cap") == "50.0");
  CHECK(read->file.metadata.at("layers.6.window") == "64");
  CHECK_FALSE(read->file.metadata.contains("window"));
  REQUIRE(kvfit::write_compact_file(folder / "again", read->info, read->layers));
  CHECK(kvfit_test::file_bytes(folder / "again") == kvfit_test::file_bytes(folder / "file"));
}

TEST_CASE("F: what a result can't say is not written", "[io][rule]") {
  result_with_rules data;
  auto layers = data.layers();
  auto code = errc::invalid_option;
  SECTION("a negative scale of a layer") {
    layers[1].rule.logits.scale = -1;
  }
  SECTION("a negative soft cap") {
    layers[1].rule.logits.soft_cap = -1;
  }
  SECTION("a subnormal soft cap") {
    layers[1].rule.logits.soft_cap = 1e-42F;
  }
  SECTION("a negative window") {
    layers[1].rule.logits.window = -1;
  }
  SECTION("three sinks for two heads") {
    layers[0].rule.sink_logits.pop_back();
    code = errc::shape_mismatch;
  }
  SECTION("an infinite slope") {
    layers[1].rule.alibi_slopes[0] = std::numeric_limits<float>::infinity();
    code = errc::non_finite;
  }
  SECTION("an odd number of dims") {
    layers[0].rule.rotation->dims = 3;
  }
  SECTION("no positions, where the rule looks at them") {
    for (compact_head& head : layers[1].heads) head.key_positions = {};
    code = errc::shape_mismatch;
  }
  SECTION("positions of one head alone") {
    layers[0].heads[1].key_positions = {};
    code = errc::shape_mismatch;
  }
  SECTION("positions of one row alone") {
    layers[0].heads[1].key_positions = layers[0].heads[1].key_positions.first(1);
    code = errc::shape_mismatch;
  }
  SECTION("a key position beyond 53 bits") {
    data.key_positions[1] = kvfit::index_t{1} << 60U;
    code = errc::invalid_position;
  }
  SECTION("a fingerprint of 65 bytes") {
    data.info.fingerprint.assign(65, 'a');
  }
  CHECK(not_written(data.info, layers).code == code);
}

TEST_CASE("F: entries of a result that tell of attention in unknown words are refused",
          "[io][rule]") {
  const result_with_rules data;
  const kvfit_test::scratch_folder folder;
  REQUIRE(kvfit::write_compact_file(folder / "file", data.info, data.layers()));
  const auto file = kvfit::read_safetensors(folder / "file");
  REQUIRE(file);
  auto metadata = file->metadata;
  const std::string name = GENERATE("attn_logit_softcapping", "sinks", "layers.1.cap");
  metadata[name] = "1";
  const auto read = kvfit::read_compact_file(kvfit_test::encoded(file->tensors, metadata));
  REQUIRE_FALSE(read);
  CHECK(read.error().code == errc::unsupported_file);
  CHECK(read.error().argument == name);
}

TEST_CASE("F: a result whose rule looks at positions says where its keys stand", "[io][rule]") {
  const result_with_rules data;
  const kvfit_test::scratch_folder folder;
  REQUIRE(kvfit::write_compact_file(folder / "file", data.info, data.layers()));
  auto file = kvfit::read_safetensors(folder / "file");
  REQUIRE(file);
  std::erase_if(file->tensors, [](const kvfit::tensor_view& tensor) {
    return tensor.name == "layers.6.key_positions";
  });
  const auto read = kvfit::read_compact_file(kvfit_test::encoded(file->tensors, file->metadata));
  REQUIRE_FALSE(read);
  CHECK(read.error().code == errc::missing_entry);
  CHECK(read.error().argument == "layers.6.key_positions");
}
