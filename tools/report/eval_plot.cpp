// SPDX-License-Identifier: MIT
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "report/eval_output.hpp"
#include "report/eval_panels.hpp"
#include "report/svg_plot.hpp"

namespace kvfit_tool {

std::string to_plot(const evaluation& measured) {
  plot drawn;
  const bool is_one = measured.captures.size() == 1;
  bool is_tested = true;
  for (const score_row& row : measured.rows) is_tested = is_tested && row.on == judged_on::test;
  for (const capture_facts& capture : measured.captures) {
    const std::string file = std::filesystem::path(capture.name).filename().string();
    std::vector<plot_panel> panels;
    for (const plotted_error& what : plotted_errors()) {
      panels.push_back(panel_against_ratio(rows_of(measured, capture), what));
      if (!is_one) panels.back().title += ": " + file;
    }
    drawn.rows.push_back(std::move(panels));
    if (is_one) {
      drawn.title = "Compact against full attention: " + file;
      drawn.subtitle = std::to_string(capture.heads) + " KV heads in " +
                       std::to_string(capture.layers) +
                       " layers, T = " + std::to_string(capture.rows) + " rows of " +
                       std::to_string(capture.depth) + "; means over heads and ";
    }
  }
  if (!is_one) {
    drawn.title =
        "Compact against full attention: " + std::to_string(measured.captures.size()) + " captures";
    drawn.subtitle = "Means over heads and ";
  }
  drawn.subtitle += is_tested ? "test queries, none of them fitted on"
                              : "queries; NO test queries in a capture: see judged_on in the JSON";
  drawn.subtitle += ". Dashed: rows evicted, nothing fitted.";
  return to_svg(drawn);
}

}  // namespace kvfit_tool
