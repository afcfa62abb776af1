// SPDX-License-Identifier: MIT
// Any bytes as a state: an error, or a cache that is saved and read again as the same bytes.
//
// A fuzzer does not guess checksums: where the input is long enough, length and checksum are made
// to fit, and the input is read as it is besides.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "fuzz/check.hpp"
#include "kvfit/io/state.hpp"

namespace {

using kvfit_fuzz::promise;

void read_and_save(std::span<const std::byte> bytes) {
  const auto state = kvfit::read_state(bytes);
  if (!state) return;
  std::uint32_t version = 0;
  std::memcpy(&version, bytes.data() + 12, sizeof version);
  const auto saved = kvfit::write_state(state->cache, state->info);
  promise(saved.has_value());
  if (version == kvfit::state_version) {
    promise(std::equal(saved->begin(), saved->end(), bytes.begin(), bytes.end()));
  }
  const auto again = kvfit::read_state(*saved);
  promise(again.has_value());
  promise(again->cache.rows == state->cache.rows);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  read_and_save(bytes);
  if (size < 68) return 0;
  const std::uint64_t length = size;
  std::memcpy(bytes.data() + 16, &length, sizeof length);
  kvfit::crc32c sum;
  sum.add(std::span(bytes).first(size - 4));
  const std::uint32_t value = sum.value();
  std::memcpy(bytes.data() + size - 4, &value, sizeof value);
  read_and_save(bytes);
  return 0;
}
