// SPDX-License-Identifier: MIT
/// Which part of the work of `selection::joint` is a search, and among how many keys it looks.
#pragma once

#include <algorithm>
#include <cmath>

#include "kvfit/core/index.hpp"
#include "kvfit/selection/policies.hpp"

namespace kvfit::detail {

/// How many rows are chosen by attention alone.
inline index_t rows_by_attention(const selection::joint& policy, index_t budget) noexcept {
  return static_cast<index_t>(std::floor(policy.attention_share * static_cast<double>(budget)));
}

/// The search looks among as many keys at least: among fewer it takes little time.
inline constexpr index_t least_candidates = 2048;

/// How many keys the search looks among; all of them where that saves little.
inline index_t search_candidates(const selection::joint& policy, index_t keys,
                                 index_t budget) noexcept {
  const index_t searched = budget - rows_by_attention(policy, budget);
  const double wanted =
      (std::max)(static_cast<double>(policy.candidates) * static_cast<double>(searched),
                 static_cast<double>(least_candidates));
  const bool narrows = policy.candidates > 0 && wanted < 0.75 * static_cast<double>(keys);
  return narrows ? static_cast<index_t>(wanted) : keys;
}

/// Whether the search reads the columns of all keys. Else it makes those that it looks among, and
/// exponentials that a score pass kept would be of little use.
inline bool searches_all_keys(const selection::joint& policy, index_t keys,
                              index_t budget) noexcept {
  return policy.attention_share < 1 && search_candidates(policy, keys, budget) == keys;
}

}  // namespace kvfit::detail
