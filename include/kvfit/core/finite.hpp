// SPDX-License-Identifier: MIT
/// Tells numbers from NaN and infinity.
#pragma once

#include <bit>
#include <cstdint>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Exponent all ones is NaN or infinity. By bits, whatever -ffast-math says.
inline bool is_finite(float x) noexcept {
  return (std::bit_cast<std::uint32_t>(x) & 0x7F800000U) != 0x7F800000U;
}

/// The first non-finite element, or `count`. The inner loop has no branch and a length that the
/// compiler knows: without the latter g++ vectorises from -O3 on alone.
inline index_t first_non_finite(const float* x, index_t count) noexcept {
  constexpr index_t block = 32;
  index_t start = 0;
  for (; start + block <= count; start += block) {
    std::uint32_t bad = 0;
    for (index_t j = 0; j < block; ++j) {  // an exponent of all ones, and no other, carries over
      bad |= (std::bit_cast<std::uint32_t>(x[start + j]) & 0x7F800000U) + 0x00800000U;
    }
    if ((bad & 0x80000000U) != 0) break;
  }
  for (; start < count; ++start) {
    if (!is_finite(x[start])) break;
  }
  return start;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
