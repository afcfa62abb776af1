// SPDX-License-Identifier: MIT
/// Rows by influence curves: best on their convex envelopes, in the time of a sort.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/cache/apportion.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// A straight piece of a head's envelope.
struct envelope_piece {
  double slope = 0;
  index_t rows = 0;  ///< its length, ≥ 1
  std::size_t head = 0;
};

inline influence_plan fill_envelopes(std::span<const influence_curve> curves,
                                     std::span<const row_bounds> bounds, index_t total) {
  influence_plan plan;
  std::vector<envelope_piece> pieces;
  index_t left = total;
  for (std::size_t h = 0; h < curves.size(); ++h) {
    const auto corners = convex_envelope(curves[h], bounds[h]);
    for (std::size_t i = 1; i < corners.size(); ++i) {
      pieces.push_back(
          {slope(corners[i - 1], corners[i]), corners[i].rows - corners[i - 1].rows, h});
    }
    plan.rows.push_back(bounds[h].least);
    plan.lower_bound += corners.front().loss;
    left -= bounds[h].least;
  }
  // A head's own pieces ascend, so that each is reached only after those before it.
  std::sort(pieces.begin(), pieces.end(), [](const envelope_piece& a, const envelope_piece& b) {
    return a.slope != b.slope ? a.slope < b.slope : a.head < b.head;
  });
  for (std::size_t first = 0; first < pieces.size() && left > 0;) {
    std::size_t end = first;
    index_t length = 0;
    for (; end < pieces.size() && pieces[end].slope == pieces[first].slope; ++end) {
      length += pieces[end].rows;
    }
    const index_t taken = (std::min)(left, length);
    plan.lower_bound += pieces[first].slope * static_cast<double>(taken);
    if (taken == length) {
      for (std::size_t i = first; i < end; ++i) plan.rows[pieces[i].head] += pieces[i].rows;
    } else {
      // The curves don't care which of these heads get what is left; so all get their part, not
      // the first all of it.
      std::vector<double> shares;
      std::vector<row_bounds> limits;
      for (std::size_t i = first; i < end; ++i) {
        shares.push_back(static_cast<double>(pieces[i].rows));
        limits.push_back({0, pieces[i].rows});
      }
      const auto parts =
          apportion_checked(shares, limits, taken, *std::max_element(shares.begin(), shares.end()));
      for (std::size_t i = first; i < end; ++i) plan.rows[pieces[i].head] += parts[i - first];
    }
    left -= taken;
    first = end;
  }
  plan.loss = total_loss(curves, plan.rows);
  plan.lower_bound = (std::min)(plan.lower_bound, plan.loss);  // they differ by rounding alone
  return plan;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Rows that minimise Σ f̂_h(t_h), f̂_h the convex envelope of f_h on its bounds:
///
///     least_h ≤ t_h ≤ most_h,   Σ t_h = total
///
/// Pieces of the envelopes are taken in the order of their slopes, steepest fall first, until the
/// total is reached; rising ones are taken where it can't be reached without. That is optimal for
/// the envelopes. For the curves themselves it is optimal where they are convex; else the plan is
/// at most `loss − lower_bound` above the best, and that gap comes only from the head whose piece
/// is cut by the total (or the heads with pieces of that very slope, which share the cut in
/// proportion to length): all others end on corners, where curve and envelope meet.
///
/// curves, bounds: H. Errors: those of `check_total` and `check_curves`; `out_of_memory`.
/// Cost: O(P log P) for P points in all, whatever the total; 24 bytes a point. Same input, same
/// bytes.
[[nodiscard]] inline result<influence_plan> plan_by_water_filling(
    std::span<const influence_curve> curves, std::span<const row_bounds> bounds, index_t total) {
  if (auto ok = check_total(bounds, total); !ok) return ok.error();
  if (auto ok = check_curves(curves, bounds); !ok) return ok.error();
  return detail::catch_bad_alloc("plan_by_water_filling", [&]() -> result<influence_plan> {
    return detail::fill_envelopes(curves, bounds, total);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
