// SPDX-License-Identifier: MIT
#include "kvfit/linalg/box.hpp"

#include <limits>

#include "support/catch.hpp"

using kvfit::linalg::box;

TEST_CASE("a clipped value is the nearest inside the box", "[linalg][box]") {
  const box bounds{.lower = 0.5, .upper = 2};
  CHECK(bounds.clip(0.1) == 0.5);
  CHECK(bounds.clip(1.5) == 1.5);
  CHECK(bounds.clip(7) == 2);
  CHECK(bounds.contains(2));
  CHECK_FALSE(bounds.contains(2.0001));
}

TEST_CASE("§9.10 clipping NaN and infinity yields numbers of the box", "[linalg][box]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const box bounds{.lower = 1e-12, .upper = 20};
  CHECK(bounds.clip(nan) == 1e-12);
  CHECK(bounds.clip(infinity) == 20);
  CHECK(bounds.clip(-infinity) == 1e-12);
  CHECK(box{-infinity, infinity}.clip(nan) == 0);

  Eigen::VectorXd weights(3);
  weights << nan, -1, 30;
  bounds.clip(weights);
  CHECK(weights == Eigen::Vector3d(1e-12, 1e-12, 20));
}

TEST_CASE("a box with crossed or one-sided infinite bounds is not valid", "[linalg][box]") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(box{}.valid());
  CHECK(box{1, 1}.valid());
  CHECK_FALSE(box{2, 1}.valid());
  CHECK_FALSE(box{infinity, infinity}.valid());
  CHECK_FALSE(box{std::numeric_limits<double>::quiet_NaN(), 1}.valid());
}
