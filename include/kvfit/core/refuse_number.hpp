// SPDX-License-Identifier: MIT
/// Errors about options that are real numbers: the rule, and the number that breaks it.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>

#include "kvfit/core/error.hpp"

namespace kvfit::detail {

/// `x` with the fewest digits that give it back: "0.1", "1e-40", "-inf", "nan".
template <class T>
[[nodiscard]] std::string number_text(T x) {
  static_assert(std::is_floating_point_v<T>);
  if (std::isnan(x)) return "nan";  // whatever its sign
  std::array<char, 64> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), x);
  return {text.data(), written.ptr};
}

/// `invalid_option: argument (rule, is x)`. `error::actual` is whole and can't hold such a number.
template <class T>
[[nodiscard]] error refuse_number(std::string argument, T x, std::string rule) {
  return {errc::invalid_option, std::move(argument), error::none, error::none,
          std::move(rule) + ", is " + number_text(x)};
}

}  // namespace kvfit::detail
