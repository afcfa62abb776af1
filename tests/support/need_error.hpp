// SPDX-License-Identifier: MIT
/// Checks of an error by its code and argument.
#pragma once

#include <string>
#include <string_view>

#include "kvfit/core/error.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

/// `found` must be an error of this code and argument; returns its detail.
template <class Result>
std::string need_error(const Result& found, kvfit::errc code, std::string_view argument) {
  REQUIRE_FALSE(found);
  INFO(found.error().message());
  CHECK(found.error().code == code);
  CHECK(found.error().argument == argument);
  return found.error().detail;
}

inline bool holds(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace kvfit_test
