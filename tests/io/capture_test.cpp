// SPDX-License-Identifier: MIT
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "io/files.hpp"
#include "kvfit/io/capture.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::tensor_type;
using kvfit::tensor_view;
using kvfit_test::encoded;
using kvfit_test::ramp;

namespace {

const kvfit::tensor_metadata good_metadata = {
    {"format", "kvfit-capture"}, {"version", "1"}, {"scale", "0.5"}};

/// Tensors that own their numbers.
class builder {
 public:
  void add(const std::string& name, std::vector<kvfit::index_t> shape, float start = 0,
           tensor_type type = tensor_type::f32) {
    std::size_t count = 1;
    for (const kvfit::index_t size : shape) count *= static_cast<std::size_t>(size);
    std::vector<std::byte> bytes;
    for (const float number : ramp(count, start)) {
      const auto append = [&bytes](const auto& stored) {
        const auto* const first = reinterpret_cast<const std::byte*>(&stored);
        bytes.insert(bytes.end(), first, first + sizeof stored);
      };
      if (type == tensor_type::f16) {
        append(kvfit::to_fp16(number));
      } else if (type == tensor_type::bf16) {
        append(kvfit::to_bf16(number));
      } else if (type == tensor_type::f64) {
        append(static_cast<double>(number));
      } else {
        append(number);
      }
    }
    memory_.push_back(std::move(bytes));
    tensors_.push_back({name, type, std::move(shape), memory_.back()});
  }
  void drop(const std::string& name) {
    std::erase_if(tensors_, [&](const tensor_view& tensor) { return tensor.name == name; });
  }
  void replace(const std::string& name, std::vector<kvfit::index_t> shape,
               tensor_type type = tensor_type::f32) {
    drop(name);
    add(name, std::move(shape), 0, type);
  }
  [[nodiscard]] kvfit_test::bytes file(const kvfit::tensor_metadata& metadata) const {
    return encoded(tensors_, metadata);
  }

 private:
  std::vector<std::vector<std::byte>> memory_;  // moving a vector keeps its elements in place
  std::vector<tensor_view> tensors_;
};

/// One layer, number 0: 2 KV heads, 4 query heads, T = 5, d = 3, d_v = 2, n = 6, m = 1.
builder good_capture() {
  builder file;
  file.add("layers.0.k", {2, 5, 3}, 0);
  file.add("layers.0.v", {2, 5, 2}, 100);
  file.add("layers.0.q", {4, 6, 3}, 200);
  file.add("layers.0.q_test", {4, 1, 3}, 300);
  return file;
}

kvfit::error cause_of(const builder& file, const kvfit::tensor_metadata& metadata = good_metadata) {
  const auto read = kvfit::read_capture(file.file(metadata));
  REQUIRE_FALSE(read.has_value());
  INFO(read.error().message());
  return read.error();
}

}  // namespace

TEST_CASE("a capture gives each head its keys, its values and its group of queries", "[io]") {
  auto read = kvfit::read_capture(good_capture().file(good_metadata));
  REQUIRE(read.has_value());
  const kvfit::capture capture = std::move(*read);  // views survive the move
  CHECK(capture.scale == 0.5F);
  CHECK(capture.next_position == 5);
  REQUIRE(capture.layers.size() == 1);
  const kvfit::capture_layer& layer = capture.layers[0];
  CHECK(layer.number() == 0);
  CHECK(layer.heads() == 2);
  CHECK(layer.query_heads() == 4);
  CHECK(layer.rows() == 5);

  const auto k = ramp(30, 0);
  const auto v = ramp(20, 100);
  const auto q = ramp(72, 200);
  const auto q_test = ramp(12, 300);
  for (kvfit::index_t h = 0; h < 2; ++h) {
    REQUIRE(layer.keys(h).rows() == 5);
    REQUIRE(layer.keys(h).cols() == 3);
    REQUIRE(layer.values(h).cols() == 2);
    for (kvfit::index_t i = 0; i < 5; ++i) {
      for (kvfit::index_t j = 0; j < 3; ++j) {
        CHECK(layer.keys(h)(i, j) == k[static_cast<std::size_t>((h * 5 + i) * 3 + j)]);
      }
      for (kvfit::index_t j = 0; j < 2; ++j) {
        CHECK(layer.values(h)(i, j) == v[static_cast<std::size_t>((h * 5 + i) * 2 + j)]);
      }
    }
    REQUIRE(layer.queries(h).size() == 2);
    REQUIRE(layer.test_queries(h).size() == 2);
    for (kvfit::index_t g = 0; g < 2; ++g) {
      const kvfit::row_view block = layer.queries(h)[static_cast<std::size_t>(g)];
      REQUIRE(block.rows() == 6);
      CHECK(block(0, 0) == q[static_cast<std::size_t>((2 * h + g) * 18)]);
      CHECK(block(5, 2) == q[static_cast<std::size_t>((2 * h + g) * 18 + 17)]);
      const kvfit::row_view test = layer.test_queries(h)[static_cast<std::size_t>(g)];
      REQUIRE(test.rows() == 1);
      CHECK(test(0, 1) == q_test[static_cast<std::size_t>((2 * h + g) * 3 + 1)]);
    }
  }
}

TEST_CASE("held-out queries may be absent, and types may differ among tensors", "[io]") {
  auto file = good_capture();
  file.drop("layers.0.q_test");
  file.replace("layers.0.k", {2, 5, 3}, tensor_type::f16);
  file.replace("layers.0.v", {2, 5, 2}, tensor_type::bf16);
  const auto read = kvfit::read_capture(file.file(good_metadata));
  REQUIRE(read.has_value());
  const auto& layer = read->layers[0];
  CHECK(layer.test_queries(1).empty());
  CHECK(layer.keys(1).type() == kvfit::dtype::fp16);
  CHECK(layer.values(1).type() == kvfit::dtype::bf16);
  CHECK(layer.queries(1)[0].type() == kvfit::dtype::fp32);
  CHECK(layer.keys(1)(4, 2) == ramp(30)[29]);
  CHECK(layer.values(1)(4, 1) == ramp(20)[19]);
}

TEST_CASE("layers come in the order of their numbers, with gaps and head counts of their own",
          "[io]") {
  auto file = good_capture();
  file.add("layers.10.k", {1, 7, 2});
  file.add("layers.10.v", {1, 7, 2});
  file.add("layers.10.q", {3, 2, 2});
  file.add("layers.2.k", {2, 1, 1});
  file.add("layers.2.v", {2, 1, 1});
  file.add("layers.2.q", {2, 1, 1});
  file.add("embedding", {3});  // none of the schema's business
  auto metadata = good_metadata;
  metadata["logical_length"] = "9";
  const auto read = kvfit::read_capture(file.file(metadata));
  REQUIRE(read.has_value());
  REQUIRE(read->layers.size() == 3);
  CHECK(read->layers[1].number() == 2);
  CHECK(read->layers[2].number() == 10);
  CHECK(read->layers[2].queries(0).size() == 3);
  CHECK(read->next_position == 9);
  CHECK(find_tensor(read->file, "embedding") != nullptr);
}

TEST_CASE("a tensor that a capture needs and lacks is named", "[io]") {
  const std::string name = GENERATE("layers.0.k", "layers.0.v", "layers.0.q");
  auto file = good_capture();
  file.drop(name);
  const auto cause = cause_of(file);
  CHECK(cause.code == errc::missing_entry);
  CHECK(cause.argument == name);
}

TEST_CASE("a capture without layers, and one without its metadata, say what is missing", "[io]") {
  CHECK(cause_of(builder{}).code == errc::missing_entry);
  const std::string key = GENERATE("format", "version", "scale");
  auto metadata = good_metadata;
  metadata.erase(key);
  const auto cause = cause_of(good_capture(), metadata);
  CHECK(cause.code == errc::missing_entry);
  CHECK(cause.argument == key);
}

TEST_CASE("sizes that disagree are named with both numbers", "[io]") {
  struct row {
    const char* tensor;
    std::vector<kvfit::index_t> shape;
    kvfit::index_t actual;
    kvfit::index_t expected;
  };
  const auto bad =
      GENERATE(row{"layers.0.v", {1, 5, 2}, 1, 2},  //
               row{"layers.0.v", {2, 4, 2}, 4, 5},  //
               row{"layers.0.q", {3, 6, 3}, 3, 2},  //
               row{"layers.0.q", {1, 6, 3}, 1, 2},  //
               row{"layers.0.q", {4, 6, 2}, 2, 3},  //
               row{"layers.0.q_test", {4, 1, 4}, 4, 3}, row{"layers.0.q_test", {5, 1, 3}, 5, 2},
               row{"layers.0.q_test", {2, 1, 3}, 2, 4});
  auto file = good_capture();
  file.replace(bad.tensor, bad.shape);
  const auto cause = cause_of(file);
  CHECK(cause.code == errc::shape_mismatch);
  CHECK(cause.argument == bad.tensor);
  CHECK(cause.actual == bad.actual);
  CHECK(cause.expected == bad.expected);
}

TEST_CASE("stated head counts and lengths hold for every layer", "[io]") {
  auto metadata = good_metadata;
  metadata["n_heads_q"] = "4";
  metadata["n_heads_kv"] = "2";
  CHECK(kvfit::read_capture(good_capture().file(metadata)).has_value());
  SECTION("KV heads") {
    metadata["n_heads_kv"] = "4";
    const auto cause = cause_of(good_capture(), metadata);
    CHECK(cause.code == errc::shape_mismatch);
    CHECK(cause.argument == "layers.0.k");
    CHECK(cause.actual == 2);
    CHECK(cause.expected == 4);
  }
  SECTION("query heads") {
    metadata["n_heads_q"] = "8";
    CHECK(cause_of(good_capture(), metadata).argument == "layers.0.q");
  }
  SECTION("no number") {
    for (const char* text :
         {"", " 4", "4 ", "+4", "-4", "04", "4.0", "0x4", "four", "99999999999999999999"}) {
      for (const char* key : {"n_heads_q", "n_heads_kv", "logical_length"}) {
        INFO(key << " = '" << text << "'");
        auto wrong = good_metadata;
        wrong[key] = text;
        const auto cause = cause_of(good_capture(), wrong);
        CHECK(cause.code == errc::malformed_file);
        CHECK(cause.argument == key);
      }
    }
  }
}

TEST_CASE("the scale is a positive finite number and nothing else", "[io]") {
  auto metadata = good_metadata;
  SECTION("spellings that are read") {
    for (const auto& [text, number] :
         {std::pair{"1", 1.0F}, std::pair{"0.08838834764831845", 0.088388347648F},
          std::pair{"1e-05", 1e-5F}, std::pair{"1.25E+2", 125.0F}}) {
      INFO(text);
      metadata["scale"] = text;
      const auto read = kvfit::read_capture(good_capture().file(metadata));
      REQUIRE(read.has_value());
      CHECK(read->scale == number);
    }
  }
  SECTION("spellings that are not") {
    for (const char* text : {"",     "0",     "0.0",    "-0.125", "-0",     "nan",    "inf",
                             "1e39", "1e999", "1e-60",  "0,125",  "0.125 ", " 0.125", "+0.125",
                             ".125", "1.",    "0x1p-3", "0.125f", "true",   "[1]",    "1 1"}) {
      INFO("'" << text << "'");
      metadata["scale"] = text;
      const auto cause = cause_of(good_capture(), metadata);
      CHECK(cause.code == errc::malformed_file);
      CHECK(cause.argument == "scale");
    }
  }
}

TEST_CASE("another format, version, type or part of a layer is unsupported", "[io]") {
  auto metadata = good_metadata;
  auto file = good_capture();
  std::string culprit;
  SECTION("format") {
    culprit = "format";
    metadata[culprit] = "kvfit-compact";
  }
  SECTION("version") {
    culprit = "version";
    metadata[culprit] = "3";
  }
  SECTION("keys in double precision") {
    culprit = "layers.0.k";
    file.replace(culprit, {2, 5, 3}, tensor_type::f64);
  }
  SECTION("queries in double precision") {
    culprit = "layers.0.q";
    file.replace(culprit, {4, 6, 3}, tensor_type::f64);
  }
  SECTION("a part this version does not know") {
    culprit = "layers.0.bias";
    file.add(culprit, {2, 5});
  }
  const auto cause = cause_of(file, metadata);
  CHECK(cause.code == errc::unsupported_file);
  CHECK(cause.argument == culprit);
}

TEST_CASE("ranks other than three are malformed", "[io]") {
  auto file = good_capture();
  std::string culprit;
  SECTION("two dimensions") {
    culprit = "layers.0.k";
    file.replace(culprit, {10, 3});
  }
  SECTION("four dimensions") {
    culprit = "layers.0.q";
    file.replace(culprit, {2, 2, 6, 3});
  }
  const auto cause = cause_of(file);
  CHECK(cause.code == errc::malformed_file);
  CHECK(cause.argument == culprit);
}

TEST_CASE("layer numbers that are none are malformed", "[io]") {
  const std::string name = GENERATE("layers.00.k", "layers.-1.k", "layers.x.k", "layers..k",
                                    "layers.0", "layers.", "layers.99999999999999999999.k");
  auto file = good_capture();
  file.add(name, {2, 5, 3});
  const auto cause = cause_of(file);
  CHECK(cause.code == errc::malformed_file);
  CHECK(cause.argument == name);
}

TEST_CASE("tensors of no elements make no capture", "[io]") {
  const auto [name, shape] =
      GENERATE(std::pair{"layers.0.k", std::vector<kvfit::index_t>{0, 5, 3}},
               std::pair{"layers.0.k", std::vector<kvfit::index_t>{2, 0, 3}},
               std::pair{"layers.0.v", std::vector<kvfit::index_t>{2, 5, 0}},
               std::pair{"layers.0.q", std::vector<kvfit::index_t>{0, 6, 3}},
               std::pair{"layers.0.q", std::vector<kvfit::index_t>{kvfit::index_t{1} << 40U, 0, 3}},
               std::pair{"layers.0.q_test", std::vector<kvfit::index_t>{4, 0, 3}});
  auto file = good_capture();
  file.replace(name, shape);
  const auto cause = cause_of(file);
  CHECK(cause.code == errc::empty_input);
  CHECK(cause.argument == name);
}

TEST_CASE("the errors of the file itself pass through", "[io]") {
  CHECK(kvfit::read_capture(std::span<const std::byte>{}).error().code == errc::malformed_file);
  CHECK(kvfit::read_capture("no such file").error().code == errc::file_unreadable);
}

#if defined(KVFIT_TEST_DATA_DIR)
TEST_CASE("the real capture that comes with the sources is read", "[io]") {
  const auto path = std::filesystem::path(KVFIT_TEST_DATA_DIR) / "tinybooks.safetensors";
  const auto read = kvfit::read_capture(path);
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read.has_value());
  CHECK(read->scale == 0.125F);
  CHECK(read->next_position == 1024);
  REQUIRE_FALSE(read->layers.empty());
  for (const auto& layer : read->layers) {
    CHECK(layer.heads() == 2);
    CHECK(layer.query_heads() == 4);
    CHECK(layer.rows() == 1024);
    CHECK(layer.keys(1).cols() == 64);
    CHECK(layer.values(1).cols() == 64);
    CHECK(layer.keys(1).type() == kvfit::dtype::fp16);
    CHECK(layer.queries(1)[1].rows() == 1024);
    CHECK(layer.test_queries(1)[1].rows() == 1024);
  }
}
#endif
