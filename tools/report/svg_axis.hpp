// SPDX-License-Identifier: MIT
/// An axis, most often logarithmic: where values stand on it, and its ticks.
#pragma once

#include <cstddef>
#include <vector>

namespace kvfit_tool::svg {

/// Whether a logarithmic axis has a place for it.
bool can_be_drawn(double value);

/// From `low` to `high` > low, over pixels `from` … `to`; low > 0 where it is logarithmic.
struct axis {
  double low;
  double high;
  double from;
  double to;
  bool is_linear = false;

  double operator()(double value) const;
};

/// The range of all of `values` that can be drawn, with a little air: `least` as a factor at either
/// end.
axis axis_around(const std::vector<double>& values, double least, double from, double to);

/// Ticks of few digits, `most` at most and as close as leaves them readable; at last some powers of
/// ten alone.
std::vector<double> ticks_between(double low, double high, std::size_t most = 11);

}  // namespace kvfit_tool::svg
