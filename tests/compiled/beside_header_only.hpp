// SPDX-License-Identifier: MIT
/// Compares results of kvfit::compiled with those of a file that has all of kvfit in it.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "compiled/header_only.hpp"
#include "kvfit/core/compiled_entry_points.hpp"

namespace kvfit_test {

/// The path of header_only.cpp's own instruction set, or null. Where the compiler may fuse a
/// product and a sum, it need not do so alike in two files, and the path stands for nothing.
inline const kvfit::compiled::entry_points* path_of_header_only() {
#if defined(__FMA__) || defined(__aarch64__)
  return nullptr;
#else
  for (const auto& path : kvfit::compiled::available()) {
    if (path.isa == header_only::isa()) return &path;
  }
  return nullptr;
#endif
}

/// Largest difference of two matrices or vectors of the same sizes, beside the largest number.
inline double difference(const auto& a, const auto& b) {
  double most = 0;
  double largest = 1e-30;
  for (Eigen::Index i = 0; i < a.size(); ++i) {
    const double x = a.data()[i];
    most = std::max(most, std::abs(x - static_cast<double>(b.data()[i])));
    largest = std::max(largest, std::abs(x));
  }
  return most / largest;
}

}  // namespace kvfit_test
