// SPDX-License-Identifier: MIT
/// Policies that say what share of all rows each head deserves.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/heads.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::budgets {

/// The same ratio T_h / t_h in every head: shares p_h = T_h, so equal rows where lengths are equal.
struct uniform {};

/// Shares that fall linearly from the first layer to the last:
///
///     p_h = T_h · ((2 − a) − (2 − 2a) · l / (L − 1)),   a = last_share,
///
/// l = 0 … L − 1 the place of the head's layer among those given; a single layer is uniform. The
/// factors average 1 over layers: with the default, 39/20 of the average first and 1/20 last.
struct pyramid {
  /// a in [0, 2]: the last layer's part of the average; above 1 later layers get more.
  double last_share = 0.05;
};

/// What becomes of a head that no share was given for.
enum class missing_share : std::uint8_t {
  refused,  ///< `missing_entry`
  mean,     ///< it gets the mean of the shares given
};

/// Shares per head, as measured or published (`io/budgets_file.hpp` reads them from a file).
struct given {
  std::vector<head_share> shares;  ///< in any order, each head once
  missing_share missing = missing_share::refused;
};

}  // namespace kvfit::budgets

namespace kvfit::budgets {
inline namespace KVFIT_ISA {

/// The share of each head, in the order of `heads`; in no unit, only ratios matter. All policies'
/// errors: those of `check_heads`, `out_of_memory`. Cost: O(H log H), some 24 bytes a head.
[[nodiscard]] inline result<std::vector<double>> shares_of(const uniform&,
                                                           std::span<const head_rows> heads) {
  if (auto ok = check_heads(heads); !ok) return ok.error();
  return kvfit::detail::catch_bad_alloc("shares_of", [&]() -> result<std::vector<double>> {
    std::vector<double> shares;
    shares.reserve(heads.size());
    for (const head_rows& h : heads) shares.push_back(static_cast<double>(h.rows));
    return shares;
  });
}

/// Errors besides: `invalid_option` for `last_share` out of range.
[[nodiscard]] inline result<std::vector<double>> shares_of(const pyramid& policy,
                                                           std::span<const head_rows> heads) {
  if (auto ok = check_heads(heads); !ok) return ok.error();
  const double last = policy.last_share;
  if (!(last >= 0 && last <= 2)) {
    return kvfit::detail::refuse_number("last_share", last, "must be in [0, 2]");
  }
  return kvfit::detail::catch_bad_alloc("shares_of", [&]() -> result<std::vector<double>> {
    std::vector<index_t> layers;
    layers.reserve(heads.size());
    for (const head_rows& h : heads) layers.push_back(h.id.layer);
    std::sort(layers.begin(), layers.end());
    layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
    std::vector<double> shares;
    shares.reserve(heads.size());
    for (const head_rows& h : heads) {
      const auto at = std::lower_bound(layers.begin(), layers.end(), h.id.layer) - layers.begin();
      const double depth = layers.size() > 1
                               ? static_cast<double>(at) / static_cast<double>(layers.size() - 1)
                               : 0.5;
      // Written so that both ends are exact, and no rounding makes a share negative.
      const double factor = (2 - last) * (1 - depth) + last * depth;
      shares.push_back(factor * static_cast<double>(h.rows));
    }
    return shares;
  });
}

/// Errors besides: `empty_input` for no share; `invalid_option` for a share that is negative or not
/// finite, a head that stands twice or that is not among `heads`; `missing_entry` for a head
/// without a share, unless told otherwise. All are named in `detail`.
[[nodiscard]] inline result<std::vector<double>> shares_of(const given& policy,
                                                           std::span<const head_rows> heads) {
  if (auto ok = check_heads(heads); !ok) return ok.error();
  if (policy.shares.empty()) return error{errc::empty_input, "shares", 0, error::none, {}};
  return kvfit::detail::catch_bad_alloc("shares_of", [&]() -> result<std::vector<double>> {
    const auto refuse = [](const head_share& s, const char* what) {
      return error{errc::invalid_option, "shares", error::none, error::none, name(s.id) + what};
    };
    std::vector<head_share> sorted = policy.shares;
    const auto by_id = [](const head_share& a, const head_share& b) { return a.id < b.id; };
    std::sort(sorted.begin(), sorted.end(), by_id);
    double mean = 0;
    for (std::size_t i = 0; i < sorted.size(); ++i) {
      const double share = sorted[i].share;
      if (!(share >= 0 && std::isfinite(share))) {
        return kvfit::detail::refuse_number(
            "shares", share, name(sorted[i].id) + ": its share must be finite and not negative");
      }
      if (i > 0 && sorted[i - 1].id == sorted[i].id) return refuse(sorted[i], " stands twice");
      mean += share / static_cast<double>(sorted.size());
    }

    std::vector<double> shares;
    shares.reserve(heads.size());
    std::size_t found = 0;
    for (const head_rows& h : heads) {
      const auto at = std::lower_bound(sorted.begin(), sorted.end(), head_share{h.id, 0}, by_id);
      if (at != sorted.end() && at->id == h.id) {
        shares.push_back(at->share);
        ++found;
      } else if (policy.missing == missing_share::mean) {
        shares.push_back(mean);
      } else {
        return error{errc::missing_entry, "shares", error::none, error::none,
                     name(h.id) + " has no share"};
      }
    }
    if (found == sorted.size()) return shares;
    const auto stranger = std::find_if(sorted.begin(), sorted.end(), [&](const head_share& s) {
      return std::none_of(heads.begin(), heads.end(),
                          [&](const head_rows& h) { return h.id == s.id; });
    });
    return refuse(*stranger, " is no head of this cache");
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::budgets
