// SPDX-License-Identifier: MIT
#include "kvfit/io/state.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "io/files.hpp"
#include "io/state_samples.hpp"
#include "support/catch.hpp"

using kvfit::cache_state;
using kvfit::compacted_cache;
using kvfit::dtype;
using kvfit::errc;
using kvfit::head_outcome;
using kvfit::state_info;

namespace {

using kvfit_test::bytes;

bytes from_hex(std::string_view text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  bytes out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    out.push_back(static_cast<std::byte>(16 * digit(text[i]) + digit(text[i + 1])));
  }
  return out;
}

/// The cache that the samples of versions 2 and 3 are of.
compacted_cache sample_cache() {
  compacted_cache cache;
  cache.skipped = {1, 2};
  cache.rows_before = 23;
  cache.rows = 3;
  cache.fallbacks = 1;
  kvfit::compacted_layer first;
  first.number = 0;
  first.offsets = {0, 2, 2};
  first.positions = {3, 8};
  first.key_positions = {13, 18};
  first.keys.resize(2, 2);
  first.keys << 1, -2, 0.25F, 65504;
  first.bias.resize(2);
  first.bias << 0.5F, -1.25F;
  first.values.resize(2, 1);
  first.values << 3, -0.5F;
  first.heads.resize(2);
  first.heads[0] = {{0, 0}, 9, 2, head_outcome::fitted, {}, {}};
  first.heads[1] = {{0, 1}, 9, 0, head_outcome::empty, {}, {}};
  kvfit::compacted_layer second;
  second.number = 4;
  second.offsets = {0, 1};
  second.positions = {2};
  second.key_positions = {-7};
  second.keys = kvfit::matrix::Constant(1, 1, 1.5F);
  second.bias = kvfit::vector::Zero(1);
  second.values.resize(1, 3);
  second.values << 7, 8, 9;
  second.heads = {{{4, 0},
                   5,
                   1,
                   head_outcome::fallback,
                   kvfit::error{errc::all_masked, "queries", 0, 3, "no query sees any key"},
                   {}}};
  cache.layers = {first, second};
  return cache;
}

/// Two layers by rules of their own, next position 5 behind rows up to 8.
state_info rules_of_sample() {
  kvfit::attention_rule first;
  first.logits.scale = 0.25F;
  first.sink_logits = {0.5F, -1, -std::numeric_limits<float>::infinity(), 2};
  first.rotation = kvfit::rope{.base = 500000,
                               .dims = 2,
                               .pairing = kvfit::rope_pairing::interleaved,
                               .scaling = kvfit::rope_scaling::yarn{4, 8192, 32, 1, false}};
  kvfit::attention_rule second;  // d_k = 1: the scale that is not given is 1
  second.logits.soft_cap = 50;
  second.logits.causal = true;
  second.logits.window = 7;
  second.alibi_slopes = {0.125F};
  return {5, dtype::fp16, dtype::bf16, {first, second}, "model-1"};
}

const state_info sample_info = rules_of_sample();

void check_same_state(const compacted_cache& found, const compacted_cache& wanted) {
  CHECK(found.skipped == wanted.skipped);
  CHECK(found.rows_before == wanted.rows_before);
  CHECK(found.rows == wanted.rows);
  CHECK(found.fallbacks == wanted.fallbacks);
  REQUIRE(found.layers.size() == wanted.layers.size());
  for (std::size_t l = 0; l < wanted.layers.size(); ++l) {
    const kvfit::compacted_layer& a = found.layers[l];
    const kvfit::compacted_layer& b = wanted.layers[l];
    CHECK(a.number == b.number);
    CHECK(a.offsets == b.offsets);
    CHECK(a.positions == b.positions);
    CHECK(a.key_positions == b.key_positions);
    CHECK(a.keys == b.keys);
    CHECK(a.bias == b.bias);
    CHECK(a.values == b.values);
    REQUIRE(a.heads.size() == b.heads.size());
    for (std::size_t h = 0; h < b.heads.size(); ++h) {
      CHECK(a.heads[h].id == b.heads[h].id);
      CHECK(a.heads[h].rows_before == b.heads[h].rows_before);
      CHECK(a.heads[h].rows == b.heads[h].rows);
      CHECK(a.heads[h].outcome == b.heads[h].outcome);
      REQUIRE(a.heads[h].cause.has_value() == b.heads[h].cause.has_value());
      if (!b.heads[h].cause) continue;
      const kvfit::error& cause = *a.heads[h].cause;
      CHECK(cause.code == b.heads[h].cause->code);
      CHECK(cause.argument == b.heads[h].cause->argument);
      CHECK(cause.actual == b.heads[h].cause->actual);
      CHECK(cause.expected == b.heads[h].cause->expected);
      CHECK(cause.detail == b.heads[h].cause->detail);
    }
  }
}

void check_same_rules(const std::vector<kvfit::attention_rule>& found,
                      const std::vector<kvfit::attention_rule>& wanted) {
  REQUIRE(found.size() == wanted.size());
  for (std::size_t l = 0; l < wanted.size(); ++l) {
    const kvfit::attention_rule& a = found[l];
    const kvfit::attention_rule& b = wanted[l];
    REQUIRE(a.logits.scale);
    CHECK(*a.logits.scale == b.logits.scale.value_or(1));
    CHECK(a.logits.soft_cap == b.logits.soft_cap);
    CHECK(a.logits.causal == b.logits.causal);
    CHECK(a.logits.window == b.logits.window);
    CHECK(a.sink_logits == b.sink_logits);
    CHECK(a.alibi_slopes == b.alibi_slopes);
    REQUIRE(a.rotation.has_value() == b.rotation.has_value());
    if (!b.rotation) continue;
    CHECK(a.rotation->base == b.rotation->base);
    CHECK(a.rotation->dims == b.rotation->dims);
    CHECK(a.rotation->pairing == b.rotation->pairing);
    REQUIRE(a.rotation->scaling.index() == b.rotation->scaling.index());
    if (const auto* by = std::get_if<kvfit::rope_scaling::yarn>(&b.rotation->scaling)) {
      const auto& is = std::get<kvfit::rope_scaling::yarn>(a.rotation->scaling);
      CHECK(is.factor == by->factor);
      CHECK(is.original_positions == by->original_positions);
      CHECK(is.fast == by->fast);
      CHECK(is.slow == by->slow);
      CHECK(is.rounds == by->rounds);
    }
  }
}

/// The checksum of the bytes before it, bit by bit.
void seal(bytes& file) {
  if (file.size() < 4) return;
  std::uint32_t remainder = 0xFFFFFFFFU;
  for (std::size_t i = 0; i + 4 < file.size(); ++i) {
    remainder ^= static_cast<std::uint32_t>(file[i]);
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1U) ^ ((remainder & 1U) != 0 ? 0x82F63B78U : 0U);
    }
  }
  remainder = ~remainder;
  std::memcpy(&file[file.size() - 4], &remainder, 4);
}

std::uint32_t crc_of(const bytes& all) {
  kvfit::crc32c sum;
  sum.add(all);
  return sum.value();
}

}  // namespace

TEST_CASE("a cause of every code there is comes back, and one that is none is not written",
          "[io][state]") {
  int codes = 0;
  for (int code = 0; code < 256; ++code) {
    compacted_cache cache = sample_cache();
    cache.layers[1].heads[0].cause->code = static_cast<errc>(code);
    const auto bytes = kvfit::write_state(cache, sample_info);
    CAPTURE(code);
    if (!kvfit::is_errc(static_cast<std::uint8_t>(code))) {
      REQUIRE_FALSE(bytes);
      CHECK(bytes.error().code == errc::invalid_option);
      continue;
    }
    ++codes;
    REQUIRE(bytes);
    const auto read = kvfit::read_state(*bytes);
    INFO((read ? "" : read.error().message()));
    REQUIRE(read);
    check_same_state(read->cache, cache);
  }
  CHECK(codes > static_cast<int>(errc::communication_failed));
}

TEST_CASE("CRC-32C has the values of RFC 3720, B.4", "[io][state]") {
  CHECK(crc_of(bytes(32, std::byte{0})) == 0x8A9136AAU);
  CHECK(crc_of(bytes(32, std::byte{0xFF})) == 0x62A8AB43U);
  bytes up(32);
  bytes down(32);
  for (std::size_t i = 0; i < 32; ++i) {
    up[i] = static_cast<std::byte>(i);
    down[i] = static_cast<std::byte>(31 - i);
  }
  CHECK(crc_of(up) == 0x46DD794EU);
  CHECK(crc_of(down) == 0x113FDB5CU);
  // An iSCSI read command.
  const bytes command = from_hex(
      "01c00000000000000000000000000000140000000000040000000014000000182800000000000000020000000000"
      "00"
      "00");
  REQUIRE(command.size() == 48);
  CHECK(crc_of(command) == 0xD9963A56U);
  CHECK(crc_of({}) == 0);
}

TEST_CASE("a CRC-32C does not depend on how its bytes are cut", "[io][state]") {
  bytes all(61);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::byte>(i * 37);
  for (std::size_t cut = 0; cut <= all.size(); ++cut) {
    kvfit::crc32c sum;
    sum.add(std::span(all).first(cut));
    sum.add(std::span(all).subspan(cut));
    CHECK(sum.value() == crc_of(all));
  }
}

TEST_CASE("the state written is the stored sample, byte by byte", "[io][state]") {
  const auto written = kvfit::write_state(sample_cache(), sample_info);
  INFO((written ? std::string() : written.error().message()));
  REQUIRE(written);
  CHECK(*written == from_hex(kvfit_test::state_of_version_3));
}

TEST_CASE("§9.20 every field of a state comes back, and saved again it has the same bytes",
          "[io][state]") {
  const kvfit_test::scratch_folder folder;
  REQUIRE(kvfit::write_state(folder / "state", sample_cache(), sample_info));
  const auto file = kvfit::read_state(folder / "state");
  const auto memory = kvfit::read_state(from_hex(kvfit_test::state_of_version_3));
  for (const auto* state : {&file, &memory}) {
    INFO((state->has_value() ? std::string() : state->error().message()));
    REQUIRE(state->has_value());
    check_same_state((*state)->cache, sample_cache());
    CHECK((*state)->info.next_position == 5);
    CHECK((*state)->info.fingerprint == "model-1");
    check_same_rules((*state)->info.rules, sample_info.rules);
    CHECK((*state)->info.key_storage == dtype::fp16);
    CHECK((*state)->info.value_storage == dtype::bf16);
    const auto again = kvfit::write_state((*state)->cache, (*state)->info);
    REQUIRE(again);
    CHECK(*again == kvfit_test::file_bytes(folder / "state"));
  }
}

TEST_CASE("states in fp32 keep every bit", "[io][state]") {
  auto cache = sample_cache();
  cache.layers[0].keys(1, 1) = 1e-42F;
  cache.layers[0].values(1, 0) = std::numeric_limits<float>::max();
  cache.layers[1].values(0, 1) = 1.0F / 3.0F;
  const auto written = kvfit::write_state(cache, {.next_position = 9});
  REQUIRE(written);
  const auto state = kvfit::read_state(*written);
  REQUIRE(state);
  check_same_state(state->cache, cache);
}

TEST_CASE("an empty cache has a state, too", "[io][state]") {
  const auto written = kvfit::write_state(compacted_cache{}, {});
  REQUIRE(written);
  CHECK(written->size() == 68);
  const auto state = kvfit::read_state(*written);
  REQUIRE(state);
  CHECK(state->cache.layers.empty());
}

TEST_CASE("a state of version 1 is read: key positions are positions, outcomes are told by rows",
          "[io][state]") {
  const auto state = kvfit::read_state(from_hex(kvfit_test::state_of_version_1));
  INFO((state ? std::string() : state.error().message()));
  REQUIRE(state);
  CHECK(state->info.next_position == 100);
  CHECK(state->cache.skipped == std::vector<kvfit::index_t>{1, 2});
  CHECK(state->cache.rows == 7);
  CHECK(state->cache.rows_before == 23);
  REQUIRE(state->cache.layers.size() == 2);
  const auto& first = state->cache.layers[0];
  const auto wanted = sample_cache().layers[0];
  CHECK(first.keys == wanted.keys);
  CHECK(first.values == wanted.values);
  CHECK(first.bias == wanted.bias);
  CHECK(first.positions == wanted.positions);
  CHECK(first.key_positions == wanted.positions);
  CHECK(first.heads[0].outcome == head_outcome::fitted);
  CHECK(first.heads[1].outcome == head_outcome::empty);
  CHECK(state->cache.layers[1].heads[0].outcome == head_outcome::identity);
  CHECK(state->cache.layers[1].key_positions == std::vector<kvfit::index_t>{0, 1, 2, 3, 4});
  // Saved again, it is of the newest version, and lost nothing.
  const auto again = kvfit::write_state(state->cache, state->info);
  REQUIRE(again);
  const auto newest = kvfit::read_state(*again);
  REQUIRE(newest);
  check_same_state(newest->cache, state->cache);
}

TEST_CASE(
    "a state of version 2 is read: its logical length is the next position, and it says "
    "neither rules nor a fingerprint",
    "[io][state]") {
  const auto state = kvfit::read_state(from_hex(kvfit_test::state_of_version_2));
  INFO((state ? std::string() : state.error().message()));
  REQUIRE(state);
  check_same_state(state->cache, sample_cache());
  CHECK(state->info.next_position == 100);
  CHECK(state->info.rules.empty());
  CHECK(state->info.fingerprint.empty());
  const auto again = kvfit::write_state(state->cache, state->info);
  REQUIRE(again);
  const auto newest = kvfit::read_state(*again);
  REQUIRE(newest);
  check_same_state(newest->cache, state->cache);
  CHECK(newest->info.next_position == 100);
}

TEST_CASE("what is damaged is refused for what it is", "[io][state]") {
  const bytes whole = from_hex(kvfit_test::state_of_version_2);
  const auto cause = [](const bytes& file) {
    const auto state = kvfit::read_state(file);
    REQUIRE_FALSE(state.has_value());
    return state.error();
  };
  struct damage {
    const char* what;
    std::size_t place;
    std::uint64_t number;
    std::size_t size;
    errc code;
  };
  // The first layer starts at 80, its heads at 120, its positions at 216.
  const damage kinds[] = {
      {"magic", 0, 'K', 1, errc::malformed_file},
      {"no endian tag", 8, 5, 4, errc::malformed_file},
      {"the other end first", 8, 0x04030201, 4, errc::unsupported_file},
      {"version 0", 12, 0, 4, errc::unsupported_file},
      {"a later version", 12, 4, 4, errc::unsupported_file},
      {"a version with rules, where there are none", 50, 1, 1, errc::malformed_file},
      {"another length", 16, whole.size() + 1, 8, errc::malformed_file},
      {"a negative logical length", 24, ~std::uint64_t{0}, 8, errc::malformed_file},
      {"a logical length below a position", 24, 8, 8, errc::malformed_file},
      {"more layers than bytes", 32, std::uint64_t{1} << 61, 8, errc::malformed_file},
      {"a layer too many", 32, 3, 8, errc::malformed_file},
      {"a layer too few", 32, 1, 8, errc::malformed_file},
      {"more skipped layers than bytes", 40, ~std::uint64_t{0}, 8, errc::malformed_file},
      {"keys in fp8", 48, 3, 1, errc::unsupported_file},
      {"values of no type", 49, 77, 1, errc::unsupported_file},
      {"zeros that are none", 63, 1, 1, errc::malformed_file},
      {"skipped layers out of order", 64, 2, 8, errc::malformed_file},
      {"a negative layer", 80, ~std::uint64_t{0}, 8, errc::malformed_file},
      {"layers out of order", 80, 4, 8, errc::malformed_file},
      {"no heads", 88, 0, 8, errc::malformed_file},
      {"more heads than bytes", 88, std::uint64_t{1} << 60, 8, errc::malformed_file},
      {"other rows than the heads'", 96, 3, 8, errc::malformed_file},
      {"more rows than bytes", 96, ~std::uint64_t{0}, 8, errc::malformed_file},
      {"no columns", 104, 0, 8, errc::malformed_file},
      {"columns beyond 31 bits", 112, std::uint64_t{1} << 62, 8, errc::malformed_file},
      {"a head of more rows than any", 120, ~std::uint64_t{0}, 8, errc::malformed_file},
      {"fewer rows before than after", 128, 1, 8, errc::malformed_file},
      {"an outcome that is none", 136, 4, 1, errc::malformed_file},
      {"a cause of a later version", 137, 200, 1, errc::unsupported_file},
      {"a cause without need", 137, 3, 1, errc::file_unreadable},  // an error to tell: no damage
      {"zeros in a head", 143, 1, 1, errc::malformed_file},
      {"sizes without a cause", 144, 1, 1, errc::malformed_file},
      {"a text without a cause", 160, 1, 4, errc::malformed_file},
      {"a position twice", 216, 8, 8, errc::malformed_file},
      {"a key position beyond 53 bits", 232, std::uint64_t{1} << 60, 8, errc::malformed_file},
      {"an infinite bias", 248, 0x7F800000, 4, errc::malformed_file},
      {"a hidden key", 252, 0xFF800000, 4, errc::malformed_file},
      {"an infinite key", 256, 0x7C00, 2, errc::malformed_file},
      {"a value that is NaN", 264, 0x7FC0, 2, errc::malformed_file},
      {"padding that is none", 271, 1, 1, errc::malformed_file},
  };
  for (const damage& kind : kinds) {
    INFO(kind.what);
    bytes file = whole;
    std::memcpy(&file.at(kind.place), &kind.number, kind.size);
    REQUIRE(file != whole);
    seal(file);
    const auto state = kvfit::read_state(file);
    if (kind.code == errc::file_unreadable) {
      CHECK(state.has_value());
      continue;
    }
    REQUIRE_FALSE(state.has_value());
    CHECK(state.error().code == kind.code);
    CHECK_FALSE(state.error().detail.empty());
  }
  bytes torn = whole;
  torn[100] ^= std::byte{1};
  CHECK(cause(torn).detail.find("checksum") != std::string::npos);
  CHECK(cause({}).code == errc::malformed_file);
  CHECK(kvfit::read_state(std::filesystem::path("/no/such/file")).error().code ==
        errc::file_unreadable);
  CHECK(kvfit::read_state(std::filesystem::temp_directory_path()).error().code ==
        errc::file_unreadable);
}

TEST_CASE("rules and fingerprints that are damaged are refused", "[io][state]") {
  const bytes whole = from_hex(kvfit_test::state_of_version_3);
  REQUIRE(kvfit::read_state(whole).has_value());
  struct damage {
    const char* what;
    std::size_t place;
    std::uint64_t number;
    std::size_t size;
  };
  // The fingerprint stands at 64, layer 0 at 88 and its rule at 128, with sinks at 216.
  const damage kinds[] = {
      {"a fingerprint of more bytes than a file may have", 50, 65, 1},
      {"a fingerprint of fewer bytes, and padding that is none", 50, 6, 1},
      {"rules that are neither there nor not", 51, 2, 1},
      {"no rules, where they are", 51, 0, 1},
      {"zeros that are none", 52, 1, 1},
      {"a fingerprint with a control character", 64, 7, 1},
      {"a scale that is NaN", 128, 0x7FC00000, 4},
      {"a negative soft cap", 132, 0xBF800000, 4},
      {"a negative window", 136, ~std::uint64_t{0}, 8},
      {"more sinks than bytes", 144, 0xFFFFFFFF, 4},
      {"three sinks for two heads", 144, 3, 4},
      {"more slopes than bytes", 148, 0xFFFFFFFF, 4},
      {"frequencies without need", 152, 1, 8},
      {"a causality that is none", 160, 2, 1},
      {"a rotation that is none", 161, 2, 1},
      {"no rotation, but its numbers", 161, 0, 1},
      {"a pairing that is none", 162, 2, 1},
      {"a scaling that is none", 163, 5, 1},
      {"numbers of another scaling", 163, 1, 1},
      {"rounding that is none", 164, 2, 1},
      {"zeros of a rule that are none", 165, 1, 1},
      {"a base that is NaN", 168, 0x7FF8000000000000, 8},
      {"odd dims", 176, 1, 8},
      {"a factor that is 0", 184, 0, 8},
      {"an infinite sink", 216, 0x7F800000, 4},
  };
  for (const damage& kind : kinds) {
    INFO(kind.what);
    bytes file = whole;
    std::memcpy(&file.at(kind.place), &kind.number, kind.size);
    REQUIRE(file != whole);
    seal(file);
    const auto state = kvfit::read_state(file);
    REQUIRE_FALSE(state.has_value());
    CHECK(state.error().code == errc::malformed_file);
    CHECK_FALSE(state.error().detail.empty());
  }
}

TEST_CASE("what is no state is not written", "[io][state]") {
  struct damage {
    const char* what;
    errc code;
    void (*apply)(compacted_cache&, state_info&);
  };
  const damage kinds[] = {
      {"a negative length", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.next_position = -1; }},
      {"quantised storage", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.key_storage = dtype::q8_0; }},
      {"layers out of order", errc::invalid_option,
       [](compacted_cache& cache, state_info&) { std::swap(cache.layers[0], cache.layers[1]); }},
      {"skipped layers out of order", errc::invalid_option,
       [](compacted_cache& cache, state_info&) {
         cache.skipped = {2, 2};
       }},
      {"a negative skipped layer", errc::invalid_option,
       [](compacted_cache& cache, state_info&) { cache.skipped = {-1}; }},
      {"another number of rows", errc::shape_mismatch,
       [](compacted_cache& cache, state_info&) { cache.rows = 4; }},
      {"another number of rows before", errc::shape_mismatch,
       [](compacted_cache& cache, state_info&) { cache.rows_before = 4; }},
      {"another number of fallbacks", errc::shape_mismatch,
       [](compacted_cache& cache, state_info&) { cache.fallbacks = 0; }},
      {"a head in another's place", errc::invalid_option,
       [](compacted_cache& cache, state_info&) { cache.layers[0].heads[1].id.head = 0; }},
      {"a report of other rows", errc::shape_mismatch,
       [](compacted_cache& cache, state_info&) { cache.layers[0].heads[0].rows = 1; }},
      {"more rows than before", errc::shape_mismatch,
       [](compacted_cache& cache, state_info&) { cache.layers[0].heads[0].rows_before = 1; }},
      {"a position beyond 53 bits", errc::invalid_position,
       [](compacted_cache& cache, state_info&) {
         cache.layers[1].positions[0] = kvfit::index_t{1} << 60;
       }},
      {"fewer rules than layers", errc::shape_mismatch,
       [](compacted_cache&, state_info& info) { info.rules.pop_back(); }},
      {"a scale that is NaN", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.rules[0].logits.scale = std::nanf(""); }},
      {"sinks of another number of heads", errc::shape_mismatch,
       [](compacted_cache&, state_info& info) { info.rules[0].sink_logits.pop_back(); }},
      {"an infinite slope", errc::non_finite,
       [](compacted_cache&, state_info& info) {
         info.rules[1].alibi_slopes[0] = -std::numeric_limits<float>::infinity();
       }},
      {"a rotation of more than the keys have", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.rules[0].rotation->dims = 4; }},
      {"a fingerprint of 65 bytes", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.fingerprint.assign(65, 'a'); }},
      {"a fingerprint that is no plain text", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.fingerprint = "a\n"; }},
      {"a key position beyond 53 bits", errc::invalid_position,
       [](compacted_cache& cache, state_info&) {
         cache.layers[1].key_positions[0] = kvfit::index_t{1} << 60;
       }},
      {"a value too large for its type", errc::storage_overflow,
       [](compacted_cache& cache, state_info&) { cache.layers[0].keys(1, 0) = 65520; }},
      {"a layer that is torn", errc::shape_mismatch,
       [](compacted_cache& cache, state_info&) { cache.layers[0].positions.pop_back(); }},
      {"a key that is NaN", errc::non_finite,
       [](compacted_cache& cache, state_info&) { cache.layers[0].keys(0, 0) = std::nanf(""); }},
  };
  for (const damage& kind : kinds) {
    INFO(kind.what);
    compacted_cache cache = sample_cache();
    state_info info = sample_info;
    kind.apply(cache, info);
    const auto memory = kvfit::write_state(cache, info);
    REQUIRE_FALSE(memory.has_value());
    CHECK(memory.error().code == kind.code);
    const kvfit_test::scratch_folder folder;
    const auto file = kvfit::write_state(folder / "state", cache, info);
    REQUIRE_FALSE(file.has_value());
    CHECK(file.error().code == kind.code);
    CHECK(folder.count() == 0);
  }
}
