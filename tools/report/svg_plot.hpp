// SPDX-License-Identifier: MIT
/// Line plots on logarithmic axes, or of shares on a linear one, as SVG text.
///
/// Our own, for Debian 12 packages no C++ library that writes SVG plots (gnuplot-iostream only
/// talks to the gnuplot program), and the tool's plots need lines, ticks and labels. The same plot
/// gives the same bytes.
#pragma once

#include <string>
#include <vector>

namespace kvfit_tool {

/// A place on the axes.
struct plot_point {
  double x = 0;            ///< ≤ 0 or not finite: left out
  double y = 0;            ///< the same, but a share may be 0
  std::string title = {};  ///< read on hover; empty: the line's label
  std::string note = {};   ///< written beside it
  bool is_ringed = false;
};

/// One line; the same label has the same colour, mark and dashes in all panels.
struct plot_line {
  std::string label;
  bool is_baseline = false;             ///< grey and dashed
  std::vector<plot_point> points = {};  ///< joined in this order
};

/// One pair of axes.
struct plot_panel {
  std::string title;
  std::string x_label = {};
  std::string x_suffix = {};  ///< behind each tick's number
  std::string y_label = {};
  std::vector<double> ticks = {};  ///< of x, > 0; empty: at round numbers
  bool is_share = false;           ///< y is linear, from 0 to 1
  bool has_legend = false;         ///< labels stand in a list, not beside the lines' ends
  std::vector<plot_line> lines = {};
};

/// Panels in rows.
struct plot {
  std::string title;
  std::string subtitle;
  std::vector<std::vector<plot_panel>> rows;
};

/// A whole SVG file, or, as part of a page, an element without title, ground and style sheet.
std::string to_svg(const plot& drawn, bool is_part_of_a_page = false);

/// The style sheet of either.
std::string plot_style();

}  // namespace kvfit_tool
