// SPDX-License-Identifier: MIT
/// Refuses a state by its header, its length and its checksum, before memory is asked for.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/crc32c.hpp"
#include "kvfit/io/state_layout.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

inline error malformed_state(std::string_view source, std::string what) {
  return {errc::malformed_file, std::string(source), error::none, error::none, std::move(what)};
}

inline error ended_early(std::string_view source) {
  return {errc::file_unreadable, std::string(source), error::none, error::none,
          "reading stopped before the end"};
}

/// A state of `size` bytes must be of a version known here, and as long as it says.
inline result<void> check_header(const state_header& header, std::uint64_t size,
                                 std::string_view source) {
  const auto unsupported = [&](std::int64_t actual, std::int64_t expected, const char* what) {
    return error{errc::unsupported_file, std::string(source), actual, expected, what};
  };
  if (header.magic != state_magic) {
    return malformed_state(source, "does not start with 'kvfstate'");
  }
  if (header.endian_tag != state_endian_tag) {
    constexpr std::uint32_t other_end = 0x04030201U;
    if (header.endian_tag != other_end) return malformed_state(source, "no endian tag");
    return unsupported(error::none, error::none, "was written on a big-endian machine");
  }
  if (header.version < 1 || header.version > state_version) {
    return unsupported(header.version, state_version, "version");
  }
  if (header.length != size) {
    return malformed_state(
        source, "has " + std::to_string(size) + " bytes and says " + std::to_string(header.length));
  }
  return {};
}

/// Compares the last four bytes with the checksum of all before them. Allocates nothing.
template <class Source>
result<void> check_sum(Source source, std::uint64_t size, std::string_view name) {
  std::array<std::byte, 16384> buffer;  // NOLINT(*-member-init)
  crc32c sum;
  for (std::uint64_t left = size - state_checksum_bytes; left > 0;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer.size()));
    if (!source.read(buffer.data(), count)) return ended_early(name);
    sum.add(std::span(buffer).first(count));
    left -= count;
  }
  std::uint32_t stored = 0;
  if (!source.read(&stored, sizeof stored)) return ended_early(name);
  if (stored == sum.value()) return {};
  return malformed_state(name, "the checksum does not fit: the file is damaged");
}

inline result<void> check_state_size(std::uint64_t size, std::string_view name) {
  constexpr std::uint64_t least = sizeof(state_header) + state_checksum_bytes;
  if (size >= least) return {};
  return malformed_state(
      name, "has " + std::to_string(size) + " bytes, fewer than " + std::to_string(least));
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
