// SPDX-License-Identifier: MIT
/// How many rows each source of a mixture is asked for, and how many of them are kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Refuses fractions that are no parts of a whole: `empty_input` for none, `invalid_option` for one
/// outside (0, 1] (`actual` says which) or a sum above 1 (within 1e-9).
[[nodiscard]] inline result<void> check_fractions(std::span<const double> fractions) {
  if (fractions.empty()) return error{errc::empty_input, "sources", 0, error::none, {}};
  double sum = 0;
  for (std::size_t i = 0; i < fractions.size(); ++i) {
    if (!(fractions[i] > 0 && fractions[i] <= 1)) {
      return error{errc::invalid_option, "fraction", static_cast<index_t>(i), error::none,
                   "the fraction at this place must be above 0 and at most 1, is " +
                       kvfit::detail::number_text(fractions[i])};
    }
    sum += fractions[i];
  }
  if (sum > 1 + 1e-9) {
    return kvfit::detail::refuse_number("fraction", sum, "the sum of all must be at most 1");
  }
  return {};
}

/// Rows asked of each source: ⌊total · fraction⌋. `budget_out_of_range` (total, the least that
/// would do) where a source would get none. Fractions as `check_fractions` lets pass.
[[nodiscard]] inline result<std::vector<index_t>> rows_asked(index_t total,
                                                             std::span<const double> fractions) {
  std::vector<index_t> asked;
  for (const double fraction : fractions) {
    // 100 · 0.29 is a hair below 29: what is meant is 29.
    asked.push_back(static_cast<index_t>(std::floor(static_cast<double>(total) * fraction + 1e-9)));
    if (asked.back() < 1) {
      return error{errc::budget_out_of_range, "budget", total,
                   static_cast<index_t>(std::ceil(1 / fraction - 1e-9)),
                   "rows a query head; a source would get none"};
    }
  }
  return asked;
}

/// Rows kept of each source: with γ = min over sources of obtained / asked, at most 1,
/// ⌊asked · γ⌋ of each, so that parts stay what they were asked to be (arXiv:2602.16284, reference
/// queries); never less than one. Computed in whole numbers. obtained ≥ 1 of each source.
[[nodiscard]] inline std::vector<index_t> rows_kept(std::span<const index_t> asked,
                                                    std::span<const index_t> obtained) {
  // γ as a quotient of whole numbers; compared in long double, which holds the products of sizes
  // that fit memory.
  index_t have = 1;
  index_t of = 1;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto left = static_cast<long double>(obtained[i]) * static_cast<long double>(of);
    const auto right = static_cast<long double>(have) * static_cast<long double>(asked[i]);
    if (left < right) {
      have = obtained[i];
      of = asked[i];
    }
  }
  std::vector<index_t> kept;
  for (const index_t rows : asked) {
    // rows · have / of without a product beyond 64 bits: have ≤ of.
    const index_t whole = rows / of * have;
    const auto rest = static_cast<long double>(rows % of) * static_cast<long double>(have);
    const auto part = static_cast<index_t>(std::floor(rest / static_cast<long double>(of)));
    kept.push_back(std::max<index_t>(whole + part, 1));
  }
  return kept;
}

/// Rows kept of each source where none is cut for another's sake: min(asked, obtained).
[[nodiscard]] inline std::vector<index_t> rows_there(std::span<const index_t> asked,
                                                     std::span<const index_t> obtained) {
  std::vector<index_t> kept;
  for (std::size_t i = 0; i < asked.size(); ++i) kept.push_back((std::min)(asked[i], obtained[i]));
  return kept;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
