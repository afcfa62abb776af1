// SPDX-License-Identifier: MIT
/// The interval every weight must stay in.
#pragma once

#include <Eigen/Core>
#include <cassert>
#include <limits>

#include "kvfit/core/config.hpp"

namespace kvfit::linalg {

/// lower ≤ w ≤ upper, the same for every weight. Requires lower ≤ upper; either may be infinite on
/// its own side.
struct box {
  double lower = 0;
  double upper = std::numeric_limits<double>::infinity();

  [[nodiscard]] constexpr bool valid() const noexcept {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return lower <= upper && lower < infinity && upper > -infinity;
  }

  [[nodiscard]] constexpr bool contains(double value) const noexcept {
    return value >= lower && value <= upper;
  }

  /// The nearest value inside. NaN, which has none, becomes the inside value nearest 0.
  [[nodiscard]] constexpr double clip(double value) const noexcept {
    assert(valid());
    if (value != value) value = 0;
    if (value < lower) return lower;
    return value > upper ? upper : value;
  }

  /// Every weight, in place.
  void clip(Eigen::VectorXd& weights) const noexcept {
    for (Eigen::Index j = 0; j < weights.size(); ++j) weights[j] = clip(weights[j]);
  }
};

}  // namespace kvfit::linalg
