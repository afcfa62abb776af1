// SPDX-License-Identifier: MIT
#include "report/svg_axis.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <string>

namespace kvfit_tool::svg {

bool can_be_drawn(double value) {
  return std::isfinite(value) && value > 0;
}

double axis::operator()(double value) const {
  if (is_linear) return from + (to - from) * (value - low) / (high - low);
  return from + (to - from) * std::log(value / low) / std::log(high / low);
}

axis axis_around(const std::vector<double>& values, double least, double from, double to) {
  double low = std::numeric_limits<double>::infinity();
  double high = 0;
  for (const double value : values) {
    if (!can_be_drawn(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (high == 0) return {0.1, 1, from, to, false};  // nothing to draw
  const double air = std::max(least, std::pow(high / low, 0.05));
  return {low / air, high * air, from, to, false};
}

std::vector<double> ticks_between(double low, double high, std::size_t most) {
  const auto collect = [&](std::initializer_list<int> steps, int every) {
    std::vector<double> ticks;
    for (int power = -30; power <= 30; ++power) {
      if (power % every != 0) continue;
      for (const int step : steps) {
        // Parsed, not multiplied up: the nearest number prints shortest.
        const std::string text = std::to_string(step) + "e" + std::to_string(power);
        const double tick = std::strtod(text.c_str(), nullptr);
        if (tick >= low * 0.999999 && tick <= high * 1.000001) ticks.push_back(tick);
      }
    }
    return ticks;
  };
  if (auto ticks = collect({10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90}, 1);
      ticks.size() <= most) {
    return ticks;
  }
  if (auto ticks = collect({1, 2, 3, 4, 6, 8}, 1); ticks.size() <= most) return ticks;
  if (auto ticks = collect({1, 2, 5}, 1); ticks.size() <= most) return ticks;
  if (auto ticks = collect({1, 3}, 1); ticks.size() <= most) return ticks;
  for (int every = 1;; ++every) {
    if (auto ticks = collect({1}, every); ticks.size() <= most) return ticks;
  }
}

}  // namespace kvfit_tool::svg
