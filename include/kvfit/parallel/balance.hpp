// SPDX-License-Identifier: MIT
/// Items of unequal work, dealt out to parts that are to end at the same time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The part, 0 … parts − 1, that each item goes to: items in falling order of work, each to the
/// part with the least so far (Graham 1969, longest processing time first: no part gets more than
/// 4/3 − 1/(3 · parts) times what the best division gives its largest). Ties: the earlier item, the
/// lower part. work: ≥ 0, no NaN; parts ≥ 1. Same input, same parts. Cost: O(items · parts).
[[nodiscard]] inline std::vector<int> balance(std::span<const double> work, int parts) {
  std::vector<std::size_t> order(work.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return work[a] > work[b]; });
  std::vector<double> load(static_cast<std::size_t>(parts));
  std::vector<int> part(work.size());
  for (const std::size_t item : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += work[item];
    part[item] = static_cast<int>(least - load.begin());
  }
  return part;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
