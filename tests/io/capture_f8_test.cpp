// SPDX-License-Identifier: MIT
// Captures with F8 numbers, with and without scales, and with a leading dimension of 1.
#include <cstdint>
#include <string>
#include <vector>

#include "io/capture_file.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/fp8.hpp"
#include "kvfit/io/capture.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::index_t;
using kvfit::tensor_type;
using kvfit_test::capture_file;
using kvfit_test::one_layer;

namespace {

/// 2 heads of 24 rows of 4 numbers as fp8, and what they are.
struct f8_keys {
  std::vector<std::uint8_t> bytes;
  std::vector<float> numbers;
};

f8_keys keys_in(tensor_type type) {
  f8_keys made;
  for (const float x : kvfit_test::drawn(2 * 24 * 4, 5)) {
    if (type == tensor_type::f8_e4m3) {
      const auto stored = kvfit::to_fp8_e4m3(x);
      made.bytes.push_back(stored.bits);
      made.numbers.push_back(kvfit::to_float(stored));
    } else {
      const auto stored = kvfit::to_fp8_e5m2(x);
      made.bytes.push_back(stored.bits);
      made.numbers.push_back(kvfit::to_float(stored));
    }
  }
  return made;
}

/// Keys in `type`, and a tensor of scales unless its shape is none.
capture_file with_keys(const f8_keys& keys, tensor_type type) {
  capture_file file = one_layer();
  file.drop("layers.0.k");
  file.add("layers.0.k", type, {2, 24, 4}, keys.bytes);
  return file;
}

}  // namespace

TEST_CASE("a capture takes F8 tensors without scales as they are", "[io][f8]") {
  const auto type = GENERATE(tensor_type::f8_e4m3, tensor_type::f8_e5m2);
  const f8_keys keys = keys_in(type);
  const auto read = with_keys(keys, type).read();
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  for (index_t h = 0; h < 2; ++h) {
    for (index_t i = 0; i < 24; ++i) {
      for (index_t k = 0; k < 4; ++k) {
        const auto at = static_cast<std::size_t>((h * 24 + i) * 4 + k);
        CHECK(read->layers[0].keys(h)(i, k) == keys.numbers[at]);
      }
    }
  }
}

TEST_CASE("F8 numbers are multiplied by a scale of all, of a head, or of a head and row",
          "[io][f8]") {
  const auto type = GENERATE(tensor_type::f8_e4m3, tensor_type::f8_e5m2);
  struct row {
    std::vector<index_t> shape;
    index_t rows_a_scale;
  };
  const auto scales =
      GENERATE(row{{}, 48}, row{{1}, 48}, row{{1, 1, 1}, 48}, row{{2}, 24}, row{{2, 1, 1}, 24},
               row{{1, 2, 1, 1}, 24}, row{{2, 24}, 1}, row{{2, 24, 1}, 1}, row{{1, 2, 24, 1}, 1});
  const f8_keys keys = keys_in(type);
  capture_file file = with_keys(keys, type);
  const auto by = kvfit_test::drawn(static_cast<std::size_t>(48 / scales.rows_a_scale), 9);
  file.add("layers.0.k_scale", scales.shape, by);
  auto read = file.read();
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  const kvfit::capture capture = std::move(*read);  // views survive the move
  for (index_t row = 0; row < 48; ++row) {
    for (index_t k = 0; k < 4; ++k) {
      const float wanted = keys.numbers[static_cast<std::size_t>(row * 4 + k)] *
                           by[static_cast<std::size_t>(row / scales.rows_a_scale)];
      CHECK(capture.layers[0].keys(row / 24)(row % 24, k) == wanted);
    }
  }
}

TEST_CASE("a head of scaled F8 keys is compacted as the numbers that they are", "[io][f8]") {
  const f8_keys keys = keys_in(tensor_type::f8_e4m3);
  capture_file file = with_keys(keys, tensor_type::f8_e4m3);
  file.add("layers.0.k_scale", {2}, {0.5F, 4});
  capture_file plain = one_layer();
  std::vector<float> numbers = keys.numbers;
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] *= i < 96 ? 0.5F : 4;
  plain.drop("layers.0.k");
  plain.add("layers.0.k", {2, 24, 4}, numbers);
  const auto a = file.read();
  const auto b = plain.read();
  REQUIRE(a);
  REQUIRE(b);
  for (index_t h = 0; h < 2; ++h) {
    const auto fit = [&](const kvfit::capture_layer& layer) {
      const auto queries = layer.query_blocks(h);
      return kvfit::compact(layer.block(h), std::span<const kvfit::query_block>(queries),
                            {.budget = 5});
    };
    const auto from_f8 = fit(a->layers[0]);
    const auto from_f32 = fit(b->layers[0]);
    REQUIRE(from_f8);
    REQUIRE(from_f32);
    CHECK(from_f8->keys == from_f32->keys);
    CHECK(from_f8->bias == from_f32->bias);
    CHECK(from_f8->values == from_f32->values);
  }
}

TEST_CASE("values and queries may be F8 with scales, too", "[io][f8]") {
  const std::string part = GENERATE("v", "q", "q_test");
  capture_file file = one_layer();
  file.drop("layers.0." + part);
  const index_t heads = part == "v" ? 2 : 4;
  const index_t rows = part == "v" ? 24 : part == "q" ? 30 : 10;
  const index_t cols = part == "v" ? 3 : 4;
  const std::vector<std::uint8_t> ones(static_cast<std::size_t>(heads * rows * cols),
                                       kvfit::to_fp8_e4m3(1.0F).bits);
  file.add("layers.0." + part, tensor_type::f8_e4m3, {heads, rows, cols}, ones);
  file.add("layers.0." + part + "_scale", {1}, {2.5F});
  const auto read = file.read();
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  const kvfit::capture_layer& layer = read->layers[0];
  const kvfit::row_view last = part == "v"   ? layer.values(1)
                               : part == "q" ? layer.queries(1)[1]
                                             : layer.test_queries(1)[1];
  CHECK(last(rows - 1, cols - 1) == 2.5F);
}

TEST_CASE("scales of other shapes, types and tensors are refused by name", "[io][f8]") {
  const f8_keys keys = keys_in(tensor_type::f8_e4m3);
  capture_file file = with_keys(keys, tensor_type::f8_e4m3);
  std::string culprit = "layers.0.k_scale";
  auto code = errc::shape_mismatch;
  SECTION("one a row, whatever the head") {
    file.add(culprit, {24}, kvfit_test::drawn(24, 1));
  }
  SECTION("one a column") {
    file.add(culprit, {2, 1, 4}, kvfit_test::drawn(8, 1));
  }
  SECTION("none") {
    file.add(culprit, {0}, {});
  }
  SECTION("half precision") {
    file.add(culprit, tensor_type::f16, {1}, std::vector<std::uint16_t>{0x3C00});
    code = errc::unsupported_file;
  }
  SECTION("of numbers that need none") {
    culprit = "layers.0.v_scale";
    file.add(culprit, {1}, {1});
    code = errc::unsupported_file;
  }
  SECTION("of queries that are not there") {
    file.drop("layers.0.q_test");
    file.add("layers.0.q_test_scale", {1}, {1});
    culprit = "layers.0.q_test";
    code = errc::missing_entry;
  }
  const auto read = file.read();
  REQUIRE_FALSE(read);
  CHECK(read.error().code == code);
  CHECK(read.error().argument == culprit);
}

TEST_CASE("tensors of shape [1, H, T, d] are those of [H, T, d]", "[io]") {
  capture_file file;
  file.add("layers.0.k", {1, 2, 24, 4}, kvfit_test::drawn(2 * 24 * 4, 1));
  file.add("layers.0.v", {1, 2, 24, 3}, kvfit_test::drawn(2 * 24 * 3, 2));
  file.add("layers.0.q", {1, 4, 30, 4}, kvfit_test::drawn(4 * 30 * 4, 3));
  file.add("layers.0.q_test", {1, 4, 10, 4}, kvfit_test::drawn(4 * 10 * 4, 4));
  const auto four = file.read();
  const auto three = one_layer().read();
  INFO((four ? std::string() : four.error().message()));
  REQUIRE(four);
  REQUIRE(three);
  const kvfit::capture_layer& a = four->layers[0];
  const kvfit::capture_layer& b = three->layers[0];
  CHECK(a.heads() == 2);
  CHECK(a.query_heads() == 4);
  CHECK(a.rows() == 24);
  CHECK(a.keys(1)(23, 3) == b.keys(1)(23, 3));
  CHECK(a.values(1)(23, 2) == b.values(1)(23, 2));
  CHECK(a.queries(1)[1](29, 3) == b.queries(1)[1](29, 3));
  CHECK(a.test_queries(1)[1](9, 3) == b.test_queries(1)[1](9, 3));
  // A batch of several sequences is no capture of one.
  file.drop("layers.0.k");
  file.add("layers.0.k", {2, 1, 24, 4}, kvfit_test::drawn(2 * 24 * 4, 1));
  const auto batch = file.read();
  REQUIRE_FALSE(batch);
  CHECK(batch.error().code == errc::malformed_file);
  CHECK(batch.error().argument == "layers.0.k");
}
