// SPDX-License-Identifier: MIT
/// Stage times of the report.
#pragma once

#include <chrono>

#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Seconds since the last call.
class stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
