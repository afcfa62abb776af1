// SPDX-License-Identifier: MIT
/// A logarithmic axis: where values stand on it, and its ticks.
#pragma once

#include <cstddef>
#include <vector>

namespace kvfit_tool::svg {

/// Whether a logarithmic axis has a place for it.
bool can_be_drawn(double value);

/// From `low` to `high` > low > 0, over pixels `from` … `to`.
struct log_axis {
  double low;
  double high;
  double from;
  double to;

  double operator()(double value) const;
};

/// The range of all of `values` that can be drawn, with a little air: `least` as a factor at either
/// end.
log_axis axis_around(const std::vector<double>& values, double least, double from, double to);

/// Ticks of few digits, `most` at most and as close as leaves them readable; at last some powers of
/// ten alone.
std::vector<double> ticks_between(double low, double high, std::size_t most = 11);

}  // namespace kvfit_tool::svg
