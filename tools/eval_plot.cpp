// SPDX-License-Identifier: MIT
#include <algorithm>
#include <filesystem>

#include "eval_output.hpp"
#include "svg_plot.hpp"

namespace kvfit_tool {

namespace {

plot_panel panel_of(const evaluation& measured, const capture_facts& capture, std::string title,
                    std::string y_label, spread score_row::*what) {
  plot_panel panel{std::move(title), std::move(y_label), {}, {}};
  for (const score_row& row : measured.rows) {
    if (row.capture != capture.name) continue;
    if (std::find(panel.x.begin(), panel.x.end(), row.ratio) == panel.x.end()) {
      panel.x.push_back(row.ratio);
    }
    auto line = std::find_if(panel.lines.begin(), panel.lines.end(),
                             [&](const plot_line& known) { return known.label == row.method; });
    if (line == panel.lines.end()) {
      const method* const known = find_method(row.method);
      const bool is_baseline = known != nullptr && !known->is_fitted;
      line = panel.lines.insert(line, {row.method, is_baseline, {}});
    }
    line->y.push_back((row.*what).mean);  // rows come with the ratios in the same order
  }
  return panel;
}

}  // namespace

std::string to_plot(const evaluation& measured) {
  plot drawn;
  drawn.x_label = "compaction ratio T / t (rows before / after)";
  drawn.x_suffix = "×";
  const bool is_one = measured.captures.size() == 1;
  bool is_tested = true;
  for (const score_row& row : measured.rows) is_tested = is_tested && row.on == judged_on::test;
  for (const capture_facts& capture : measured.captures) {
    const std::string file = std::filesystem::path(capture.name).filename().string();
    const std::string of = is_one ? "" : ": " + file;
    drawn.rows.push_back({panel_of(measured, capture, "Output error" + of,
                                   "mean ‖o − ô‖ / ‖o‖ (no unit)", &score_row::output_error),
                          panel_of(measured, capture, "Mass error" + of,
                                   "mean |exp(L̂ − L) − 1| (no unit)", &score_row::mass_error)});
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
