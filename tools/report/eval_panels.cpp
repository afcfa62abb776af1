// SPDX-License-Identifier: MIT
#include "report/eval_panels.hpp"

#include <algorithm>

#include "report/eval_output.hpp"

namespace kvfit_tool {

namespace {

/// The line of the row's candidate, made where it is not there yet.
plot_line& line_of(plot_panel& panel, const score_row& row) {
  const auto line = std::find_if(panel.lines.begin(), panel.lines.end(),
                                 [&](const plot_line& known) { return known.label == row.label; });
  if (line != panel.lines.end()) return *line;
  const method* const known = find_method(row.what.method);
  panel.lines.push_back({row.label, known != nullptr && !known->is_fitted, {}});
  return panel.lines.back();
}

/// Lines are joined from the smallest ratio to the largest.
std::vector<std::size_t> by_ratio(const std::vector<const score_row*>& rows) {
  std::vector<std::size_t> order(rows.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rows[a]->ratio < rows[b]->ratio; });
  return order;
}

/// Place of `value` in `list`, where it is put if it is not there.
template <class T>
std::size_t place_in(std::vector<T>& list, const T& value) {
  const auto found = std::find(list.begin(), list.end(), value);
  if (found != list.end()) return static_cast<std::size_t>(found - list.begin());
  list.push_back(value);
  return list.size() - 1;
}

}  // namespace

const std::vector<plotted_error>& plotted_errors() {
  static const std::vector<plotted_error> all = {
      {"Output error", "mean ‖o − ô‖ / ‖o‖ (no unit)", &score_row::output_error,
       &kvfit::fidelity::output_error},
      {"Mass error", "mean |exp(L̂ − L) − 1| (no unit)", &score_row::mass_error,
       &kvfit::fidelity::mass_error}};
  return all;
}

std::vector<const score_row*> rows_of(const evaluation& measured, const capture_facts& capture) {
  std::vector<const score_row*> rows;
  for (const score_row& row : measured.rows) {
    if (row.capture == capture.name) rows.push_back(&row);
  }
  return rows;
}

std::vector<bool> pareto_front(const std::vector<const score_row*>& rows,
                               const plotted_error& what) {
  std::vector<bool> front;
  for (const score_row* row : rows) {
    const double error = (row->*what.over_heads).mean;
    front.push_back(std::none_of(rows.begin(), rows.end(), [&](const score_row* other) {
      const double others = (other->*what.over_heads).mean;
      return other->ratio == row->ratio && others <= error &&
             other->milliseconds <= row->milliseconds &&
             (others < error || other->milliseconds < row->milliseconds);
    }));
  }
  return front;
}

plot_panel panel_against_ratio(const std::vector<const score_row*>& rows,
                               const plotted_error& what) {
  plot_panel panel{.title = what.title,
                   .x_label = "compaction ratio T / t (rows before / after)",
                   .x_suffix = "×",
                   .y_label = what.formula};
  for (const score_row* row : rows) {  // labels first, in the order of the rows
    line_of(panel, *row);
    place_in(panel.ticks, row->ratio);
  }
  for (const std::size_t i : by_ratio(rows)) {
    const score_row& row = *rows[i];
    const double error = (row.*what.over_heads).mean;
    line_of(panel, row)
        .points.push_back(
            {.x = row.ratio,
             .y = error,
             .title = row.label + " at " + ratio_text(row.ratio) + "×: " + three_digits(error)});
  }
  return panel;
}

plot_panel panel_against_time(const std::vector<const score_row*>& rows,
                              const plotted_error& what) {
  plot_panel panel{.title = what.title,
                   .x_label = "milliseconds a head (mean)",
                   .y_label = what.formula,
                   .has_legend = true};
  const std::vector<bool> front = pareto_front(rows, what);
  for (const score_row* row : rows) line_of(panel, *row);
  for (const std::size_t i : by_ratio(rows)) {
    const score_row& row = *rows[i];
    const double error = (row.*what.over_heads).mean;
    const std::string ratio = ratio_text(row.ratio) + "×";
    plot_line& line = line_of(panel, row);
    // Baselines are all so quick that their ratios would cover each other.
    const bool has_note = front[i] && !line.is_baseline;
    line.points.push_back({.x = row.milliseconds,
                           .y = error,
                           .title = row.label + " at " + ratio + ": " + three_digits(error) + ", " +
                                    three_digits(row.milliseconds) + " ms a head",
                           .note = has_note ? ratio : std::string(),
                           .is_ringed = front[i]});
  }
  return panel;
}

heat_table head_maps(const std::vector<const score_row*>& rows, const plotted_error& what) {
  heat_table table{.title = what.title + " of every head",
                   .scale_label = what.title + ", " + what.formula};
  std::vector<std::string> labels;
  std::vector<double> ratios;
  std::vector<kvfit::index_t> layers;
  for (const score_row* row : rows) {
    place_in(ratios, row->ratio);
    for (const head_score& head : row->heads) {
      place_in(layers, head.layer);
      table.map_rows = std::max(table.map_rows, static_cast<int>(head.head) + 1);
    }
  }
  table.map_columns = static_cast<int>(layers.size());
  for (const double ratio : ratios) table.headings.push_back(ratio_text(ratio) + "×");
  for (const score_row* row : rows) {
    const std::size_t line = place_in(labels, row->label);
    if (line == table.lines.size()) table.lines.push_back({row->label, {}});
    table.lines[line].maps.resize(ratios.size());
    auto& map = table.lines[line].maps[place_in(ratios, row->ratio)];
    for (const head_score& head : row->heads) {
      const double value = head.errors.*what.of_head;
      map.push_back({.column = static_cast<int>(place_in(layers, head.layer)),
                     .row = static_cast<int>(head.head),
                     .value = value,
                     .title = row->label + " at " + ratio_text(row->ratio) + "×, layer " +
                              std::to_string(head.layer) + " head " + std::to_string(head.head) +
                              ": " + three_digits(value)});
    }
  }
  return table;
}

}  // namespace kvfit_tool
