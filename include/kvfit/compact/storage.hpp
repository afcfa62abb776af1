// SPDX-License-Identifier: MIT
/// Rounding results to the types they will be stored in.
#pragma once

#include <string>

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

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
