// SPDX-License-Identifier: MIT
#include "kvfit/io/state.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
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

/// The cache that the sample of version 2 is of.
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

const state_info sample_info = {100, dtype::fp16, dtype::bf16};

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
  REQUIRE(written);
  CHECK(*written == from_hex(kvfit_test::state_of_version_2));
}

TEST_CASE("§9.20 every field of a state comes back, and saved again it has the same bytes",
          "[io][state]") {
  const kvfit_test::scratch_folder folder;
  REQUIRE(kvfit::write_state(folder / "state", sample_cache(), sample_info));
  const auto file = kvfit::read_state(folder / "state");
  const auto memory = kvfit::read_state(from_hex(kvfit_test::state_of_version_2));
  for (const auto* state : {&file, &memory}) {
    REQUIRE(state->has_value());
    check_same_state((*state)->cache, sample_cache());
    CHECK((*state)->info.logical_length == 100);
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
  const auto written = kvfit::write_state(cache, {.logical_length = 9});
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
  CHECK(state->info.logical_length == 100);
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
      {"a later version", 12, 3, 4, errc::unsupported_file},
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

TEST_CASE("what is no state is not written", "[io][state]") {
  struct damage {
    const char* what;
    errc code;
    void (*apply)(compacted_cache&, state_info&);
  };
  const damage kinds[] = {
      {"a negative length", errc::invalid_option,
       [](compacted_cache&, state_info& info) { info.logical_length = -1; }},
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
      {"a position at the logical length", errc::invalid_position,
       [](compacted_cache&, state_info& info) { info.logical_length = 8; }},
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
