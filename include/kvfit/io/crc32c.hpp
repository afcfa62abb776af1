// SPDX-License-Identifier: MIT
/// CRC-32C, the checksum of state files: finds every single flipped bit and every burst of up to 32
/// bits, and of other damage all but one in 2³². It guards against accidents, not against forgery.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kvfit/core/config.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// tables[k][b]: what byte b does to the remainder when k more bytes of zeros follow. Castagnoli's
/// polynomial 0x1EDC6F41, bits reflected (RFC 3720, 12.1).
constexpr std::array<std::array<std::uint32_t, 256>, 8> make_crc32c_tables() noexcept {
  constexpr std::uint32_t reflected = 0x82F63B78U;
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1U) ^ ((remainder & 1U) != 0 ? reflected : 0U);
    }
    tables[0][byte] = remainder;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8U) ^ tables[0][before & 0xFFU];
    }
  }
  return tables;
}

inline constexpr auto crc32c_tables = make_crc32c_tables();

}  // namespace io_detail

/// The CRC-32C of bytes that come in pieces.
///
///     crc32c sum;
///     sum.add(header);
///     sum.add(data);
///     store(sum.value());
///
/// Cost: eight bytes a step through 8 KB of tables. No allocation.
class crc32c {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    const auto& table = io_detail::crc32c_tables;
    std::uint32_t remainder = remainder_;
    while (bytes.size() >= 8) {
      std::array<std::uint8_t, 8> next{};
      std::memcpy(next.data(), bytes.data(), next.size());
      for (std::uint32_t k = 0; k < 4; ++k) {
        next[k] = static_cast<std::uint8_t>(next[k] ^ (remainder >> (8U * k)));
      }
      remainder = 0;
      for (std::size_t k = 0; k < 8; ++k) remainder ^= table[7 - k][next[k]];
      bytes = bytes.subspan(8);
    }
    for (const std::byte byte : bytes) {
      remainder =
          (remainder >> 8U) ^ table[0][(remainder ^ static_cast<std::uint32_t>(byte)) & 0xFFU];
    }
    remainder_ = remainder;
  }

  /// Of all bytes so far.
  [[nodiscard]] std::uint32_t value() const noexcept { return ~remainder_; }

 private:
  std::uint32_t remainder_ = 0xFFFFFFFFU;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
