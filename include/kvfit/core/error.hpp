// SPDX-License-Identifier: MIT
/// Errors: a code, the argument at fault, and the sizes that do not fit.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "kvfit/core/config.hpp"

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
  invalid_position,     ///< a row number out of range, repeated or out of order, limit `expected`
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
  untied_values,   ///< a value is not the number of its key that it should be: row `actual`, column
                   ///< `expected` of the values
  no_device,       ///< the system offers no GPU that kvfit can use
  shader_failed,   ///< a shader does not compile, or the GPU can't run it; `detail` says why
  device_fault,    ///< the GPU ended work with a fault: the system's own code is `actual`
  device_timeout,  ///< work of the GPU took longer than the system, or the caller, waits for
};

/// The code's name, as written above; "unknown" for a number that is none.
constexpr std::string_view name(errc code) noexcept {
  switch (code) {  // without a default, so that a compiler tells of a code without a name
    case errc::shape_mismatch:
      return "shape_mismatch";
    case errc::empty_input:
      return "empty_input";
    case errc::null_data:
      return "null_data";
    case errc::non_finite:
      return "non_finite";
    case errc::budget_out_of_range:
      return "budget_out_of_range";
    case errc::invalid_option:
      return "invalid_option";
    case errc::invalid_position:
      return "invalid_position";
    case errc::all_masked:
      return "all_masked";
    case errc::storage_overflow:
      return "storage_overflow";
    case errc::memory_cap_exceeded:
      return "memory_cap_exceeded";
    case errc::out_of_memory:
      return "out_of_memory";
    case errc::file_unreadable:
      return "file_unreadable";
    case errc::file_unwritable:
      return "file_unwritable";
    case errc::malformed_file:
      return "malformed_file";
    case errc::unsupported_file:
      return "unsupported_file";
    case errc::missing_entry:
      return "missing_entry";
    case errc::cancelled:
      return "cancelled";
    case errc::policy_threw:
      return "policy_threw";
    case errc::communication_failed:
      return "communication_failed";
    case errc::untied_values:
      return "untied_values";
    case errc::no_device:
      return "no_device";
    case errc::shader_failed:
      return "shader_failed";
    case errc::device_fault:
      return "device_fault";
    case errc::device_timeout:
      return "device_timeout";
  }
  return "unknown";
}

/// Whether a number, of a file say, is that of a code.
constexpr bool is_errc(std::uint8_t number) noexcept {
  return name(static_cast<errc>(number)) != "unknown";
}

struct error;

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

void set_error(error& to, errc code, std::string_view argument, std::int64_t actual,
               std::int64_t expected, std::string_view detail);
void copy_error(error& to, const error& from);

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {

/// One error, compared by code: `fitted.error().code == kvfit::errc::non_finite`.
struct error {
  /// Marks a size that does not apply.
  static constexpr std::int64_t none = (std::numeric_limits<std::int64_t>::min)();

  errc code = errc::invalid_option;
  /// Which argument, tensor or file.
  std::string argument;
  /// The size or place found; its meaning stands beside each code.
  std::int64_t actual = none;
  /// The size or limit it was compared with.
  std::int64_t expected = none;
  /// One more sentence where the sizes do not say it all.
  std::string detail;

  error() = default;
  // Always inlined: files compiled for other instruction sets must not share a copy.
  // NOLINTNEXTLINE(google-explicit-constructor): a code is an error
  [[gnu::always_inline]] error(errc what, std::string_view which = {}, std::int64_t found = none,
                               std::int64_t wanted = none, std::string_view sentence = {}) {
    kvfit::detail::set_error(*this, what, which, found, wanted, sentence);
  }
  [[gnu::always_inline]] error(const error& other) { kvfit::detail::copy_error(*this, other); }
  error(error&&) = default;
  error& operator=(const error&) = default;
  error& operator=(error&&) = default;
  ~error() = default;

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
      case errc::untied_values:
        return ", column ";
      case errc::all_masked:
      case errc::cancelled:
        return ", of ";
      case errc::budget_out_of_range:
      case errc::invalid_option:
      case errc::invalid_position:
        return ", limit ";
      case errc::memory_cap_exceeded:
        return ", allowed ";
      default:
        return ", expected ";
    }
  }
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

// Not inlined: errors are made at hundreds of places, and none of them is hot.
[[gnu::noinline, gnu::cold]] inline void set_error(error& to, errc code, std::string_view argument,
                                                   std::int64_t actual, std::int64_t expected,
                                                   std::string_view detail) {
  to.code = code;
  to.argument = argument;
  to.actual = actual;
  to.expected = expected;
  to.detail = detail;
}

[[gnu::noinline, gnu::cold]] inline void copy_error(error& to, const error& from) {
  set_error(to, from.code, from.argument, from.actual, from.expected, from.detail);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
