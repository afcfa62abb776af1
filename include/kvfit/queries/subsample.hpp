// SPDX-License-Identifier: MIT
/// Which rows are kept where there are more than the budget: evenly, or at random.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/random.hpp"

namespace kvfit {

/// Which of the rows obtained are kept.
enum class sampling : std::uint8_t {
  stride,     ///< as even as whole numbers can be, from the first row to the last
  reservoir,  ///< every set of rows as likely as any other (Vitter 1985, algorithm R)
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// min(keep, rows) of the rows 0 … rows − 1, ascending and distinct; rows, keep ≥ 0.
///
/// By stride, row k of n is round(k (rows − 1) / (n − 1)): gaps differ by one at most, and both the
/// first row and the last are among them (of one row alone: the last, which has seen most). The
/// seed is the reservoir's. Cost: O(keep), or one draw a row beyond `keep`; 8 bytes a row kept.
[[nodiscard]] inline std::vector<index_t> sample_rows(index_t rows, index_t keep, sampling how,
                                                      std::uint64_t seed) {
  const index_t count = std::clamp<index_t>(keep, 0, std::max<index_t>(rows, 0));
  std::vector<index_t> kept(static_cast<std::size_t>(count));
  if (how == sampling::stride && count < rows) {
    // (k · quotient) + (k · remainder) / gaps, so that no product needs more than 64 bits.
    const index_t gaps = std::max<index_t>(count - 1, 1);
    const index_t quotient = (rows - 1) / gaps;
    const index_t remainder = (rows - 1) % gaps;
    for (index_t k = 0; k < count; ++k) {
      const index_t part = (2 * k * remainder + gaps) / (2 * gaps);
      kept[static_cast<std::size_t>(k)] = k * quotient + part;
    }
    if (count == 1) kept.front() = rows - 1;
    return kept;
  }
  for (index_t k = 0; k < count; ++k) kept[static_cast<std::size_t>(k)] = k;
  if (count == rows || count == 0) return kept;
  random_source random(random_source(seed).next());
  for (index_t i = count; i < rows; ++i) {
    const auto place = random.below(static_cast<std::uint64_t>(i) + 1);
    if (place < static_cast<std::uint64_t>(count)) kept[static_cast<std::size_t>(place)] = i;
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
