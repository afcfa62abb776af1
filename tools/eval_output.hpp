// SPDX-License-Identifier: MIT
/// An evaluation as a table to read, as JSON to keep, and as a plot to show.
#pragma once

#include <string>

#include "evaluation.hpp"

namespace kvfit_tool {

/// For each capture a table: a line a method, a column a ratio.
std::string to_table(const evaluation& measured);

/// docs/formats.md describes it. Numbers that are not finite become null.
std::string to_json(const evaluation& measured);

/// Output and mass error against the ratio, a row of panels a capture.
std::string to_plot(const evaluation& measured);

/// "20" rather than "20.0".
std::string ratio_text(double ratio);

}  // namespace kvfit_tool
