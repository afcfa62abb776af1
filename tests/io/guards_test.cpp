// SPDX-License-Identifier: MIT
// One test for each guard of io/ that no other test needs.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/capture_file.hpp"
#include "io/files.hpp"
#include "kvfit/io/budgets_file.hpp"
#include "kvfit/io/compact_file.hpp"
#include "kvfit/io/safetensors.hpp"
#include "kvfit/io/state.hpp"
#include "support/catch.hpp"
#include "support/need_error.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>

#include <csignal>
#define KVFIT_TEST_HAS_LIMITS
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KVFIT_TEST_IS_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KVFIT_TEST_IS_SANITIZED
#endif
#endif

namespace kvfit_test::io_guards {

using kvfit::errc;
using kvfit::index_t;
using kvfit::row_view;
using kvfit::tensor_type;

namespace {

constexpr index_t bits_53 = index_t{1} << 53U;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// A capture with some entry of the metadata.
capture_file with_entry(const std::string& key, const std::string& text) {
  capture_file file = one_layer();
  file.metadata[key] = text;
  return file;
}

/// A result of one layer of two heads with 2 and 1 rows, to be spoilt entry by entry.
struct raw_result {
  std::vector<float> k = ramp(6);
  std::vector<float> v = ramp(3);
  std::vector<float> bias = {0, 1, 2};
  std::vector<std::int32_t> positions = {0, 7, -1};
  std::vector<std::int32_t> head_offsets = {0, 2, 3};
  std::vector<std::int64_t> key_positions = {0, 7, 9};
  std::vector<kvfit::tensor_view> tensors = {
      tensor("layers.5.k", tensor_type::f32, {3, 2}, k),
      tensor("layers.5.v", tensor_type::f32, {3, 1}, v),
      tensor("layers.5.bias", tensor_type::f32, {3}, bias),
      tensor("layers.5.positions", tensor_type::i32, {3}, positions),
      tensor("layers.5.head_offsets", tensor_type::i32, {3}, head_offsets)};
  kvfit::tensor_metadata metadata = {{"format", "kvfit-compact"}, {"version", "2"},
                                     {"method", "omp"},           {"next_position", "8"},
                                     {"scale", "0.125"},          {"library_version", "0.1.0"}};

  raw_result() = default;
  raw_result(const raw_result&) = delete;
  raw_result& operator=(const raw_result&) = delete;

  void make_first_version() {
    metadata.erase("next_position");
    metadata["version"] = "1";
    metadata["logical_length"] = "8";
  }
  [[nodiscard]] kvfit::result<kvfit::compact_file> read() const {
    return kvfit::read_compact_file(encoded(tensors, metadata));
  }
};

/// A cache of one layer with as many heads as rows of each are named, d = 2, d_v = 1.
kvfit::compacted_cache cache_of(const std::vector<index_t>& rows_of_heads) {
  kvfit::compacted_cache cache;
  kvfit::compacted_layer layer;
  layer.number = 0;
  layer.offsets = {0};
  for (std::size_t h = 0; h < rows_of_heads.size(); ++h) {
    const index_t rows = rows_of_heads[h];
    for (index_t row = 0; row < rows; ++row) layer.positions.push_back(row);
    layer.offsets.push_back(layer.offsets.back() + rows);
    layer.heads.push_back({{0, static_cast<index_t>(h)},
                           9,
                           rows,
                           rows == 0 ? kvfit::head_outcome::empty : kvfit::head_outcome::fitted,
                           {},
                           {}});
    cache.rows_before += 9;
  }
  cache.rows = layer.offsets.back();
  layer.key_positions = layer.positions;
  layer.keys = kvfit::matrix::Constant(cache.rows, 2, 0.5F);
  layer.bias = kvfit::vector::Zero(cache.rows);
  layer.values = kvfit::matrix::Constant(cache.rows, 1, 2);
  cache.layers = {layer};
  return cache;
}

/// Makes the last four bytes the checksum of those before.
void seal_again(bytes& file) {
  kvfit::crc32c sum;
  sum.add(std::span<const std::byte>(file).first(file.size() - 4));
  const std::uint32_t value = sum.value();
  std::memcpy(&file[file.size() - 4], &value, 4);
}

kvfit::attention_rule rotated(kvfit::any_rope_scaling scaling) {
  kvfit::attention_rule rule;
  rule.rotation = kvfit::rope{.base = 1e6, .scaling = std::move(scaling)};
  return rule;
}

}  // namespace

// ---- Entries about attention
// ---------------------------------------------------------------------

TEST_CASE("O: 'cap' is refused as a word, whatever its case, and passed over within others",
          "[io][rule][guards]") {
  for (const char* const name : {"capped", "softCapValue", "CAP", "kcap", "cap2", "recap_cap"}) {
    need_error(with_entry(name, "1").read(), errc::unsupported_file, name);
  }
  for (const char* const name : {"capture", "CAPTURE", "capacity", "escapes", "landscape"}) {
    CAPTURE(name);
    CHECK(with_entry(name, "1").read());
  }
}

TEST_CASE("O: entries that another version of the schema has are refused", "[io][rule][guards]") {
  raw_result second;
  second.metadata["logical_length"] = "8";
  need_error(second.read(), errc::unsupported_file, "logical_length");
  for (const char* const entry : {"next_position", "fingerprint"}) {
    raw_result first;
    first.make_first_version();
    REQUIRE(first.read());
    first.metadata[entry] = "8";
    need_error(first.read(), errc::unsupported_file, entry);
  }
  raw_result with_rule;
  with_rule.make_first_version();
  with_rule.metadata["layers.5.scale"] = "0.5";
  need_error(with_rule.read(), errc::unsupported_file, "layers.5.scale");
}

TEST_CASE("O: from version 2 on, what is said of a layer in unknown words is refused",
          "[io][rule][guards]") {
  for (const char* const entry : {"layers.0.note", "layers.0", "layers.note"}) {
    capture_file file = with_entry(entry, "1");
    need_error(file.read(), errc::unsupported_file, entry);
    file.metadata["version"] = "1";
    CHECK(file.read());
  }
}

TEST_CASE("O: a rule of one layer is read as strictly as that of all", "[io][rule][guards]") {
  CHECK_FALSE(with_entry("causal", "false").read()->layers[0].rule().logits.causal);
  need_error(with_entry("layers.0.rope", "round and round").read(), errc::malformed_file,
             "layers.0.rope");
  need_error(with_entry("layers.0.scale", "large").read(), errc::malformed_file, "layers.0.scale");
  raw_result result;
  result.metadata["layers.5.window"] = "-1";
  need_error(result.read(), errc::malformed_file, "layers.5.window");
  raw_result common;
  common.metadata["soft_cap"] = "much";
  need_error(common.read(), errc::malformed_file, "soft_cap");
}

TEST_CASE("O: a rotation outside its ranges is refused by its entry, and of version 1 passed on",
          "[io][rule][guards]") {
  capture_file file = with_entry("rope", "post, half-split, theta 10000, dims 8");  // d = 4
  const std::string detail = need_error(file.read(), errc::invalid_option, "rope.dims");
  CHECK(detail.starts_with("rope: "));
  file.metadata["layers.0.rope"] = file.metadata["rope"];
  CHECK(need_error(file.read(), errc::invalid_option, "rope.dims").starts_with("layers.0.rope: "));
  capture_file first = with_entry("rope", "post, half-split, theta 10000, dims 8");
  first.metadata["version"] = "1";
  const auto read = first.read();
  REQUIRE(read);
  CHECK(read->rotation->dims == 8);
}

TEST_CASE("O: words of a rotation are all there, and numbers in their ranges",
          "[io][rule][guards]") {
  const std::string start = "post, half-split, theta 10000";
  for (const char* const good :
       {"", ", dims 1", ", dims 2147483647", ", linear 8", ", yarn 4 of 8192, fast 32, slow 1",
        ", yarn 4 of 8192, fast 32, slow 1, unrounded", ", llama3 8 of 8192, low 1, high 4",
        ", frequencies 1 0.5"}) {
    CAPTURE(good);
    const auto rotation = kvfit::io_detail::parse_rope(start + good);
    REQUIRE(rotation);
    const auto again = kvfit::io_detail::parse_rope(kvfit::io_detail::print_rope(*rotation));
    REQUIRE(again);
    CHECK(kvfit::io_detail::print_rope(*again) == kvfit::io_detail::print_rope(*rotation));
    CHECK(again->scaling.index() == rotation->scaling.index());
    if (const auto* yarn = std::get_if<kvfit::rope_scaling::yarn>(&rotation->scaling)) {
      CHECK(yarn->rounds != holds(good, "unrounded"));
      CHECK(std::get<kvfit::rope_scaling::yarn>(again->scaling).rounds == yarn->rounds);
    }
    if (const auto* own = std::get_if<kvfit::rope_scaling::given>(&rotation->scaling)) {
      CHECK(own->frequencies == std::vector<double>{1, 0.5});
    }
  }
  for (const char* const bad : {", dims 0",
                                ", dims -2",
                                ", dims 0.5",
                                ", dims 2147483648",
                                ", linear",
                                ", linear x",
                                ", yarn",
                                ", yarn 4",
                                ", yarn 4 of x",
                                ", yarn 4 of 8192",
                                ", yarn 4 of 8192, fast 32",
                                ", yarn 4 of 8192, fast x, slow 1",
                                ", yarn 4 of 8192, fast 32, slow x",
                                ", llama3",
                                ", llama3 x of 8192, low 1, high 4",
                                ", llama3 8 of x, low 1, high 4",
                                ", llama3 8 of 8192, low x, high 4",
                                ", llama3 8 of 8192, low 1, high x",
                                ", other",
                                " "}) {
    CAPTURE(bad);
    CHECK_FALSE(kvfit::io_detail::parse_rope(start + bad));
  }
  for (const char* const bad :
       {"post, half-split", "post, half-split, theta", "post, half-split, theta x",
        "post, half-split, theta 0", "post, half-split, theta -1", "post, theta 10000",
        "pre, half-split, theta 10000"}) {
    CAPTURE(bad);
    CHECK_FALSE(kvfit::io_detail::parse_rope(bad));
  }
}

TEST_CASE("O: numbers of more than 64 characters are none", "[io][guards]") {
  const std::string digits(62, '0');
  CHECK(with_entry("scale", "0." + digits.substr(1) + "1e62").read().error().code ==
        errc::malformed_file);
  CHECK(kvfit::io_detail::parse_number("1." + digits) == 1.0);
  CHECK_FALSE(kvfit::io_detail::parse_number("1." + digits + "0"));
}

TEST_CASE("O: scales are normal in fp32, the least and the largest included", "[io][guards]") {
  for (const float scale : {std::numeric_limits<float>::min(), std::numeric_limits<float>::max()}) {
    const std::string text = kvfit::io_detail::print_float(scale);
    CHECK(kvfit::io_detail::parse_positive_float(text) == scale);
  }
  CHECK_FALSE(kvfit::io_detail::parse_positive_float("1.17e-38"));
  CHECK_FALSE(kvfit::io_detail::parse_positive_float("3.41e38"));
}

// ---- Captures
// ------------------------------------------------------------------------------------

TEST_CASE("O: tensors of one dimension have one", "[io][guards]") {
  capture_file sinks = one_layer();
  sinks.add("layers.0.sinks", {2, 2}, {1, 2, 3, 4});
  need_error(sinks.read(), errc::malformed_file, "layers.0.sinks");
  capture_file positions = one_layer();
  positions.add("layers.0.k_positions", tensor_type::i64, {24, 1}, std::vector<std::int64_t>(24));
  need_error(positions.read(), errc::malformed_file, "layers.0.k_positions");
}

TEST_CASE("O: positions and next positions reach 2^53, and no further", "[io][position][guards]") {
  for (const std::int64_t sign : {1, -1}) {
    for (const std::int64_t beyond : {0, 1}) {
      std::vector<std::int64_t> positions(24);
      positions[7] = sign * (bits_53 + beyond);
      capture_file file = one_layer();
      file.add("layers.0.k_positions", positions);
      file.metadata["next_position"] = std::to_string(bits_53);
      if (beyond == 0) {
        const auto read = file.read();
        REQUIRE(read);
        CHECK(read->layers[0].key_positions()[7] == positions[7]);
        CHECK(read->next_position == bits_53);
      } else {
        need_error(file.read(), errc::malformed_file, "layers.0.k_positions");
      }
    }
  }
  need_error(with_entry("next_position", std::to_string(bits_53 + 1)).read(), errc::malformed_file,
             "next_position");
  capture_file both = with_entry("next_position", "30");
  both.metadata["logical_length"] = "30";  // the same, said twice
  CHECK(both.read()->next_position == 30);
}

TEST_CASE("O: positions of queries are one a query, and none of test queries that are not there",
          "[io][position][guards]") {
  capture_file file = one_layer();
  file.metadata["causal"] = "true";
  file.add("layers.0.q_positions", std::vector<std::int64_t>(29));
  need_error(file.read(), errc::shape_mismatch, "layers.0.q_positions");
  file.drop("layers.0.q_positions");
  file.add("layers.0.q_positions", std::vector<std::int64_t>(30, 30));
  need_error(file.read(), errc::missing_entry, "layers.0.q_test_positions");
  file.drop("layers.0.q_test");
  CHECK(file.read());
}

TEST_CASE("O: scales of F8 are one, one a head, or one a head and row, and nothing between",
          "[io][f8][guards]") {
  const std::vector<std::vector<index_t>> shapes = {{1, 24},    {2, 5}, {1, 5}, {2, 24, 1, 1},
                                                    {2, 24, 2}, {3},    {24}};
  for (const std::vector<index_t>& shape : shapes) {
    const index_t count = std::reduce(shape.begin(), shape.end(), index_t{1}, std::multiplies<>());
    CAPTURE(shape, count);
    capture_file file = one_layer();
    file.drop("layers.0.k");
    file.add("layers.0.k", tensor_type::f8_e4m3, {2, 24, 4}, std::vector<std::uint8_t>(192, 0x38));
    file.add("layers.0.k_scale", shape, std::vector<float>(static_cast<std::size_t>(count), 0.5F));
    CHECK(need_error(file.read(), errc::shape_mismatch, "layers.0.k_scale") ==
          "one scale, one a head, or one a head and row");
  }
}

TEST_CASE("O: more heads than any model's are refused before a view is held for each",
          "[io][guards]") {
  capture_file file;
  file.add("layers.0.k", {65537, 1, 1}, std::vector<float>(65537));
  file.add("layers.0.v", {1, 1, 1}, std::vector<float>(1));
  file.add("layers.0.q", {1, 1, 1}, std::vector<float>(1));
  need_error(file.read(), errc::unsupported_file, "layers.0.k");
  capture_file most;
  for (const char* const part : {"k", "v", "q"}) {
    most.add(std::string("layers.0.") + part, {65536, 1, 1}, std::vector<float>(65536));
  }
  CHECK(most.read());
  raw_result result;
  const std::vector<std::int32_t> offsets(65538, 3);
  result.head_offsets = offsets;
  result.head_offsets.front() = 0;
  result.tensors[4] =
      tensor("layers.5.head_offsets", tensor_type::i32, {65538}, result.head_offsets);
  need_error(result.read(), errc::unsupported_file, "layers.5.head_offsets");
  result.tensors[4] =
      tensor("layers.5.head_offsets", tensor_type::i32, {65537}, result.head_offsets);
  result.tensors[4].bytes = result.tensors[4].bytes.first(65537 * 4);
  CHECK(result.read()->layers[0].heads.size() == 65536);
}

// ---- Results
// -------------------------------------------------------------------------------------

TEST_CASE(
    "O: a result without columns, with positions of another type, or a fingerprint that is "
    "none",
    "[io][guards]") {
  raw_result wide;
  wide.tensors[1] = tensor("layers.5.v", tensor_type::f32, {3, 0}, std::vector<float>());
  need_error(wide.read(), errc::empty_input, "layers.5.v");
  raw_result stands;
  stands.tensors.push_back(tensor("layers.5.key_positions", tensor_type::f32, {3}, stands.bias));
  need_error(stands.read(), errc::unsupported_file, "layers.5.key_positions");
  raw_result named;
  named.metadata["fingerprint"] = "line\nline";
  need_error(named.read(), errc::malformed_file, "fingerprint");
  raw_result far;
  far.metadata["next_position"] = std::to_string(bits_53);
  CHECK(far.read()->info.next_position == bits_53);
  far.metadata["next_position"] = std::to_string(bits_53 + 1);
  need_error(far.read(), errc::malformed_file, "next_position");
}

TEST_CASE("O: heads without rows need no memory, and are read again under a causal rule",
          "[io][rule][guards]") {
  const scratch_folder folder;
  const row_view no_keys(static_cast<const float*>(nullptr), 0, 2);
  const row_view no_values(static_cast<const float*>(nullptr), 0, 3);
  kvfit::compact_layer layer{4, {{no_keys, no_values, {}, {}, {}}}, {}};
  layer.rule.logits.causal = true;
  const kvfit::compact_file_info info{"omp", bits_53, 0.5F, kvfit::dtype::fp32};
  REQUIRE(kvfit::write_compact_file(folder / "file", info, std::vector{layer}));
  const auto read = kvfit::read_compact_file(folder / "file");
  INFO((read ? std::string() : read.error().message()));
  REQUIRE(read);
  CHECK(read->layers[0].heads[0].keys.cols() == 2);
  CHECK(read->layers[0].rule.logits.causal);
  CHECK(read->info.next_position == bits_53);
  CHECK_FALSE(read->file.metadata.contains("fingerprint"));
  CHECK_FALSE(read->file.metadata.contains("window"));
}

TEST_CASE("O: key positions that a result lacks, or has for some heads, are named by the head",
          "[io][rule][guards]") {
  const std::vector<float> numbers = ramp(8);
  const std::vector<float> bias = {0, 0};
  const std::vector<index_t> rows = {0, 1};
  const std::vector<index_t> stand = {-bits_53, bits_53};
  const kvfit::compact_head with{row_view(numbers.data(), 2, 2), row_view(numbers.data(), 2, 2),
                                 bias, rows, stand};
  kvfit::compact_head without = with;
  without.key_positions = {};
  const kvfit::compact_file_info info{"omp", 8, 0.5F, kvfit::dtype::fp32};
  const scratch_folder folder;
  const auto write = [&](const kvfit::compact_layer& layer) {
    return kvfit::write_compact_file(folder / "file", info, std::vector{layer});
  };
  CHECK(write({0, {with, with}, {}}));
  CHECK(need_error(write({0, {with, without}, {}}), errc::shape_mismatch,
                   "layers.0 head 1 key_positions") == "other heads of the layer have them");
  kvfit::compact_layer causal{0, {without, without}, {}};
  causal.rule.logits.causal = true;
  CHECK(holds(need_error(write(causal), errc::shape_mismatch, "layers.0 head 0 key_positions"),
              "causal"));
  const std::vector<index_t> far = {-bits_53 - 1, 0};
  kvfit::compact_head beyond = with;
  beyond.key_positions = far;
  need_error(write({0, {beyond}, {}}), errc::invalid_position, "layers.0 head 0 key_positions");
}

TEST_CASE("O: many rows of a result are written as few are", "[io][guards]") {
  constexpr index_t rows = 150;  // more than are encoded at a time, and no multiple of them
  const std::vector<float> numbers = drawn(2 * rows, 3);
  const std::vector<float> bias(rows);
  std::vector<index_t> positions(rows);
  std::iota(positions.begin(), positions.end(), index_t{0});
  const kvfit::compact_head head{row_view(numbers.data(), rows, 2),
                                 row_view(numbers.data() + rows, rows, 1),
                                 bias,
                                 positions,
                                 {}};
  const scratch_folder folder;
  REQUIRE(kvfit::write_compact_file(folder / "file", {"omp", 200, 0.5F, kvfit::dtype::fp32},
                                    std::vector{kvfit::compact_layer{0, {head}, {}}}));
  const auto read = kvfit::read_compact_file(folder / "file");
  REQUIRE(read);
  const kvfit::compact_head& found = read->layers[0].heads[0];
  for (index_t i = 0; i < rows; ++i) {
    CHECK(found.keys(i, 1) == head.keys(i, 1));
    CHECK(found.values(i, 0) == head.values(i, 0));
  }
}

// ---- What a file is compared with
// -----------------------------------------------------------------

TEST_CASE("O: rotations are held against each other in every number of every scaling",
          "[io][setup][guards]") {
  using namespace kvfit::rope_scaling;
  const auto compared = [](const kvfit::any_rope_scaling& is, const kvfit::any_rope_scaling& asked,
                           const char* field) {
    const kvfit::attention_rule rule = rotated(is);
    const kvfit::io_detail::said_of_layer said{2, 4, &rule};
    kvfit::expected_attention expected;
    expected.rotation = rotated(asked).rotation;
    CHECK(kvfit::io_detail::hold_layer(
        said, {.layer = {}, .rotation = rotated(is).rotation}));  // with itself
    need_error(kvfit::io_detail::hold_layer(said, expected), errc::unsupported_file,
               "layer 2 " + std::string(field));
  };
  compared(linear{8}, linear{4}, "rope.scaling.factor");
  compared(linear{8}, kvfit::any_rope_scaling(), "rope.scaling");
  const yarn by{4, 8192, 32, 1, true};
  compared(by, yarn{5, 8192, 32, 1, true}, "rope.scaling.factor");
  compared(by, yarn{4, 4096, 32, 1, true}, "rope.scaling.original_positions");
  compared(by, yarn{4, 8192, 16, 1, true}, "rope.scaling.fast");
  compared(by, yarn{4, 8192, 32, 2, true}, "rope.scaling.slow");
  compared(by, yarn{4, 8192, 32, 1, false}, "rope.scaling.rounds");
  compared(given{{1, 0.5}}, given{{1, 0.25}}, "rope.scaling.frequencies");
  compared(given{{1, 0.5}}, given{{1}}, "rope.scaling.frequencies");
}

TEST_CASE("O: infinite and missing numbers are held against each other, too",
          "[io][setup][guards]") {
  kvfit::attention_rule rule;
  rule.sink_logits = {1, -infinity};
  const kvfit::io_detail::said_of_layer said{0, 4, &rule};
  kvfit::expected_attention asked;
  asked.sink_logits = rule.sink_logits;
  CHECK(kvfit::io_detail::hold_layer(said, asked));
  const auto detail = [&](float sink) {
    asked.sink_logits = std::vector<float>{1, sink};
    return need_error(kvfit::io_detail::hold_layer(said, asked), errc::unsupported_file,
                      "layer 0 sink_logits of query head 1");
  };
  CHECK(detail(infinity) == "is -infinity, expected infinity");
  CHECK(detail(std::nanf("")) == "is -infinity, expected nan");
  CHECK(detail(3) == "is -infinity, expected 3");
}

TEST_CASE("O: the first difference is told, also before what a file does not say",
          "[io][setup][guards]") {
  kvfit::attention_rule rule;  // without a rotation
  rule.logits.scale = 0.5F;
  const kvfit::io_detail::said_of_layer said{0, 4, &rule};
  kvfit::expected_attention asked;
  asked.rotation = kvfit::rope{};
  need_error(kvfit::io_detail::hold_layer(said, asked), errc::missing_entry, "layer 0 rope");
  asked.logits = kvfit::logit_rule{.scale = 0.25F};
  need_error(kvfit::io_detail::hold_layer(said, asked), errc::unsupported_file, "layer 0 scale");
}

TEST_CASE("O: what is asked of all layers is said by a cache of none", "[io][setup][guards]") {
  const auto saved = kvfit::write_state({}, {});
  REQUIRE(saved);
  kvfit::expected_attention asked;
  asked.logits = kvfit::logit_rule{};
  CHECK(kvfit::read_state(*saved, {.layers = {asked}}));
  asked.layer = 0;
  need_error(kvfit::read_state(*saved, {.layers = {asked}}), errc::missing_entry, "layer 0");
  // A state without rules says nothing of its layers.
  const auto silent = kvfit::write_state(cache_of({1}), {.next_position = 9});
  REQUIRE(silent);
  need_error(kvfit::read_state(*silent, {.layers = {asked}}), errc::missing_entry, "layer 0 scale");
}

TEST_CASE("O: fingerprints are 64 printable bytes at most", "[io][setup][guards]") {
  const auto written = [](std::string text) {
    return kvfit::write_state({}, {.fingerprint = std::move(text)});
  };
  CHECK(written(std::string(64, '~')));
  CHECK(written(" a "));
  need_error(written(std::string(65, 'a')), errc::invalid_option, "fingerprint");
  for (const char bad : {'\x7F', '\x1F', '\0', '\x80'}) {
    need_error(written(std::string("a") + bad), errc::invalid_option, "fingerprint");
  }
}

// ---- States
// --------------------------------------------------------------------------------------

TEST_CASE("O: a state keeps a rotation of every scaling, the caller's frequencies included",
          "[io][state][guards]") {
  using namespace kvfit::rope_scaling;
  const kvfit::compacted_cache cache = cache_of({2});
  for (const kvfit::any_rope_scaling& scaling :
       {kvfit::any_rope_scaling(), kvfit::any_rope_scaling(linear{8}),
        kvfit::any_rope_scaling(yarn{4, 8192, 32, 1, true}),
        kvfit::any_rope_scaling(llama3{8, 1, 4, 8192}), kvfit::any_rope_scaling(given{{0.75}})}) {
    CAPTURE(scaling.index());
    const kvfit::state_info info{.next_position = 9, .rules = {rotated(scaling)}};
    const auto saved = kvfit::write_state(cache, info);
    INFO((saved ? std::string() : saved.error().message()));
    REQUIRE(saved);
    const auto read = kvfit::read_state(*saved);
    INFO((read ? std::string() : read.error().message()));
    REQUIRE(read);
    kvfit::expected_attention asked;
    asked.rotation = info.rules[0].rotation;
    CHECK(kvfit::read_state(*saved, {.layers = {asked}}));
    CHECK(*kvfit::write_state(read->cache, read->info) == *saved);
    for (std::size_t cut = saved->size() - 1; cut > 100; cut -= 5) {
      bytes torn(saved->begin(), saved->begin() + static_cast<std::ptrdiff_t>(cut));
      const std::uint64_t length = torn.size();
      std::memcpy(&torn[16], &length, 8);
      seal_again(torn);
      CHECK(kvfit::read_state(torn).error().code == errc::malformed_file);
    }
  }
}

TEST_CASE("O: frequencies, sinks and rows that a state has no room for ask for no memory",
          "[io][state][guards]") {
  const kvfit::state_info info{.next_position = 9,
                               .rules = {rotated(kvfit::rope_scaling::given{{0.75}})}};
  const auto saved = kvfit::write_state(cache_of({2}), info);
  REQUIRE(saved);
  // The layer stands at 64 and its rule at 104, with the number of frequencies at 128.
  for (const std::uint64_t count : {std::uint64_t{1} << 61U, std::uint64_t{1} << 30U}) {
    bytes file = *saved;
    std::memcpy(&file[128], &count, 8);
    seal_again(file);
    CHECK(holds(kvfit::read_state(file).error().detail, "frequencies: more than the file"));
  }
  for (const auto& [place, columns] : {std::pair{88U, 0x7FFFFFFFU}, {96U, 0x7FFFFFFFU}}) {
    bytes file = *saved;
    std::memcpy(&file[place], &columns, 4);
    seal_again(file);
    CHECK(holds(kvfit::read_state(file).error().detail, "numbers: more than the file can hold"));
  }
}

TEST_CASE("O: rows before compaction may not exceed 63 bits, written or read",
          "[io][state][guards]") {
  kvfit::compacted_cache cache = cache_of(std::vector<index_t>(9, 1));
  kvfit::compacted_cache large = cache;
  for (kvfit::head_report& head : large.layers[0].heads) head.rows_before = index_t{1} << 60U;
  large.rows_before = -1;
  need_error(kvfit::write_state(large, {.next_position = 9}), errc::invalid_option, "rows_before");
  const auto saved = kvfit::write_state(cache, {.next_position = 9});
  REQUIRE(saved);
  bytes file = *saved;
  for (std::size_t h = 0; h < 9; ++h) {  // the layer stands at 64, its heads at 104
    const std::uint64_t rows = std::uint64_t{1} << 60U;
    std::memcpy(&file[104 + 48 * h + 8], &rows, 8);
  }
  seal_again(file);
  CHECK(kvfit::read_state(file).error().detail == "rows before compaction exceed 63 bits");
}

TEST_CASE("O: what no state can hold of heads, columns, positions and rules is not written",
          "[io][state][guards]") {
  kvfit::compacted_cache outcome = cache_of({1});
  outcome.layers[0].heads[0].outcome = static_cast<kvfit::head_outcome>(4);
  need_error(kvfit::write_state(outcome, {.next_position = 9}), errc::invalid_option,
             "layer 0 heads");
  for (kvfit::matrix kvfit::compacted_layer::*const part :
       {&kvfit::compacted_layer::keys, &kvfit::compacted_layer::values}) {
    kvfit::compacted_cache wide = cache_of({0});
    (wide.layers[0].*part).resize(0, index_t{1} << 31U);
    const char* const name = part == &kvfit::compacted_layer::keys ? "keys" : "values";
    need_error(kvfit::write_state(wide, {.next_position = 9}), errc::invalid_option,
               std::string("layer 0 ") + name);
    (wide.layers[0].*part).resize(0, (index_t{1} << 31U) - 1);
    CHECK(kvfit::write_state(wide, {.next_position = 9}));
  }
  kvfit::compacted_cache edge = cache_of({2});
  edge.layers[0].positions = {0, bits_53};
  edge.layers[0].key_positions = {-bits_53, bits_53};
  CHECK(kvfit::write_state(edge, {.next_position = 9}));
  edge.layers[0].key_positions = {-bits_53 - 1, 0};
  need_error(kvfit::write_state(edge, {.next_position = 9}), errc::invalid_position,
             "layer 0 key_positions");
  edge.layers[0].key_positions = {0, 0};
  edge.layers[0].positions = {0, bits_53 + 1};
  need_error(kvfit::write_state(edge, {.next_position = 9}), errc::invalid_position,
             "layer 0 positions");
  kvfit::state_info info{.next_position = 9, .rules = {{}}};
  for (std::vector<float> kvfit::attention_rule::*const part :
       {&kvfit::attention_rule::sink_logits, &kvfit::attention_rule::alibi_slopes}) {
    info.rules[0] = {};
    (info.rules[0].*part).assign((std::size_t{1} << 16U) + 1, 0.0F);
    CHECK(holds(
        need_error(kvfit::write_state(cache_of({1}), info), errc::invalid_option, "layer 0 rule"),
        "query heads"));
    (info.rules[0].*part).pop_back();
    CHECK(kvfit::write_state(cache_of({1}), info));
  }
  info.rules[0].sink_logits.assign(4, 0.0F);
  info.rules[0].alibi_slopes.assign(2, 0.0F);
  need_error(kvfit::write_state(cache_of({1, 1}), info), errc::shape_mismatch,
             "layer 0 alibi_slopes");
}

TEST_CASE("O: a state has 65,536 heads at most, written or read", "[io][state][guards]") {
  kvfit::compacted_cache most = cache_of(std::vector<index_t>(65536, 0));
  const auto saved = kvfit::write_state(most, {.next_position = 9});
  REQUIRE(saved);
  CHECK(kvfit::read_state(*saved)->cache.layers[0].heads.size() == 65536);
  need_error(kvfit::write_state(cache_of(std::vector<index_t>(65537, 0)), {.next_position = 9}),
             errc::invalid_option, "heads");
}

TEST_CASE("O: numbers in half precision that fill their buffer exactly are stored once",
          "[io][state][guards]") {
  for (const index_t rows : {2047, 2048, 2049}) {  // 2 columns: around 4,096 numbers
    kvfit::compacted_cache cache = cache_of({rows});
    cache.layers[0].heads[0].rows_before = rows;
    cache.rows_before = rows;
    for (index_t i = 0; i < rows; ++i) cache.layers[0].keys(i, 1) = static_cast<float>(i % 100);
    const auto saved =
        kvfit::write_state(cache, {.next_position = rows, .key_storage = kvfit::dtype::fp16});
    REQUIRE(saved);
    const auto read = kvfit::read_state(*saved);
    REQUIRE(read);
    CHECK(read->cache.layers[0].keys == cache.layers[0].keys);
  }
}

// ---- Reading and writing that stops
// --------------------------------------------------------------

TEST_CASE("O: files that end before their size are unreadable, wherever they do", "[io][guards]") {
  // What happens where a file is cut after its size was asked for.
  const bytes whole = encoded({tensor("t", tensor_type::f32, {4}, ramp(4))}, {});
  REQUIRE(kvfit::read_safetensors(whole));
  const std::span<const std::byte> all(whole);
  for (const std::size_t left : {std::size_t{7}, whole.size() - 20, whole.size() - 1}) {
    const auto read = kvfit::io_detail::load_safetensors(
        kvfit::io_detail::span_source(all.first(left)), whole.size(), "file");
    CHECK(need_error(read, errc::file_unreadable, "file") == "reading stopped before the end");
  }
  const auto state = kvfit::write_state(cache_of({2}), {.next_position = 9});
  REQUIRE(state);
  const std::span<const std::byte> saved(*state);
  for (const std::size_t left : {saved.size() - 5, saved.size() - 4, saved.size() - 1}) {
    const auto sum = kvfit::io_detail::check_sum(kvfit::io_detail::span_source(saved.first(left)),
                                                 saved.size(), "state");
    CHECK(need_error(sum, errc::file_unreadable, "state") == "reading stopped before the end");
  }
  for (std::size_t left = 0; left < saved.size() - 4; left += 3) {
    const auto read = kvfit::io_detail::state_reader(
                          kvfit::io_detail::span_source(saved.first(left)), saved.size(), "state")
                          .run();
    CHECK(need_error(read, errc::file_unreadable, "state") == "reading stopped before the end");
  }
}

TEST_CASE("O: a stream gives all that is asked for, or says that it did not", "[io][guards]") {
  const scratch_folder folder;
  put_bytes(folder / "file", bytes(10, std::byte{3}));
  auto file = kvfit::io_detail::open_file(folder / "file");
  REQUIRE(file);
  CHECK(file->size == 10);
  kvfit::io_detail::stream_source source(file->stream);
  bytes to(11);
  CHECK(source.read(to.data(), 4));
  CHECK(source.read(to.data(), 0));
  CHECK_FALSE(source.read(to.data(), std::numeric_limits<std::size_t>::max()));
  CHECK_FALSE(source.read(to.data(), 7));
}

TEST_CASE("O: why a file can't be opened is said", "[io][guards]") {
  const scratch_folder folder;
  const auto why = [](const std::filesystem::path& path) {
    return need_error(kvfit::io_detail::open_file(path), errc::file_unreadable, path.string());
  };
  CHECK(why(folder / "none") == "there is no such file");
  CHECK(why(folder / "") == "is no regular file");
  // The checks of a sanitizer open files themselves.
#if defined(KVFIT_TEST_HAS_LIMITS) && !defined(KVFIT_TEST_IS_SANITIZED)
  put_bytes(folder / "file", bytes(10));
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{0, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  const auto opened = kvfit::io_detail::open_file(folder / "file");
  ::setrlimit(RLIMIT_NOFILE, &before);
  CHECK(need_error(opened, errc::file_unreadable, (folder / "file").string()) == "can't be opened");
#endif
}

#if !defined(KVFIT_TEST_IS_SANITIZED)  // which end the program at such a request
TEST_CASE("O: memory that is not there for tensors is no crash", "[io][guards]") {
  const std::string header =
      R"({"t":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}})";
  const bytes file = raw_file(header, "");
  const auto read = kvfit::io_detail::load_safetensors(
      kvfit::io_detail::span_source(file), file.size() + (std::uint64_t{1} << 60U), "file");
  need_error(read, errc::out_of_memory, "file");
}
#endif

#if defined(KVFIT_TEST_HAS_LIMITS)
TEST_CASE("O: a device that is full when the last bytes are handed over leaves the old file",
          "[io][guards]") {
  const scratch_folder folder;
  const auto path = folder / "file";
  const std::vector<float> few = ramp(4);
  // All of it fits the buffer of the stream: nothing reaches the device before the end.
  const auto with_room = [&](rlim_t room, const auto& write) {
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{room, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const kvfit::result<void> written = write();
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    return written;
  };
  put_bytes(path, bytes(3, std::byte{7}));
  const auto unchanged = [&] {
    CHECK(file_bytes(path) == bytes(3, std::byte{7}));
    CHECK(folder.count() == 1);
  };
  const auto small = with_room(16, [&] {
    return kvfit::write_safetensors(path, std::vector{tensor("m", tensor_type::f32, {4}, few)}, {});
  });
  CHECK_FALSE(need_error(small, errc::file_unwritable, path.string()).empty());
  unchanged();
  // A header that is longer than the buffer.
  std::vector<kvfit::tensor_view> many;
  for (int i = 0; i < 2000; ++i) {
    many.push_back(tensor("m" + std::to_string(i), tensor_type::f32, {4}, few));
  }
  need_error(with_room(16, [&] { return kvfit::write_safetensors(path, many, {}); }),
             errc::file_unwritable, path.string());
  unchanged();
  const std::vector<float> numbers(20'000);
  const std::vector<float> bias(10'000);
  std::vector<index_t> positions(10'000);
  std::iota(positions.begin(), positions.end(), index_t{0});
  const kvfit::compact_head head{row_view(numbers.data(), 10'000, 2),
                                 row_view(numbers.data(), 10'000, 2),
                                 bias,
                                 positions,
                                 {}};
  const std::vector<kvfit::compact_layer> layers = {{0, {head, head}, {}}};
  for (const rlim_t room : {rlim_t{1000}, rlim_t{100'000}, rlim_t{400'000}}) {
    need_error(with_room(room,
                         [&] {
                           return kvfit::write_compact_file(
                               path, {"omp", 10'000, 0.5F, kvfit::dtype::fp32}, layers);
                         }),
               errc::file_unwritable, path.string());
    unchanged();
  }
  const std::vector<kvfit::head_share> shares(1, {{0, 0}, 1.0});
  need_error(with_room(4, [&] { return kvfit::write_budgets_file(path, shares); }),
             errc::file_unwritable, path.string());
  unchanged();
}
#endif

TEST_CASE("O: tensors whose sizes exceed 63 bits, and headers beyond their limit, are not written",
          "[io][guards]") {
  const scratch_folder folder;
  const auto nothing = [](std::size_t, const kvfit::io_detail::byte_sink&) {
    return kvfit::result<void>();
  };
  const kvfit::tensor_spec large{"t", tensor_type::f32, {index_t{1} << 40U, index_t{1} << 40U}};
  need_error(kvfit::write_safetensors_by(folder / "file", std::vector{large}, {}, nothing),
             errc::shape_mismatch, "t");
  const kvfit::tensor_metadata long_text = {{"text", std::string(100'000'000, 'a')}};
  CHECK(need_error(kvfit::write_safetensors(folder / "file", {}, long_text), errc::invalid_option,
                   "tensors") == "the header exceeds its limit");
  CHECK(folder.count() == 0);
}

// ---- Budgets
// -------------------------------------------------------------------------------------

TEST_CASE("O: a budgets file is as long as its limit, and no longer", "[io][budgets][guards]") {
  std::string text = R"({"L0H0": 1})";
  text.resize(kvfit::max_budgets_file, ' ');
  const auto read = [&] { return kvfit::read_budgets_file(std::as_bytes(std::span(text))); };
  CHECK(read()->size() == 1);
  text += ' ';
  need_error(read(), errc::malformed_file, "bytes");
  // The writer holds itself to the same.
  std::vector<kvfit::head_share> shares;
  for (index_t h = 0; h < 150'000; ++h) shares.push_back({{1'000'000, h}, 1.0 / 3});
  const scratch_folder folder;
  CHECK(holds(need_error(kvfit::write_budgets_file(folder / "budgets", shares),
                         errc::invalid_option, "shares"),
              "more than the limit"));
  CHECK(folder.count() == 0);
}

}  // namespace kvfit_test::io_guards
