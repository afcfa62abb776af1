// SPDX-License-Identifier: MIT
/// Bytes of so many numbers, for saying beforehand what a computation holds.
#pragma once

#include <algorithm>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

// In double: the sizes asked about need not exist, and no product of them overflows.

/// Bytes of a × b × … fp32 numbers.
template <class... Sizes>
constexpr double float_bytes(Sizes... sizes) noexcept {
  return (4.0 * ... * static_cast<double>(sizes));
}

/// Bytes of a × b × … numbers of eight bytes: doubles, indices.
template <class... Sizes>
constexpr double double_bytes(Sizes... sizes) noexcept {
  return (8.0 * ... * static_cast<double>(sizes));
}

/// What a vector holds at most while it grows to `bytes` one element at a time: for a moment the
/// old memory beside the new, which is twice as large.
constexpr double grown_bytes(double bytes) noexcept {
  return 3 * bytes;
}

/// For what is small in a call, and for what an allocator adds to every block.
inline constexpr double small_bytes = 32768;

/// So many bytes as a whole number: the largest there is, nearly, where they are more.
constexpr index_t whole_bytes(double bytes) noexcept {
  return static_cast<index_t>((std::min)(bytes, 9e18));
}

/// a · b for two counts ≥ 0, or as good as infinite: what sizes that never were may not overflow.
constexpr index_t many_times(index_t a, index_t b) noexcept {
  constexpr index_t largest = index_t{1} << 60;
  return a == 0 || b <= largest / a ? a * b : largest;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
