// SPDX-License-Identifier: MIT
/// Line plots on logarithmic axes, as SVG text.
///
/// Our own, for Debian 12 packages no C++ library that writes SVG plots (gnuplot-iostream only
/// talks to the gnuplot program), and the tool's one plot needs lines, ticks and labels. The same
/// plot gives the same bytes.
#pragma once

#include <string>
#include <vector>

namespace kvfit_tool {

/// One line; the same label has the same colour, mark and dashes in all panels.
struct plot_line {
  std::string label;
  bool is_baseline = false;  ///< grey and dashed
  std::vector<double> y;     ///< one a place of `plot_panel::x`; ≤ 0 or not finite: left out
};

/// One pair of axes.
struct plot_panel {
  std::string title;
  std::string y_label;
  std::vector<double> x;  ///< > 0; ticks stand at these places
  std::vector<plot_line> lines;
};

/// Panels in rows.
struct plot {
  std::string title;
  std::string subtitle;
  std::string x_label;   ///< of every panel
  std::string x_suffix;  ///< behind each tick's number
  std::vector<std::vector<plot_panel>> rows;
};

/// A whole SVG file.
std::string to_svg(const plot& drawn);

}  // namespace kvfit_tool
