// SPDX-License-Identifier: MIT
/// Tables of small heat maps on one logarithmic scale, as an SVG element of a page.
#pragma once

#include <string>
#include <vector>

namespace kvfit_tool {

/// One cell; what can't be drawn on a logarithmic scale stays empty.
struct heat_cell {
  int column = 0;
  int row = 0;
  double value = 0;
  std::string title;  ///< read on hover
};

/// Maps in lines that have a label each, under columns that have a heading each.
struct heat_table {
  std::string title;
  std::string scale_label = {};  ///< of the colours
  int map_columns = 0;           ///< of every map
  int map_rows = 0;
  std::vector<std::string> headings = {};
  struct line {
    std::string label;
    std::vector<std::vector<heat_cell>> maps;  ///< one a heading
  };
  std::vector<line> lines = {};
};

std::string to_svg(const heat_table& drawn);

}  // namespace kvfit_tool
