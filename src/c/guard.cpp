// SPDX-License-Identifier: MIT
#include "guard.hpp"

#include <array>
#include <iterator>

namespace kvfit_c {

namespace {

// Cut to what `to` holds, at the beginning of a UTF-8 character.
template <std::size_t Size>
void copy_text(char (&to)[Size], std::string_view text) noexcept {  // NOLINT(*-avoid-c-arrays)
  std::size_t length = (std::min)(text.size(), Size - 1);
  if (length < text.size()) {
    while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0U) == 0x80U) --length;
  }
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

}  // namespace

void fill(kvfit_error* to, int32_t code, int64_t actual, int64_t expected,
          std::string_view argument, std::string_view message) noexcept {
  if (to == nullptr) return;
  kvfit_error filled{};
  filled.code = code;
  filled.actual = actual;
  filled.expected = expected;
  copy_text(filled.argument, argument);
  copy_text(filled.message, message);
  // As much as the caller's struct holds.
  const std::size_t size = (std::min)(to->struct_size, sizeof filled);
  if (size <= sizeof to->struct_size) return;
  filled.struct_size = to->struct_size;
  std::memcpy(to, &filled, size);
}

int32_t fail(kvfit_error* to, const kvfit::error& cause) noexcept {
  try {
    fill(to, code_of(cause.code), cause.actual, cause.expected, cause.argument, cause.message());
  } catch (...) {  // no memory for the sentence
    fill(to, code_of(cause.code), cause.actual, cause.expected, cause.argument,
         kvfit::name(cause.code));
  }
  return code_of(cause.code);
}

kvfit::result<void> need(const void* pointer, const char* argument) {
  if (pointer != nullptr) return {};
  return kvfit::error{kvfit::errc::null_data, argument};
}

}  // namespace kvfit_c

extern "C" {

const char* kvfit_code_name(int32_t code) {
  if (code == KVFIT_OK) return "ok";
  if (code == KVFIT_UNEXPECTED) return "unexpected";
  if (code < 1 || code > 255 || !kvfit::is_errc(static_cast<std::uint8_t>(code - 1))) {
    return "unknown";
  }
  return kvfit::name(static_cast<kvfit::errc>(code - 1)).data();  // of a literal: it ends with 0
}

}  // extern "C"
