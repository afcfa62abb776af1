// SPDX-License-Identifier: MIT
/// What is lost in a head that keeps so many rows, and the convex envelope of that.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// One measurement. The unit of the loss is the caller's, the same for all heads.
struct influence_point {
  index_t rows = 0;  ///< ≥ 0
  double loss = 0;   ///< finite, at most 1e150 in magnitude
};

/// f_h of one head: linear between the points, flat outside (arXiv:2602.16284, influence curves).
/// Losses need neither fall nor be convex.
struct influence_curve {
  std::vector<influence_point> points;  ///< at least one; rows strictly ascending
};

/// Rows for each head by their curves.
struct influence_plan {
  std::vector<index_t> rows;  ///< t_h in the order of the curves
  double loss = 0;            ///< Σ f_h(t_h)
  /// The least Σ of the curves' convex envelopes, which no allocation can be below:
  /// `loss − lower_bound` is at least what the plan is short of the best.
  double lower_bound = 0;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// f(rows); the curve must be one that `check_curves` lets through. Cost: O(log points).
[[nodiscard]] inline double loss_at(const influence_curve& curve, index_t rows) noexcept {
  const auto after = std::lower_bound(
      curve.points.begin(), curve.points.end(), rows,
      [](const influence_point& point, index_t wanted) { return point.rows < wanted; });
  if (after == curve.points.end()) return curve.points.back().loss;
  if (after == curve.points.begin() || after->rows == rows) return after->loss;
  const influence_point& before = *std::prev(after);
  const double way =
      static_cast<double>(rows - before.rows) / static_cast<double>(after->rows - before.rows);
  return before.loss + (after->loss - before.loss) * way;
}

/// Refuses curves that can't be used.
///
/// Errors: `shape_mismatch` where there is not one curve for each of the bounds; `empty_input` for
/// a curve without points; `non_finite` for a loss, the curve's place as row and the point's as
/// column; `invalid_option` for losses and rows out of range or order, the curve's place in
/// `actual`, the point's in `detail`. Cost: O(points).
[[nodiscard]] inline result<void> check_curves(std::span<const influence_curve> curves,
                                               std::span<const row_bounds> bounds) {
  if (curves.size() != bounds.size()) {
    return error{errc::shape_mismatch, "curves", static_cast<index_t>(curves.size()),
                 static_cast<index_t>(bounds.size()), "one for each of the bounds"};
  }
  for (std::size_t h = 0; h < curves.size(); ++h) {
    const auto& points = curves[h].points;
    const auto curve = static_cast<index_t>(h);
    const auto refuse = [curve](std::size_t i, const std::string& what) {
      return error{errc::invalid_option, "curves", curve, error::none,
                   "point " + std::to_string(i) + ": " + what};
    };
    if (points.empty()) return error{errc::empty_input, "curves", curve, error::none, "no point"};
    for (std::size_t i = 0; i < points.size(); ++i) {
      if (!std::isfinite(points[i].loss)) {
        return error{errc::non_finite, "curves", curve, static_cast<index_t>(i), "loss of a point"};
      }
      if (std::abs(points[i].loss) > 1e150) {
        return refuse(i, "a loss must be within 1e150, is " + detail::number_text(points[i].loss));
      }
      if (points[i].rows < 0 || (i > 0 && points[i].rows <= points[i - 1].rows)) {
        return refuse(i,
                      "rows must be at least 0 and ascend, are " + std::to_string(points[i].rows));
      }
    }
  }
  return {};
}

/// Σ f_h(t_h), summed in the order of the curves. Cost: O(H log points).
[[nodiscard]] inline double total_loss(std::span<const influence_curve> curves,
                                       std::span<const index_t> rows) noexcept {
  double sum = 0;
  for (std::size_t h = 0; h < curves.size(); ++h) sum += loss_at(curves[h], rows[h]);
  return sum;
}

/// The curve with every loss replaced by the mean of up to `width` losses around it, an odd number:
/// measured curves are noisy, and plans follow their noise (arXiv:2602.16284 smooths them for
/// decisions alone; look up what a plan really costs in the curves as measured). Near an end the
/// window shrinks on both sides alike, so that the first and the last loss stay.
///
/// Errors: `invalid_option` for a width that is even or below 1; those of `check_curves` for the
/// curve. Cost: O(points · width).
[[nodiscard]] inline result<influence_curve> smoothed(const influence_curve& curve, index_t width) {
  if (width < 1 || width % 2 == 0) {
    return error{errc::invalid_option, "width", width, error::none, "must be odd and at least 1"};
  }
  const row_bounds any{0, 0};
  if (auto ok = check_curves(std::span(&curve, 1), std::span(&any, 1)); !ok) return ok.error();
  return detail::catch_bad_alloc("smoothed", [&]() -> result<influence_curve> {
    influence_curve smooth = curve;
    const auto last = static_cast<index_t>(curve.points.size()) - 1;
    for (index_t i = 0; i <= last; ++i) {
      const index_t reach = (std::min)({width / 2, i, last - i});
      double sum = 0;
      for (index_t k = i - reach; k <= i + reach; ++k) {
        sum += curve.points[static_cast<std::size_t>(k)].loss;
      }
      smooth.points[static_cast<std::size_t>(i)].loss = sum / static_cast<double>(2 * reach + 1);
    }
    return smooth;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Loss a row, from a to b. The slope of an envelope's pieces, wherever they are compared.
inline double slope(const influence_point& a, const influence_point& b) noexcept {
  return (b.loss - a.loss) / static_cast<double>(b.rows - a.rows);
}

/// Corners of the largest convex function below `curve` on [least, most]; slopes ascend strictly.
/// They stand on whole rows, so that between them every whole number of rows is on the line.
inline std::vector<influence_point> convex_envelope(const influence_curve& curve,
                                                    const row_bounds& bounds) {
  std::vector<influence_point> corners;
  const auto add = [&corners](const influence_point& point) {
    while (corners.size() > 1) {
      const influence_point& last = corners.back();
      if (slope(corners[corners.size() - 2], last) < slope(last, point)) break;
      corners.pop_back();
    }
    corners.push_back(point);
  };
  add({bounds.least, loss_at(curve, bounds.least)});
  for (const influence_point& point : curve.points) {
    if (point.rows > bounds.least && point.rows < bounds.most) add(point);
  }
  if (bounds.most > bounds.least) add({bounds.most, loss_at(curve, bounds.most)});
  return corners;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
