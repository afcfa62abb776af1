// SPDX-License-Identifier: MIT
/// An error as bytes of a fixed number, to be sent to another process of the same program.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "kvfit/core/config.hpp"
#include "kvfit/core/error.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Up to `Bytes` bytes of a text. What is longer is cut, between two characters of UTF-8.
template <std::size_t Bytes>
struct sent_text {
  std::array<char, Bytes> bytes = {};
  std::uint32_t count = 0;

  sent_text() = default;
  explicit sent_text(std::string_view text) noexcept {
    std::size_t end = (std::min)(text.size(), Bytes);
    if (end < text.size()) {
      const auto is_within = [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
      };
      while (end > 0 && is_within(text[end])) --end;
    }
    std::copy_n(text.begin(), end, bytes.begin());
    count = static_cast<std::uint32_t>(end);
  }

  [[nodiscard]] std::string text() const { return {bytes.data(), count}; }
};

/// An error whose texts have a limit, so that it can be received without an allocation that fails.
struct wire_error {
  std::int64_t actual = error::none;
  std::int64_t expected = error::none;
  errc code = errc::invalid_option;
  sent_text<251> argument;
  sent_text<508> detail;

  wire_error() = default;
  explicit wire_error(const error& cause) noexcept
      : actual(cause.actual),
        expected(cause.expected),
        code(cause.code),
        argument(cause.argument),
        detail(cause.detail) {}

  [[nodiscard]] error received() const {
    return {code, argument.text(), actual, expected, detail.text()};
  }
};

static_assert(std::is_trivially_copyable_v<wire_error>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
