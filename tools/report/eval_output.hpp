// SPDX-License-Identifier: MIT
/// An evaluation as a table to read, as a plot to show, and as a page of both.
#pragma once

#include <string>

#include "measure/evaluation.hpp"

namespace kvfit_tool {

/// For each capture a table: a line a candidate, a column a ratio.
std::string to_table(const evaluation& measured);

/// Output and mass error against the ratio, a row of panels a capture.
std::string to_plot(const evaluation& measured);

/// All of it on one page that needs nothing from elsewhere.
std::string to_html(const evaluation& measured);

/// Three digits that count: 0.0123, 0.123, 12.3, 1234, 1.2e-06.
std::string three_digits(double x);

/// "0.9123".
std::string four_decimals(double x);

/// "20" rather than "20.0".
std::string ratio_text(double ratio);

}  // namespace kvfit_tool
