// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "io/files.hpp"
#include "kvfit/io/compact_file.hpp"
#include "support/catch.hpp"

using kvfit::compact_file_info;
using kvfit::compact_head;
using kvfit::compact_layer;
using kvfit::dtype;
using kvfit::errc;
using kvfit::row_view;
using kvfit::tensor_type;
using kvfit::tensor_view;
using kvfit_test::encoded;
using kvfit_test::ramp;
using kvfit_test::scratch_folder;
using kvfit_test::tensor;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Layers 3 and 0; layer 3 has heads of 3, 0 and 2 rows, d = 2, d_v = 1; layer 0 one of 1 row.
struct fitted {
  std::vector<float> keys = ramp(10);
  std::vector<float> values = ramp(5, 8);
  std::vector<float> bias = {0.5F, -1, 0, 3, -40};
  std::vector<kvfit::index_t> positions = {0, -1, 99, 4, 5};
  std::vector<float> small = {1, 2, 3};
  std::vector<kvfit::index_t> first = {0};
  compact_file_info info = {"omp", 100, 0.088388347F, dtype::fp32};

  [[nodiscard]] compact_head head(kvfit::index_t start, kvfit::index_t rows) const {
    const auto from = static_cast<std::size_t>(start);
    const auto count = static_cast<std::size_t>(rows);
    return {row_view(keys.data() + 2 * start, rows, 2), row_view(values.data() + start, rows, 1),
            std::span(bias).subspan(from, count), std::span(positions).subspan(from, count)};
  }
  [[nodiscard]] std::vector<compact_layer> layers() const {
    return {{3, {head(0, 3), head(3, 0), head(3, 2)}},
            {0,
             {{row_view(small.data(), 1, 3), row_view(small.data(), 1, 3),
               std::span(small).first(1), first}}}};
  }
};

void check_same(const row_view& found, const row_view& wanted) {
  REQUIRE(found.rows() == wanted.rows());
  REQUIRE(found.cols() == wanted.cols());
  for (kvfit::index_t i = 0; i < found.rows(); ++i) {
    for (kvfit::index_t j = 0; j < found.cols(); ++j) CHECK(found(i, j) == wanted(i, j));
  }
}

kvfit::error write_error(const compact_file_info& info, const std::vector<compact_layer>& layers) {
  const scratch_folder folder;
  const auto written = kvfit::write_compact_file(folder / "file", info, layers);
  REQUIRE_FALSE(written.has_value());
  CHECK(folder.count() == 0);
  INFO(written.error().message());
  return written.error();
}

/// A file of one layer with two heads of 2 and 1 rows, to be spoilt tensor by tensor.
struct raw_compact {
  std::vector<float> k = ramp(6);
  std::vector<float> v = ramp(3);
  std::vector<float> bias = {0, 1, 2};
  std::vector<std::int32_t> positions = {0, 7, -1};
  std::vector<std::int32_t> head_offsets = {0, 2, 3};
  std::vector<tensor_view> tensors = {
      tensor("layers.5.k", tensor_type::f32, {3, 2}, k),
      tensor("layers.5.v", tensor_type::f32, {3, 1}, v),
      tensor("layers.5.bias", tensor_type::f32, {3}, bias),
      tensor("layers.5.positions", tensor_type::i32, {3}, positions),
      tensor("layers.5.head_offsets", tensor_type::i32, {3}, head_offsets)};
  kvfit::tensor_metadata metadata = {{"format", "kvfit-compact"}, {"version", "1"},
                                     {"method", "omp"},           {"logical_length", "8"},
                                     {"scale", "0.125"},          {"library_version", "0.1.0"}};

  raw_compact() = default;
  raw_compact(const raw_compact&) = delete;
  raw_compact& operator=(const raw_compact&) = delete;

  tensor_view& at(const std::string& part) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const tensor_view& candidate) {
      return candidate.name == "layers.5." + part;
    });
  }
  [[nodiscard]] kvfit::result<kvfit::compact_file> read() const {
    return kvfit::read_compact_file(encoded(tensors, metadata));
  }
  [[nodiscard]] kvfit::error cause() const {
    const auto file = read();
    REQUIRE_FALSE(file.has_value());
    INFO(file.error().message());
    return file.error();
  }
};

}  // namespace

TEST_CASE("a result comes back from its file, in every storage type", "[io]") {
  const fitted data;
  auto info = data.info;
  info.storage = GENERATE(dtype::fp32, dtype::fp16, dtype::bf16);
  const scratch_folder folder;
  const auto layers = data.layers();
  REQUIRE(kvfit::write_compact_file(folder / "file", info, layers).has_value());
  CHECK(folder.count() == 1);

  auto read = kvfit::read_compact_file(folder / "file");
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read.has_value());
  const kvfit::compact_file file = std::move(*read);  // views survive the move
  CHECK(file.info.method == "omp");
  CHECK(file.info.next_position == 100);
  CHECK(file.info.scale == data.info.scale);
  CHECK(file.info.storage == info.storage);
  CHECK(file.library_version == kvfit::version);
  REQUIRE(file.layers.size() == 2);
  CHECK(file.layers[0].number == 0);
  CHECK(file.layers[1].number == 3);
  for (const compact_layer& wanted : layers) {
    const compact_layer& found = file.layers[wanted.number == 0 ? 0 : 1];
    REQUIRE(found.heads.size() == wanted.heads.size());
    for (std::size_t h = 0; h < wanted.heads.size(); ++h) {
      check_same(found.heads[h].keys, wanted.heads[h].keys);
      check_same(found.heads[h].values, wanted.heads[h].values);
      CHECK(found.heads[h].keys.type() == info.storage);
      CHECK(std::ranges::equal(found.heads[h].bias, wanted.heads[h].bias));
      CHECK(std::ranges::equal(found.heads[h].positions, wanted.heads[h].positions));
    }
  }

  // What was read can be written again, and gives the same bytes.
  REQUIRE(kvfit::write_compact_file(folder / "again", file.info, file.layers).has_value());
  CHECK(kvfit_test::file_bytes(folder / "again") == kvfit_test::file_bytes(folder / "file"));
}

TEST_CASE("keys and values may be strided, transposed or half precision already", "[io]") {
  const std::vector<float> keys = {1, 2, 3, 4, 5, 6};
  const std::vector<kvfit::fp16> values = {kvfit::to_fp16(0.5F), kvfit::to_fp16(-65504.0F)};
  const std::vector<float> bias = {0, 0};
  const std::vector<kvfit::index_t> positions = {-1, -1};
  const compact_head head = {row_view(keys.data(), 3, 2).transposed(),
                             row_view(values.data(), 2, 1), bias, positions};
  const scratch_folder folder;
  const std::vector<compact_layer> layers = {{0, {head}}};
  REQUIRE(kvfit::write_compact_file(folder / "file", {"x", 0, 1, dtype::fp16}, layers).has_value());
  const auto read = kvfit::read_compact_file(folder / "file");
  REQUIRE(read.has_value());
  check_same(read->layers[0].heads[0].keys, head.keys);
  check_same(read->layers[0].heads[0].values, head.values);
}

TEST_CASE("a number that overflows its storage is named by row and column, and nothing is written",
          "[io]") {
  fitted data;
  data.info.storage = dtype::fp16;
  SECTION("fp16 keys") {
    data.keys[2 * 4 + 1] = 65520;  // the first that rounds to infinity: head 2, row 1, column 1
    const auto cause = write_error(data.info, data.layers());
    CHECK(cause.code == errc::storage_overflow);
    CHECK(cause.argument == "layers.3 head 2 keys");
    CHECK(cause.actual == 1);
    CHECK(cause.expected == 1);
  }
  SECTION("fp16 values") {
    data.values[2] = -1e30F;
    const auto cause = write_error(data.info, data.layers());
    CHECK(cause.code == errc::storage_overflow);
    CHECK(cause.argument == "layers.3 head 0 values");
    CHECK(cause.actual == 2);
    CHECK(cause.expected == 0);
  }
  SECTION("bf16 overflows only at the very end") {
    data.info.storage = dtype::bf16;
    data.values[2] = std::numeric_limits<float>::max();
    CHECK(write_error(data.info, data.layers()).code == errc::storage_overflow);
  }
  SECTION("the largest fp16 fits") {
    data.keys[0] = 65519;
    const scratch_folder folder;
    CHECK(kvfit::write_compact_file(folder / "file", data.info, data.layers()).has_value());
  }
}

TEST_CASE("numbers that are not finite are not written", "[io]") {
  fitted data;
  std::string place;
  SECTION("keys") {
    data.keys[3] = std::nanf("");
    place = "layers.3 head 0 keys";
  }
  SECTION("values") {
    data.values[1] = infinity;
    place = "layers.3 head 0 values";
  }
  SECTION("bias") {
    data.bias[1] = -infinity;
    place = "layers.3 head 0 bias";
  }
  const auto cause = write_error(data.info, data.layers());
  CHECK(cause.code == errc::non_finite);
  CHECK(cause.argument == place);
  CHECK(cause.actual == 1);
}

TEST_CASE("positions are original rows in order, or -1", "[io]") {
  fitted data;
  SECTION("beyond I32") {
    data.positions[2] = kvfit::index_t{1} << 31U;
  }
  SECTION("below -1") {
    data.positions[2] = -2;
  }
  SECTION("repeated") {
    data.positions[2] = 0;
  }
  SECTION("out of order") {
    data.positions[0] = 7, data.positions[2] = 3;
  }
  const auto cause = write_error(data.info, data.layers());
  CHECK(cause.code == errc::invalid_position);
  CHECK(cause.argument == "layers.3 head 0 positions");
  CHECK(cause.actual == data.positions[2]);
  CHECK(cause.detail.find("at row 2") != std::string::npos);
}

TEST_CASE("parts of a head that disagree in size are not written", "[io]") {
  const fitted data;
  auto layers = data.layers();
  compact_head& head = layers[0].heads[2];
  kvfit::index_t actual = 0;
  kvfit::index_t expected = 2;
  SECTION("values") {
    head.values = row_view(data.values.data(), actual = 3, 1);
  }
  SECTION("bias") {
    actual = 1, head.bias = head.bias.first(1);
  }
  SECTION("positions") {
    actual = 1, head.positions = head.positions.first(1);
  }
  SECTION("key columns") {
    head.keys = row_view(data.keys.data(), 2, actual = 3);
  }
  SECTION("value columns") {
    expected = 1;
    head.values = row_view(data.values.data(), 2, actual = 2);
  }
  const auto cause = write_error(data.info, layers);
  CHECK(cause.code == errc::shape_mismatch);
  CHECK(cause.argument.starts_with("layers.3 head 2 "));
  CHECK(cause.actual == actual);
  CHECK(cause.expected == expected);
}

TEST_CASE("options and layers that make no file are refused", "[io]") {
  const fitted data;
  auto info = data.info;
  auto layers = data.layers();
  auto code = errc::invalid_option;
  SECTION("a scale of 0") {
    info.scale = 0;
  }
  SECTION("a negative scale") {
    info.scale = -1;
  }
  SECTION("an infinite scale") {
    info.scale = infinity;
  }
  SECTION("a scale that is NaN") {
    info.scale = std::nanf("");
  }
  SECTION("a subnormal scale") {
    info.scale = 1e-42F;
  }
  SECTION("a next position below 0") {
    info.next_position = -1;
  }
  SECTION("a next position beyond 53 bits") {
    info.next_position = (kvfit::index_t{1} << 53U) + 1;
  }
  SECTION("a storage type that is none") {
    info.storage = static_cast<dtype>(9);
  }
  SECTION("a layer twice") {
    layers.push_back(layers.front());
  }
  SECTION("a negative layer number") {
    layers[0].number = -1;
  }
  SECTION("a method that is not UTF-8") {
    info.method = "\xFF";
  }
  SECTION("no layers") {
    layers.clear();
    code = errc::empty_input;
  }
  SECTION("a layer without heads") {
    layers[1].heads.clear();
    code = errc::empty_input;
  }
  SECTION("keys without columns") {
    layers[1].heads[0].keys = row_view(data.small.data(), 1, 0);
    code = errc::empty_input;
  }
  SECTION("rows without memory") {
    layers[1].heads[0].keys = row_view(static_cast<const float*>(nullptr), 1, 3);
    code = errc::null_data;
  }
  CHECK(write_error(info, layers).code == code);
}

TEST_CASE("a result file written by hand is read", "[io]") {
  const raw_compact raw;
  const auto file = raw.read();
  INFO((file ? std::string() : file.error().message()));
  REQUIRE(file.has_value());
  REQUIRE(file->layers.size() == 1);
  REQUIRE(file->layers[0].heads.size() == 2);
  CHECK(file->layers[0].heads[1].keys(0, 1) == raw.k[5]);
  CHECK(file->layers[0].heads[1].positions[0] == -1);
}

TEST_CASE("a tensor or metadata entry that a result file lacks is named", "[io]") {
  for (const std::string name :
       {"layers.5.k", "layers.5.v", "layers.5.bias", "layers.5.positions", "layers.5.head_offsets",
        "format", "version", "method", "logical_length", "scale", "library_version"}) {
    raw_compact raw;
    std::erase_if(raw.tensors, [&](const tensor_view& one) { return one.name == name; });
    raw.metadata.erase(name);
    const auto cause = raw.cause();
    CHECK(cause.code == errc::missing_entry);
    CHECK(cause.argument == name);
  }
  raw_compact empty;
  empty.tensors.clear();
  CHECK(empty.cause().code == errc::missing_entry);
}

TEST_CASE("numbers in a result file that can't be right are malformed", "[io]") {
  struct damage {
    const char* what;
    const char* culprit;
    void (*apply)(raw_compact&);
  };
  const damage kinds[] = {
      {"offsets start with 1", "layers.5.head_offsets",
       [](raw_compact& raw) { raw.head_offsets[0] = 1; }},
      {"offsets rise above the rows", "layers.5.head_offsets",
       [](raw_compact& raw) { raw.head_offsets[1] = 4; }},
      {"offsets fall below 0", "layers.5.head_offsets",
       [](raw_compact& raw) { raw.head_offsets[1] = -1; }},
      {"offsets at the least I32", "layers.5.head_offsets",
       [](raw_compact& raw) { raw.head_offsets[1] = std::numeric_limits<std::int32_t>::min(); }},
      {"offsets end before the rows", "layers.5.head_offsets",
       [](raw_compact& raw) { raw.head_offsets[2] = 2; }},
      {"offsets end behind the rows", "layers.5.head_offsets",
       [](raw_compact& raw) { raw.head_offsets[2] = 4; }},
      {"offsets of no head", "layers.5.head_offsets",
       [](raw_compact& raw) {
         raw.at("head_offsets").shape = {1};
         raw.at("head_offsets").bytes = raw.at("head_offsets").bytes.first(4);
       }},
      {"no offsets", "layers.5.head_offsets",
       [](raw_compact& raw) {
         raw.at("head_offsets").shape = {0};
         raw.at("head_offsets").bytes = {};
       }},
      {"a position at the logical length", "layers.5.positions",
       [](raw_compact& raw) { raw.positions[1] = 8; }},
      {"a position below -1", "layers.5.positions",
       [](raw_compact& raw) { raw.positions[1] = -2; }},
      {"a position twice in a head", "layers.5.positions",
       [](raw_compact& raw) { raw.positions[1] = 0; }},
      {"an infinite bias", "layers.5.bias", [](raw_compact& raw) { raw.bias[2] = -infinity; }},
      {"a bias that is NaN", "layers.5.bias",
       [](raw_compact& raw) { raw.bias[0] = std::nanf(""); }},
      {"a key that is NaN", "layers.5.k", [](raw_compact& raw) { raw.k[5] = std::nanf(""); }},
      {"an infinite value", "layers.5.v", [](raw_compact& raw) { raw.v[0] = infinity; }},
      {"a negative logical length", "logical_length",
       [](raw_compact& raw) { raw.metadata["logical_length"] = "-1"; }},
      {"a logical length in other words", "logical_length",
       [](raw_compact& raw) { raw.metadata["logical_length"] = "1e3"; }},
      {"a negative scale", "scale", [](raw_compact& raw) { raw.metadata["scale"] = "-1"; }},
      {"an empty scale", "scale", [](raw_compact& raw) { raw.metadata["scale"] = ""; }},
      {"keys of three dimensions", "layers.5.k",
       [](raw_compact& raw) {
         raw.at("k").shape = {1, 3, 2};
       }},
  };
  for (const damage& kind : kinds) {
    INFO(kind.what);
    raw_compact raw;
    kind.apply(raw);
    const auto cause = raw.cause();
    CHECK(cause.code == errc::malformed_file);
    CHECK(cause.argument == kind.culprit);
    CHECK_FALSE(cause.detail.empty());
  }
}

TEST_CASE("the same original row may stand in two heads", "[io]") {
  raw_compact raw;
  raw.positions = {0, 7, 0};
  CHECK(raw.read().has_value());
}

TEST_CASE("parts of a result file that disagree are named with both numbers", "[io]") {
  raw_compact raw;
  const std::string part = GENERATE("v", "bias", "positions");
  raw.at(part).shape[0] = 2;
  raw.at(part).bytes = raw.at(part).bytes.first(8);
  const auto cause = raw.cause();
  CHECK(cause.code == errc::shape_mismatch);
  CHECK(cause.argument == "layers.5." + part);
  CHECK(cause.actual == 2);
  CHECK(cause.expected == 3);
}

TEST_CASE("other types, versions and parts of a result file are unsupported", "[io]") {
  raw_compact raw;
  SECTION("format") {
    raw.metadata["format"] = "kvfit-capture";
  }
  SECTION("version") {
    raw.metadata["version"] = "1.0";
  }
  SECTION("integer keys") {
    raw.at("k").type = tensor_type::i32;
  }
  SECTION("integer biases") {
    raw.at("bias").type = tensor_type::i32;
  }
  SECTION("float positions") {
    raw.at("positions").type = tensor_type::f32;
  }
  SECTION("unsigned offsets") {
    raw.at("head_offsets").type = tensor_type::u32;
  }
  SECTION("an unknown part") {
    raw.tensors.push_back(tensor("layers.5.sinks", tensor_type::f32, {3}, raw.v));
  }
  CHECK(raw.cause().code == errc::unsupported_file);
}
