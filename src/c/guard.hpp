// SPDX-License-Identifier: MIT
// No exception leaves the library, and every error is filled in one way.
#pragma once

#include <kvfit/c/kvfit.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <kvfit/core/result.hpp>
#include <new>
#include <string_view>
#include <utility>

namespace kvfit_c {

// Codes of C are those of C++, counted from 1.
constexpr int32_t code_of(kvfit::errc code) noexcept {
  return static_cast<int32_t>(code) + 1;
}

void fill(kvfit_error* to, int32_t code, int64_t actual, int64_t expected,
          std::string_view argument, std::string_view message) noexcept;

// Fills `to` where there is one, and returns the code.
int32_t fail(kvfit_error* to, const kvfit::error& cause) noexcept;

// Runs `body`, which returns kvfit::result<void>.
template <class Body>
int32_t guarded(kvfit_error* to, Body&& body) noexcept {
  try {
    const kvfit::result<void> ok = body();
    return ok ? static_cast<int32_t>(KVFIT_OK) : fail(to, ok.error());
  } catch (const std::bad_alloc&) {
    fill(to, KVFIT_OUT_OF_MEMORY, KVFIT_NO_SIZE, KVFIT_NO_SIZE, {}, "out_of_memory");
    return KVFIT_OUT_OF_MEMORY;
  } catch (const std::exception& cause) {
    fill(to, KVFIT_UNEXPECTED, KVFIT_NO_SIZE, KVFIT_NO_SIZE, {}, cause.what());
  } catch (...) {
    fill(to, KVFIT_UNEXPECTED, KVFIT_NO_SIZE, KVFIT_NO_SIZE, {}, "unexpected");
  }
  return KVFIT_UNEXPECTED;
}

// `null_data` for an argument that must be there.
kvfit::result<void> need(const void* pointer, const char* argument);

}  // namespace kvfit_c
