// SPDX-License-Identifier: MIT
// Damaged files of every kind: no crash, and no more memory than the file's own size accounts for.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "io/state_samples.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/io/compact_file.hpp"
#include "kvfit/io/state.hpp"
#include "support/catch.hpp"

// ---- Counting operator new: bytes alive, and their peak

namespace {

std::atomic<std::size_t> alive{0};
std::atomic<std::size_t> peak{0};

// Before each block stands its size, in a prefix as long as the alignment.
constexpr std::size_t smallest_prefix = alignof(std::max_align_t);

void* counted_new(std::size_t size, std::size_t alignment) noexcept {
  const std::size_t prefix = std::max(alignment, smallest_prefix);
  if (size > SIZE_MAX / 2) return nullptr;
  const std::size_t whole = (prefix + size + prefix - 1) / prefix * prefix;
  auto* const block = static_cast<std::byte*>(std::aligned_alloc(prefix, whole));
  if (block == nullptr) return nullptr;
  std::memcpy(block, &size, sizeof size);
  const std::size_t now = alive += size;
  std::size_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
  return block + prefix;
}

// Not inlined: g++ takes the step back to the block's size for one out of a vector's bounds.
[[gnu::noinline]] void counted_delete(void* memory, std::size_t alignment) noexcept {
  if (memory == nullptr) return;
  auto* const block = static_cast<std::byte*>(memory) - std::max(alignment, smallest_prefix);
  std::size_t size = 0;
  std::memcpy(&size, block, sizeof size);
  alive -= size;
  std::free(block);
}

void* or_throw(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

constexpr std::size_t plain = smallest_prefix;

std::size_t bytes_of(std::align_val_t alignment) noexcept {
  return static_cast<std::size_t>(alignment);
}

}  // namespace

void* operator new(std::size_t n) {
  return or_throw(counted_new(n, plain));
}
void* operator new[](std::size_t n) {
  return or_throw(counted_new(n, plain));
}
void* operator new(std::size_t n, std::align_val_t a) {
  return or_throw(counted_new(n, bytes_of(a)));
}
void* operator new[](std::size_t n, std::align_val_t a) {
  return or_throw(counted_new(n, bytes_of(a)));
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return counted_new(n, plain);
}
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
  return counted_new(n, plain);
}
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return counted_new(n, bytes_of(a));
}
void* operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return counted_new(n, bytes_of(a));
}
void operator delete(void* p) noexcept {
  counted_delete(p, plain);
}
void operator delete[](void* p) noexcept {
  counted_delete(p, plain);
}
void operator delete(void* p, std::size_t) noexcept {
  counted_delete(p, plain);
}
void operator delete[](void* p, std::size_t) noexcept {
  counted_delete(p, plain);
}
void operator delete(void* p, std::align_val_t a) noexcept {
  counted_delete(p, bytes_of(a));
}
void operator delete[](void* p, std::align_val_t a) noexcept {
  counted_delete(p, bytes_of(a));
}
void operator delete(void* p, std::size_t, std::align_val_t a) noexcept {
  counted_delete(p, bytes_of(a));
}
void operator delete[](void* p, std::size_t, std::align_val_t a) noexcept {
  counted_delete(p, bytes_of(a));
}
void operator delete(void* p, const std::nothrow_t&) noexcept {
  counted_delete(p, plain);
}
void operator delete[](void* p, const std::nothrow_t&) noexcept {
  counted_delete(p, plain);
}
void operator delete(void* p, std::align_val_t a, const std::nothrow_t&) noexcept {
  counted_delete(p, bytes_of(a));
}
void operator delete[](void* p, std::align_val_t a, const std::nothrow_t&) noexcept {
  counted_delete(p, bytes_of(a));
}

// ---- The files

namespace {

using kvfit_test::bytes;
using kvfit_test::ramp;
using kvfit_test::raw_file;

/// Room for error texts, the buffer of a file stream, the tables of a small header.
constexpr std::size_t slack = 48 * 1024;

/// The peak of memory while `step` runs, above what was alive before.
template <class Step>
std::size_t peak_of(Step&& step) {
  const std::size_t before = alive;
  peak = before;
  step();
  return peak - before;
}

bytes small_capture() {
  const auto numbers = ramp(4 * 50 * 8);
  std::vector<kvfit::tensor_view> tensors;
  for (const char* layer : {"layers.0.", "layers.7."}) {
    for (const char* part : {"k", "v", "q", "q_test"}) {
      const kvfit::index_t heads = part[0] == 'q' ? 4 : 2;
      tensors.push_back(
          {std::string(layer) + part,
           kvfit::tensor_type::f32,
           {heads, 50, 8},
           std::as_bytes(std::span(numbers)).first(static_cast<std::size_t>(heads) * 50 * 8 * 4)});
    }
  }
  return kvfit_test::encoded(tensors, {{"format", "kvfit-capture"},
                                       {"version", "1"},
                                       {"scale", "0.125"},
                                       {"n_heads_kv", "2"},
                                       {"logical_length", "50"}});
}

bytes small_compact() {
  const auto numbers = ramp(30 * 8);
  const std::vector<float> bias(30);
  std::vector<kvfit::index_t> positions(30);
  for (std::size_t i = 0; i < 30; ++i) positions[i] = static_cast<kvfit::index_t>(3 * i);
  const kvfit::row_view rows(numbers.data(), 30, 8);
  const kvfit::compact_head head = {rows, rows, bias, positions};
  const std::vector<kvfit::compact_layer> layers = {{0, {head, head}}, {1, {head}}};
  const kvfit_test::scratch_folder folder;
  const auto written = kvfit::write_compact_file(
      folder / "file", {"omp", 100, 0.125F, kvfit::dtype::fp16, {}}, layers);
  REQUIRE(written.has_value());
  return kvfit_test::file_bytes(folder / "file");
}

/// Reads with both schemas; false where the memory used is out of proportion.
bool behaves(const bytes& file) {
  const std::size_t used = peak_of([&] {
    if (kvfit::read_capture(file).has_value()) return;
    static_cast<void>(kvfit::read_compact_file(file).has_value());
  });
  return used <= file.size() + slack;
}

std::size_t header_size(const bytes& file) {
  std::uint64_t size = 0;
  std::memcpy(&size, file.data(), 8);
  return static_cast<std::size_t>(size);
}

}  // namespace

TEST_CASE("intact files cost their own size and little more", "[io]") {
  for (const bytes& file : {small_capture(), small_compact()}) {
    REQUIRE(kvfit::read_safetensors(file).has_value());
    CHECK(behaves(file));
  }
}

TEST_CASE("§9.20 a file cut anywhere is refused", "[io]") {
  for (const bytes& whole : {small_capture(), small_compact()}) {
    const std::size_t step = 1 + whole.size() / 4000;
    std::size_t accepted = 0;
    std::size_t greedy = 0;
    for (std::size_t size = 0; size < whole.size(); size += size < 3000 ? 1 : step) {
      const bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      accepted += kvfit::read_safetensors(cut).has_value() ? 1U : 0U;
      greedy += behaves(cut) ? 0U : 1U;
    }
    CHECK(accepted == 0);
    CHECK(greedy == 0);
  }
}

TEST_CASE("§9.20 flipped bits neither crash nor cost memory", "[io]") {
  std::mt19937 random(20);
  for (const bytes& whole : {small_capture(), small_compact()}) {
    const std::size_t front = 8 + header_size(whole);
    std::size_t greedy = 0;
    for (int round = 0; round < 6000; ++round) {
      bytes file = whole;
      const std::size_t flips = 1 + random() % 3;
      for (std::size_t i = 0; i < flips; ++i) {
        const std::size_t range = round % 4 == 0 ? file.size() : front;
        file[random() % range] ^= static_cast<std::byte>(1U << (random() % 8));
      }
      greedy += behaves(file) ? 0U : 1U;
    }
    CHECK(greedy == 0);
  }
}

TEST_CASE("headers with digits, brackets and names changed neither crash nor cost memory", "[io]") {
  std::mt19937 random(21);
  const std::vector<std::string> pieces = {"0",
                                           "1",
                                           "9223372036854775807",
                                           "18446744073709551615",
                                           "1099511627776",
                                           "-1",
                                           "1e9",
                                           "[",
                                           "]",
                                           "{",
                                           "}",
                                           "\"",
                                           ",",
                                           ":",
                                           "F64",
                                           "[]",
                                           "{}",
                                           "k",
                                           "q",
                                           "layers.0.k",
                                           "__metadata__",
                                           " ",
                                           "\\u0000"};
  for (const bytes& whole : {small_capture(), small_compact()}) {
    const std::size_t size = header_size(whole);
    const std::string header(reinterpret_cast<const char*>(whole.data()) + 8, size);
    const std::string data(reinterpret_cast<const char*>(whole.data()) + 8 + size,
                           whole.size() - 8 - size);
    std::size_t greedy = 0;
    for (int round = 0; round < 6000; ++round) {
      std::string changed = header;
      const std::size_t edits = 1 + random() % 2;
      for (std::size_t i = 0; i < edits; ++i) {
        std::size_t at = random() % changed.size();
        std::size_t length = random() % 3;
        if (random() % 2 == 0) {  // a whole number rather than any place
          at = std::min(changed.find_first_of("0123456789", at), changed.size() - 1);
          length = changed.find_first_not_of("0123456789", at) - at;
        }
        changed.replace(at, std::min(length, changed.size() - at),
                        pieces[random() % pieces.size()]);
      }
      greedy += behaves(raw_file(changed, data)) ? 0U : 1U;
    }
    CHECK(greedy == 0);
  }
}

TEST_CASE("random bytes are refused", "[io]") {
  std::mt19937 random(22);
  for (int round = 0; round < 2000; ++round) {
    std::string noise(random() % 400, '\0');
    for (char& c : noise) c = static_cast<char>(random() % 256);
    if (!noise.empty() && round % 2 == 0) noise[0] = '{';
    CHECK_FALSE(kvfit::read_safetensors(raw_file(noise, "")).has_value());
  }
}

TEST_CASE("§9.20 a small file that claims much allocates nothing of it", "[io]") {
  const std::string claims[] = {
      R"({"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}})",
      R"({"a":{"dtype":"F64","shape":[1099511627776],"data_offsets":[0,8796093022208]}})",
      R"({"layers.0.q":{"dtype":"F32","shape":[1099511627776,0,4],"data_offsets":[0,0]}})",
      R"({"layers.0.k":{"dtype":"F32","shape":[0,1099511627776],"data_offsets":[0,0]}})",
  };
  for (const std::string& header : claims) {
    INFO(header);
    CHECK(behaves(raw_file(header, "")));
    CHECK(behaves(raw_file(99'999'999, header, "")));
  }
}

TEST_CASE("a header of many small entries costs in proportion to its length", "[io]") {
  std::string header = "{";
  SECTION("empty tensors") {
    for (int i = 0; i < 20'000; ++i) {
      header += "\"" + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
    }
  }
  SECTION("one tensor of many dimensions") {
    header += R"("a":{"dtype":"U8","shape":[0)";
    for (int i = 0; i < 500'000; ++i) header += ",0";
    header += R"(],"data_offsets":[0,0]},)";
  }
  SECTION("metadata") {
    header += R"("__metadata__":{)";
    for (int i = 0; i < 100'000; ++i) header += "\"" + std::to_string(i) + "\":\"\",";
    header.back() = '}';
    header += ',';
  }
  header.back() = '}';
  const bytes file = raw_file(header, "");
  bool accepted = false;
  const std::size_t used = peak_of([&] { accepted = kvfit::read_safetensors(file).has_value(); });
  CHECK(accepted);
  INFO(used << " bytes for a header of " << header.size());
  CHECK(used <= 12 * header.size());
}

// ---- States

namespace {

/// The stored samples.
std::vector<bytes> states() {
  std::vector<bytes> made;
  for (const std::string_view text :
       {kvfit_test::state_of_version_1, kvfit_test::state_of_version_2,
        kvfit_test::state_of_version_3}) {
    bytes file;
    for (std::size_t i = 0; i < text.size(); i += 2) {
      const std::string digits(text.substr(i, 2));
      file.push_back(static_cast<std::byte>(std::stoi(digits, nullptr, 16)));
    }
    made.push_back(std::move(file));
  }
  return made;
}

/// Length and checksum as they would be if this had been meant.
void seal_state(bytes& file) {
  const std::uint64_t length = file.size();
  std::memcpy(file.data() + 16, &length, sizeof length);
  kvfit::crc32c sum;
  sum.add(std::span(file).first(file.size() - 4));
  const std::uint32_t value = sum.value();
  std::memcpy(file.data() + file.size() - 4, &value, sizeof value);
}

/// Reads; false where the memory used is out of proportion.
bool state_behaves(const bytes& file, bool* is_accepted = nullptr) {
  bool accepted = false;
  const std::size_t used = peak_of([&] { accepted = kvfit::read_state(file).has_value(); });
  if (is_accepted != nullptr) *is_accepted = accepted;
  return used <= 2 * file.size() + slack;
}

}  // namespace

TEST_CASE("§9.20 a state cut anywhere is refused", "[io][state]") {
  for (const bytes& whole : states()) {
    REQUIRE(kvfit::read_state(whole).has_value());
    for (std::size_t size = 0; size < whole.size(); ++size) {
      bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      bool is_accepted = true;
      CHECK(state_behaves(cut, &is_accepted));
      CHECK_FALSE(is_accepted);
      if (size < 68) continue;
      seal_state(cut);  // not by its length or checksum either
      CHECK(state_behaves(cut, &is_accepted));
      CHECK_FALSE(is_accepted);
    }
  }
}

TEST_CASE("§9.20 a state with any one bit flipped is refused", "[io][state]") {
  for (const bytes& whole : states()) {
    std::size_t accepted = 0;
    std::size_t greedy = 0;
    for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      bytes file = whole;
      file[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      bool is_accepted = true;
      greedy += state_behaves(file, &is_accepted) ? 0U : 1U;
      accepted += is_accepted ? 1U : 0U;
      // With the checksum made to fit, what is read may be accepted; it costs no more for that.
      seal_state(file);
      greedy += state_behaves(file) ? 0U : 1U;
    }
    CHECK(accepted == 0);
    CHECK(greedy == 0);
  }
}

TEST_CASE("§9.20 a state whose sizes claim much allocates nothing of it", "[io][state]") {
  const std::uint64_t claims[] = {0,
                                  1,
                                  7,
                                  1000,
                                  std::uint64_t{1} << 31U,
                                  std::uint64_t{1} << 32U,
                                  std::uint64_t{1} << 60U,
                                  (std::uint64_t{1} << 61U) - 1,
                                  std::uint64_t{1} << 63U,
                                  ~std::uint64_t{0}};
  for (const bytes& whole : states()) {
    std::size_t greedy = 0;
    for (std::size_t place = 24; place + 12 <= whole.size(); place += 4) {
      for (const std::uint64_t claim : claims) {
        bytes file = whole;
        std::memcpy(file.data() + place, &claim, sizeof claim);
        seal_state(file);
        greedy += state_behaves(file) ? 0U : 1U;
      }
    }
    CHECK(greedy == 0);
  }
}

TEST_CASE("reading a state costs the cache it holds, from memory and from a file", "[io][state]") {
  kvfit::compacted_cache cache;
  kvfit::compacted_layer layer;
  layer.offsets = {0};
  for (kvfit::index_t h = 0; h < 4; ++h) {
    for (kvfit::index_t row = 0; row < 500; ++row) {
      layer.positions.push_back(3 * row);
      layer.key_positions.push_back(3 * row + 1);
    }
    layer.offsets.push_back(500 * (h + 1));
    layer.heads.push_back({{0, h}, 2000, 500, kvfit::head_outcome::fitted, {}, {}});
  }
  layer.keys = kvfit::matrix::Random(2000, 32);
  layer.values = kvfit::matrix::Random(2000, 16);
  layer.bias = kvfit::vector::Random(2000);
  cache.layers.push_back(std::move(layer));
  cache.rows = 2000;
  cache.rows_before = 8000;
  const kvfit::dtype type = GENERATE(kvfit::dtype::fp32, kvfit::dtype::bf16);
  const kvfit_test::scratch_folder folder;
  REQUIRE(kvfit::write_state(folder / "state", cache, {1500, type, type, {}, {}}));
  const bytes file = kvfit_test::file_bytes(folder / "state");
  const std::size_t held = 2000 * (48 * 4 + 4 + 16) + 4 * sizeof(kvfit::head_report);
  bool is_accepted = false;
  const std::size_t from_memory =
      peak_of([&] { is_accepted = kvfit::read_state(file).has_value(); });
  CHECK(is_accepted);
  const std::filesystem::path path = folder / "state";
  const std::size_t from_file = peak_of([&] { is_accepted = kvfit::read_state(path).has_value(); });
  CHECK(is_accepted);
  INFO(held << " held, " << from_memory << " and " << from_file << " used");
  CHECK(from_memory <= held + 8192);
  CHECK(from_file <= held + slack);
  CHECK(from_file <= 2 * file.size() + slack);
}

TEST_CASE("a state of many heads without rows costs in proportion to its length", "[io][state]") {
  const auto state_of = [](std::size_t heads) {
    kvfit::compacted_cache cache;
    cache.layers.emplace_back();
    kvfit::compacted_layer& layer = cache.layers.back();
    layer.keys.resize(0, 8);
    layer.values.resize(0, 8);
    layer.offsets.assign(heads + 1, 0);
    for (std::size_t h = 0; h < heads; ++h) {
      layer.heads.push_back(
          {{0, static_cast<kvfit::index_t>(h)}, 0, 0, kvfit::head_outcome::empty, {}, {}});
    }
    return kvfit::write_state(cache, {});
  };
  const auto file = state_of(5000);
  REQUIRE(file);
  bool is_accepted = false;
  const std::size_t used = peak_of([&] { is_accepted = kvfit::read_state(*file).has_value(); });
  CHECK(is_accepted);
  INFO(used << " bytes for " << file->size() << ", " << sizeof(kvfit::head_report) << " a report");
  CHECK(used <= 5000 * 1000 + slack);

  CHECK(state_of(kvfit::max_state_heads + 1).error().code == kvfit::errc::invalid_option);
  bytes many(64 + 40 + 48 * (kvfit::max_state_heads + 1) + 4);
  std::memcpy(many.data(), file->data(), 64 + 40);
  const std::uint64_t heads = kvfit::max_state_heads + 1;
  std::memcpy(many.data() + 64 + 8, &heads, sizeof heads);
  seal_state(many);
  const std::size_t refusing = peak_of([&] { is_accepted = kvfit::read_state(many).has_value(); });
  CHECK_FALSE(is_accepted);
  CHECK(refusing <= slack);
}
