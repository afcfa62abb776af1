// SPDX-License-Identifier: MIT
/// Errors: a code, the argument at fault, and the sizes that do not fit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace kvfit {

/// What was wrong. Every code is about the caller's input or the machine's means; numerical trouble
/// is no error but a status in the report, beside the best answer.
enum class errc : std::uint8_t {
  shape_mismatch,       ///< two arguments disagree in a size: `actual` against `expected`
  empty_input,          ///< an argument has no rows or no columns
  null_data,            ///< an argument has rows but no memory
  non_finite,           ///< NaN or infinity at row `actual`, column `expected`
  budget_out_of_range,  ///< budget `actual`, limit `expected`
  invalid_option,       ///< an option outside its documented range: `actual`, limit `expected`
  invalid_position,     ///< a row number that is out of range, repeated or out of order
  all_masked,           ///< no key is visible to query `actual`, of `expected`
  storage_overflow,  ///< a result does not fit its storage type, at row `actual`, column `expected`
  memory_cap_exceeded,   ///< needs `actual` bytes, the caller allows `expected`
  out_of_memory,         ///< an allocation failed
  file_unreadable,       ///< the file can't be opened or read
  file_unwritable,       ///< the file can't be created or written
  malformed_file,        ///< the file breaks its format; `detail` says where
  unsupported_file,      ///< a well-formed file of another version or with types not handled here
  missing_entry,         ///< the file lacks a tensor or metadata entry that is needed
  cancelled,             ///< the caller asked to stop
  policy_threw,          ///< a caller's own policy threw on one of several machines
  communication_failed,  ///< machines could not talk: the library's own code is `actual`
};

/// The code's name, as written above.
constexpr std::string_view name(errc code) noexcept {
  constexpr std::array<std::string_view, 19> names = {
      "shape_mismatch",       "empty_input",         "null_data",
      "non_finite",           "budget_out_of_range", "invalid_option",
      "invalid_position",     "all_masked",          "storage_overflow",
      "memory_cap_exceeded",  "out_of_memory",       "file_unreadable",
      "file_unwritable",      "malformed_file",      "unsupported_file",
      "missing_entry",        "cancelled",           "policy_threw",
      "communication_failed",
  };
  const auto at = static_cast<std::size_t>(code);
  return at < names.size() ? names[at] : "unknown";
}

/// One error, compared by code: `fitted.error().code == kvfit::errc::non_finite`.
struct error {
  /// Marks a size that does not apply.
  static constexpr std::int64_t none = std::numeric_limits<std::int64_t>::min();

  errc code = errc::invalid_option;
  /// Which argument, tensor or file.
  std::string argument = {};
  /// The size or place found; its meaning stands beside each code.
  std::int64_t actual = none;
  /// The size or limit it was held against.
  std::int64_t expected = none;
  /// One more sentence where the sizes do not say it all.
  std::string detail = {};

  /// "shape_mismatch: values: 12, expected 16 (rows must equal the keys')".
  [[nodiscard]] std::string message() const {
    std::string text{name(code)};
    if (!argument.empty()) text += ": " + argument;
    if (actual != none) text += ": " + std::to_string(actual);
    if (expected != none) text += std::string(link()) + std::to_string(expected);
    if (!detail.empty()) text += " (" + detail + ")";
    return text;
  }

 private:
  /// What stands between the two sizes.
  [[nodiscard]] constexpr std::string_view link() const noexcept {
    switch (code) {
      case errc::non_finite:
      case errc::storage_overflow:
        return ", column ";
      case errc::all_masked:
      case errc::cancelled:
        return ", of ";
      case errc::budget_out_of_range:
      case errc::invalid_option:
        return ", limit ";
      default:
        return ", expected ";
    }
  }
};

}  // namespace kvfit
