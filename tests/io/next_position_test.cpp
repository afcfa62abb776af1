// SPDX-License-Identifier: MIT
// The next position is a number of its own: under M-RoPE many rows of an image share a position,
// and decoding goes on below the number of rows.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "io/capture_file.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/io/compact_file.hpp"
#include "kvfit/io/state.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::index_t;
using kvfit_test::capture_file;
using kvfit_test::drawn;

namespace {

/// Positions of 124 rows: 30 of text, 64 of an image at position 30, 30 of text from 38 on.
std::vector<std::int64_t> image_positions() {
  std::vector<std::int64_t> positions;
  for (std::int64_t i = 0; i < 30; ++i) positions.push_back(i);
  positions.insert(positions.end(), 64, 30);
  for (std::int64_t i = 38; i < 68; ++i) positions.push_back(i);
  return positions;
}

/// One head of those 124 rows, and 40 queries.
capture_file image_capture() {
  capture_file file;
  file.add("layers.0.k", {1, 124, 4}, drawn(124 * 4, 1));
  file.add("layers.0.v", {1, 124, 3}, drawn(124 * 3, 2));
  file.add("layers.0.q", {1, 40, 4}, drawn(40 * 4, 3));
  file.add("layers.0.k_positions", image_positions());
  file.metadata["next_position"] = "68";
  return file;
}

/// The capture compacted to 20 rows.
kvfit::compacted compacted_image(const kvfit::capture& capture) {
  const kvfit::capture_layer& layer = capture.layers[0];
  const auto queries = layer.query_blocks(0);
  auto made =
      kvfit::compact(layer.block(0), std::span<const kvfit::query_block>(queries), {.budget = 20});
  REQUIRE(made);
  return std::move(*made);
}

kvfit::compacted_cache cache_of(const kvfit::compacted& head) {
  kvfit::compacted_cache cache;
  kvfit::compacted_layer& layer = cache.layers.emplace_back();
  layer.offsets = {0, 20};
  layer.positions = head.positions;
  layer.key_positions = head.key_positions;
  layer.keys = head.keys;
  layer.bias = head.bias;
  layer.values = head.values;
  layer.heads = {{{0, 0}, 124, 20, kvfit::head_outcome::fitted, {}, {}}};
  cache.rows = 20;
  cache.rows_before = 124;
  return cache;
}

}  // namespace

TEST_CASE("E: a capture keeps several rows at one position and a next position of its own",
          "[io][position]") {
  capture_file file = image_capture();
  const auto read = file.read();
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  CHECK(read->next_position == 68);
  const auto wanted = image_positions();
  CHECK(std::ranges::equal(read->layers[0].key_positions(), wanted));
  CHECK(read->layers[0].block(0).position(31) == 30);
  // Without the entry, the next token stands behind the last key, not behind the last row.
  file.metadata.erase("next_position");
  const auto silent = file.read();
  REQUIRE(silent);
  CHECK(silent->next_position == 68);
}

TEST_CASE("E: a capture's logical length may be less than its rows", "[io][position]") {
  capture_file file = image_capture();
  file.drop("layers.0.k_positions");
  file.metadata.erase("next_position");
  file.metadata["version"] = GENERATE("1", "2");
  file.metadata["logical_length"] = "68";
  const auto read = file.read();
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  CHECK(read->next_position == 68);
}

TEST_CASE("E: a next position and a logical length that differ are refused", "[io][position]") {
  capture_file file = image_capture();
  file.metadata["logical_length"] = "124";
  const auto read = file.read();
  REQUIRE_FALSE(read);
  CHECK(read.error().code == errc::malformed_file);
  CHECK(read.error().argument == "logical_length");
}

TEST_CASE("E: key positions may stand in any order", "[io][position]") {
  capture_file file = image_capture();
  auto positions = image_positions();
  std::reverse(positions.begin(), positions.end());
  file.drop("layers.0.k_positions");
  SECTION("as I64") {
    file.add("layers.0.k_positions", positions);
  }
  SECTION("as I32") {
    file.add("layers.0.k_positions", kvfit::tensor_type::i32, {124},
             std::vector<std::int32_t>(positions.begin(), positions.end()));
  }
  const auto read = file.read();
  REQUIRE(read);
  CHECK(std::ranges::equal(read->layers[0].key_positions(), positions));
}

TEST_CASE("E: positions of another number, type or range are refused", "[io][position]") {
  capture_file file = image_capture();
  file.drop("layers.0.k_positions");
  auto positions = image_positions();
  auto code = errc::malformed_file;
  SECTION("one too few") {
    positions.pop_back();
    file.add("layers.0.k_positions", positions);
    code = errc::shape_mismatch;
  }
  SECTION("beyond 53 bits") {
    positions[7] = (std::int64_t{1} << 53U) + 1;
    file.add("layers.0.k_positions", positions);
  }
  SECTION("the least I64") {
    positions[7] = std::numeric_limits<std::int64_t>::min();
    file.add("layers.0.k_positions", positions);
  }
  SECTION("floats") {
    file.add("layers.0.k_positions", {124}, drawn(124, 1));
    code = errc::unsupported_file;
  }
  const auto read = file.read();
  REQUIRE_FALSE(read);
  CHECK(read.error().code == code);
  CHECK(read.error().argument == "layers.0.k_positions");
}

TEST_CASE("E: a state keeps rows beyond the next position, and keys that share one",
          "[io][position][state]") {
  const auto capture = image_capture().read();
  REQUIRE(capture);
  const kvfit::compacted head = compacted_image(*capture);
  REQUIRE(head.positions.back() >= 68);
  const kvfit::compacted_cache cache = cache_of(head);
  const auto saved = kvfit::write_state(cache, {.next_position = 68});
  INFO((saved ? std::string() : saved.error().message()));
  REQUIRE(saved);
  const auto state = kvfit::read_state(*saved);
  REQUIRE(state);
  CHECK(state->info.next_position == 68);
  CHECK(state->cache.layers[0].positions == head.positions);
  CHECK(state->cache.layers[0].key_positions == head.key_positions);
  const auto& stand = state->cache.layers[0].key_positions;
  CHECK(std::ranges::count(stand, index_t{30}) > 1);
}

TEST_CASE("E: a result keeps rows beyond the next position, and keys that share one",
          "[io][position]") {
  const auto capture = image_capture().read();
  REQUIRE(capture);
  const kvfit::compacted head = compacted_image(*capture);
  const std::span<const float> bias(head.bias.data(), 20);
  const std::vector<kvfit::compact_layer> layers = {
      {0, {{head.keys, head.values, bias, head.positions, head.key_positions}}, {}}};
  const kvfit_test::scratch_folder folder;
  const auto written = kvfit::write_compact_file(
      folder / "result", {"default", 68, 0.5F, kvfit::dtype::fp32, {}}, layers);
  INFO((written ? std::string() : written.error().message()));
  REQUIRE(written);
  const auto read = kvfit::read_compact_file(folder / "result");
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  CHECK(read->info.next_position == 68);
  const kvfit::compact_head& found = read->layers[0].heads[0];
  CHECK(std::ranges::equal(found.positions, head.positions));
  CHECK(std::ranges::equal(found.key_positions, head.key_positions));
  REQUIRE(kvfit::write_compact_file(folder / "again", read->info, read->layers));
  CHECK(kvfit_test::file_bytes(folder / "again") == kvfit_test::file_bytes(folder / "result"));
}

TEST_CASE("E: a result of version 1 is read, its logical length as the next position",
          "[io][position]") {
  const auto numbers = drawn(6, 1);
  const std::vector<std::int32_t> positions = {0, 7};
  const std::vector<std::int32_t> offsets = {0, 2};
  using kvfit::tensor_type;
  using kvfit_test::tensor;
  const auto file_with = [&](const char* version) {
    return kvfit_test::encoded(
        {tensor("layers.5.k", tensor_type::f32, {2, 3}, numbers),
         tensor("layers.5.v", tensor_type::f32, {2, 3}, numbers),
         tensor("layers.5.bias", tensor_type::f32, {2}, std::vector<float>{0, 1}),
         tensor("layers.5.positions", tensor_type::i32, {2}, positions),
         tensor("layers.5.head_offsets", tensor_type::i32, {2}, offsets)},
        {{"format", "kvfit-compact"},
         {"version", version},
         {"method", "omp"},
         {"logical_length", "8"},
         {"scale", "0.125"},
         {"library_version", "0.1.0"}});
  };
  const auto read = kvfit::read_compact_file(file_with("1"));
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  CHECK(read->info.next_position == 8);
  CHECK(*read->layers[0].rule.logits.scale == 0.125F);
  CHECK(read->layers[0].heads[0].key_positions.empty());
  // Version 2 has a name of its own for it, and a later version is refused as such.
  CHECK(kvfit::read_compact_file(file_with("2")).error().argument == "next_position");
  const auto later = kvfit::read_compact_file(file_with("3"));
  CHECK(later.error().code == errc::unsupported_file);
  CHECK(later.error().argument == "version");
}
