// SPDX-License-Identifier: MIT
/// Shares to whole rows: within bounds, and with an exact sum.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// One head while rows are shared out.
struct claim {
  double weight = 0;
  row_bounds bounds;
  std::size_t place = 0;  ///< in the caller's list
  double rows = 0;        ///< its part, before rounding
};

/// Sets `rows` of each claim to clamp(λ · weight, least, most) with λ ≥ 0 such that they add up to
/// `target`. Weights are positive, a sum within the bounds is possible.
inline void raise_level(std::span<claim> claims, index_t target) {
  if (claims.empty()) return;
  // Sums run in an order of the claims' own, so that the caller's order can't change them.
  std::sort(claims.begin(), claims.end(), [](const claim& a, const claim& b) {
    return std::tuple(a.weight, a.bounds.least, a.bounds.most, a.place) <
           std::tuple(b.weight, b.bounds.least, b.bounds.most, b.place);
  });
  const auto lowest = [](const claim& c) { return static_cast<double>(c.bounds.least) / c.weight; };
  const auto highest = [](const claim& c) { return static_cast<double>(c.bounds.most) / c.weight; };
  const auto at = [](const claim& c, double level) {
    return std::clamp(level * c.weight, static_cast<double>(c.bounds.least),
                      static_cast<double>(c.bounds.most));
  };
  // The sum grows with the level, linearly between the levels at which a claim meets a bound.
  std::vector<double> bends;
  bends.reserve(2 * claims.size());
  for (const claim& c : claims) {
    bends.push_back(lowest(c));
    bends.push_back(highest(c));
  }
  std::sort(bends.begin(), bends.end());
  const auto above = std::partition_point(bends.begin() + 1, bends.end(), [&](double level) {
    double sum = 0;
    for (const claim& c : claims) sum += at(c, level);
    return sum <= static_cast<double>(target);
  });
  double level = *(above - 1);
  if (above != bends.end()) {
    const double from = level;
    const double to = *above;
    index_t fixed = 0;  // whole rows, so that only the free part is divided
    double free_weight = 0;
    for (const claim& c : claims) {
      if (highest(c) <= from) {
        fixed += c.bounds.most;
      } else if (lowest(c) >= to) {
        fixed += c.bounds.least;
      } else {
        free_weight += c.weight;
      }
    }
    if (free_weight > 0) {
      level = std::clamp(static_cast<double>(target - fixed) / free_weight, from, to);
    }
  }
  for (claim& c : claims) c.rows = at(c, level);
}

/// Rounds the claims' rows to whole ones that add up to `total`, by largest remainder; of equal
/// remainders the first of the caller's list is rounded up.
inline std::vector<index_t> round_rows(std::span<const claim> claims, index_t total) {
  std::vector<index_t> rows(claims.size());
  std::vector<row_bounds> bounds(claims.size());
  std::vector<double> remainder(claims.size());
  index_t left = total;
  for (const claim& c : claims) {
    // A length beyond 53 bits may have been rounded out of its bounds.
    constexpr double limit = 0x1p63;
    const double whole = std::floor(c.rows);
    rows[c.place] = whole < limit
                        ? std::clamp(static_cast<index_t>(whole), c.bounds.least, c.bounds.most)
                        : c.bounds.most;
    remainder[c.place] = c.rows - whole;
    bounds[c.place] = c.bounds;
    left -= rows[c.place];
  }
  std::vector<std::size_t> order(claims.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return remainder[a] != remainder[b] ? remainder[a] > remainder[b] : a < b;
  });
  // One turn is enough, but for lengths beyond 53 bits, where `left` may even be negative. A turn
  // that does not end the work fills a head or leaves less than a row for each.
  while (left > 0) {
    const auto has_room = [&](std::size_t h) { return rows[h] < bounds[h].most; };
    const auto open = static_cast<index_t>(std::count_if(order.begin(), order.end(), has_room));
    const index_t step = std::max<index_t>(1, left / open);
    for (const std::size_t h : order) {
      const index_t given = (std::min)({step, bounds[h].most - rows[h], left});
      rows[h] += given;
      left -= given;
    }
  }
  std::reverse(order.begin(), order.end());
  while (left < 0) {
    const auto can_give = [&](std::size_t h) { return rows[h] > bounds[h].least; };
    const auto open = static_cast<index_t>(std::count_if(order.begin(), order.end(), can_give));
    const index_t step = std::max<index_t>(1, -left / open);
    for (const std::size_t h : order) {
      const index_t taken = (std::min)({step, rows[h] - bounds[h].least, -left});
      rows[h] -= taken;
      left += taken;
    }
  }
  return rows;
}

/// `apportion` after its checks; `largest` is the largest share.
inline std::vector<index_t> apportion_checked(std::span<const double> shares,
                                              std::span<const row_bounds> bounds, index_t total,
                                              double largest) {
  // Beyond this a share is nothing beside the largest, and levels would leave the range of a
  // double.
  constexpr double nothing = 1e-200;
  std::vector<claim> claims;
  claims.reserve(shares.size());
  index_t rest_of_positive = total;
  index_t most_of_positive = 0;
  for (std::size_t h = 0; h < shares.size(); ++h) {
    const double weight = shares[h] / largest;
    claims.push_back({weight >= nothing ? weight : 0, bounds[h], h, 0});
    if (weight >= nothing) {
      most_of_positive += bounds[h].most;
    } else {
      rest_of_positive -= bounds[h].least;
    }
  }
  const auto zeros =
      std::partition(claims.begin(), claims.end(), [](const claim& c) { return c.weight > 0; });
  const std::span<claim> positive(claims.begin(), zeros);
  const std::span<claim> nil(zeros, claims.end());
  if (rest_of_positive <= most_of_positive) {
    raise_level(positive, rest_of_positive);
    for (claim& c : nil) c.rows = static_cast<double>(c.bounds.least);
  } else {
    for (claim& c : positive) c.rows = static_cast<double>(c.bounds.most);
    for (claim& c : nil) c.weight = 1;
    raise_level(nil, total - most_of_positive);
  }
  return round_rows(claims, total);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Whole rows in proportion to `shares`, within `bounds`, `total` of them exactly:
///
///     t_h ≈ clamp(λ p_h, least_h, most_h),   Σ t_h = total
///
/// with the one λ that makes the right sides add up to `total`. So what a cap takes from a head is
/// shared among those below theirs in proportion to their shares, until nothing is left
/// (arXiv:2602.16284, head budgets, where repeated rounds do it), and what a minimum gives to a
/// head is taken from the others alike. Then each is rounded down, and the rows still missing go,
/// one each, to the largest remainders; of equal ones to the first in the list. A larger share
/// never gets a head fewer rows. Heads of share 0 get their least, and more, in equal parts, only
/// when all others are at their most.
///
/// shares: H, finite, ≥ 0, one of them positive; only their ratios matter. bounds: H.
/// Errors: `shape_mismatch`; `invalid_option` for a share out of range, with its place;
/// those of `check_total`; `out_of_memory`. Cost: O(H log H), some 150 bytes a head.
///
///     auto rows = apportion(shares, bounds, 4096);  // rows->size() == shares.size()
[[nodiscard]] inline result<std::vector<index_t>> apportion(std::span<const double> shares,
                                                            std::span<const row_bounds> bounds,
                                                            index_t total) {
  if (shares.size() != bounds.size()) {
    return error{errc::shape_mismatch, "shares", static_cast<index_t>(shares.size()),
                 static_cast<index_t>(bounds.size()), "one for each of the bounds"};
  }
  if (auto ok = check_total(bounds, total); !ok) return ok.error();
  double largest = 0;
  for (std::size_t h = 0; h < shares.size(); ++h) {
    if (!(shares[h] >= 0 && std::isfinite(shares[h]))) {
      return error{errc::invalid_option, "shares", static_cast<index_t>(h), error::none,
                   "the share at this place must be finite and not negative, is " +
                       detail::number_text(shares[h])};
    }
    largest = (std::max)(largest, shares[h]);
  }
  if (!(largest > 0)) {
    return error{errc::invalid_option, "shares", error::none, error::none, "all are 0"};
  }
  return detail::catch_bad_alloc("apportion", [&]() -> result<std::vector<index_t>> {
    return detail::apportion_checked(shares, bounds, total, largest);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
