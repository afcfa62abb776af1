// SPDX-License-Identifier: MIT
/// The fewest and the most rows that a head may be given.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/heads.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// Limits that hold for every head of a cache.
struct head_limits {
  /// Rows that each head gets at least, ≥ 0; a shorter head gets all it has.
  index_t at_least = 1;
  /// Share of its own rows that a head gets at most, in (0, 1]: c of arXiv:2602.16284, whose
  /// experiments use 0.75. Where `at_least` asks for more, that wins.
  double max_ratio = 1;
};

/// The limits of one head: 0 ≤ least ≤ most.
struct row_bounds {
  index_t least = 0;
  index_t most = 0;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// The bounds of each head, in the order of `heads`:
///
///     least_h = min(at_least, T_h),   most_h = max(least_h, ⌊max_ratio · T_h⌋) ≤ T_h
///
/// A head that needs other bounds, such as protected rows, may have them changed in the result.
/// Errors: those of `check_heads`; `invalid_option`. Cost: O(H log H), 32 bytes a head.
[[nodiscard]] inline result<std::vector<row_bounds>> bounds_of(std::span<const head_rows> heads,
                                                               const head_limits& limits = {}) {
  if (auto ok = check_heads(heads); !ok) return ok.error();
  if (limits.at_least < 0) {
    return error{errc::invalid_option, "at_least", limits.at_least, 0, "must not be negative"};
  }
  if (!(limits.max_ratio > 0 && limits.max_ratio <= 1)) {
    return detail::refuse_number("max_ratio", limits.max_ratio, "must be in (0, 1]");
  }
  return detail::catch_bad_alloc("bounds_of", [&]() -> result<std::vector<row_bounds>> {
    std::vector<row_bounds> bounds;
    bounds.reserve(heads.size());
    for (const head_rows& h : heads) {
      const index_t least = (std::min)(limits.at_least, h.rows);
      // At a ratio of 1 a length beyond 53 bits must not be rounded on its way through a double.
      const index_t cap =
          limits.max_ratio < 1
              ? static_cast<index_t>(std::floor(limits.max_ratio * static_cast<double>(h.rows)))
              : h.rows;
      bounds.push_back({least, std::clamp(cap, least, h.rows)});
    }
    return bounds;
  });
}

/// Whether some allocation within `bounds` has `total` rows: Σ least ≤ total ≤ Σ most.
///
/// Errors: `budget_out_of_range` with `total` and the sum it breaks; `empty_input`;
/// `invalid_option` with the place of bounds that are negative or crossed. Cost: O(H).
[[nodiscard]] inline result<void> check_total(std::span<const row_bounds> bounds, index_t total) {
  if (bounds.empty()) return error{errc::empty_input, "bounds", 0, error::none, {}};
  index_t least = 0;
  index_t most = 0;
  for (std::size_t h = 0; h < bounds.size(); ++h) {
    const auto [low, high] = bounds[h];
    if (low < 0 || high < low) {
      return error{errc::invalid_option, "bounds", low, high,
                   "of head number " + std::to_string(h) + ": need 0 <= least <= most"};
    }
    if (high > (std::numeric_limits<index_t>::max)() - most) {
      return error{errc::budget_out_of_range, "bounds", high,
                   (std::numeric_limits<index_t>::max)() - most, "their sum exceeds 63 bits"};
    }
    least += low;
    most += high;
  }
  if (total < least) {
    return error{errc::budget_out_of_range, "total", total, least,
                 "the fewest rows of all heads need more"};
  }
  if (total > most) {
    return error{errc::budget_out_of_range, "total", total, most,
                 "the most rows of all heads hold less"};
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
