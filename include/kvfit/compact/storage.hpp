// SPDX-License-Identifier: MIT
/// Rounding results to the types they will be stored in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include "kvfit/compact/stage_values.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rounds to a storage type, in place; `storage_overflow` at the first number that does not fit.
template <class Numbers>
result<void> round_to_storage(Numbers& numbers, dtype type, const char* argument) {
  if (type == dtype::fp32) return {};
  for (index_t i = 0; i < numbers.rows(); ++i) {
    for (index_t j = 0; j < numbers.cols(); ++j) {
      float& x = numbers(i, j);
      const float stored = as_stored(x, type);
      if (!is_finite(stored)) {
        return error{errc::storage_overflow, argument, i, j, "exceeds " + std::string(name(type))};
      }
      x = stored;
    }
  }
  return {};
}

/// How many of the ascending `rows` are below `row`.
inline index_t count_below(std::span<const index_t> rows, index_t row) noexcept {
  return std::lower_bound(rows.begin(), rows.end(), row) - rows.begin();
}

/// The same for numbers of the rows `positions` of `of.cache`; the error's place is that in the
/// whole result.
template <class Numbers>
result<void> round_rows(const stages::problem& of, std::span<const index_t> positions,
                        Numbers& numbers, dtype type, const char* argument) {
  const auto ok = round_to_storage(numbers, type, argument);
  if (ok) return ok;
  error cause = ok.error();
  const index_t row = of.first_row + positions[static_cast<std::size_t>(cause.actual)];
  cause.actual += count_below(of.exact, row);
  return cause;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
