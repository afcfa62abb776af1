// SPDX-License-Identifier: MIT
/// The plots of an evaluation: errors against ratio, against time, and head by head.
#pragma once

#include <string>
#include <vector>

#include "measure/evaluation.hpp"
#include "report/svg_heat_map.hpp"
#include "report/svg_plot.hpp"

namespace kvfit_tool {

/// One of the errors that are plotted.
struct plotted_error {
  std::string title;    ///< "Output error"
  std::string formula;  ///< for the axis
  spread score_row::*over_heads;
  double kvfit::fidelity::*of_head;
};

/// Output error and mass error.
const std::vector<plotted_error>& plotted_errors();

/// The rows of one capture, in their order.
std::vector<const score_row*> rows_of(const evaluation& measured, const capture_facts& capture);

/// Of the rows, those that no other of the same ratio beats in time without being worse in error,
/// nor in error without being slower: a flag a row.
std::vector<bool> pareto_front(const std::vector<const score_row*>& rows,
                               const plotted_error& what);

plot_panel panel_against_ratio(const std::vector<const score_row*>& rows,
                               const plotted_error& what);

/// The front of each ratio is ringed.
plot_panel panel_against_time(const std::vector<const score_row*>& rows, const plotted_error& what);

/// Layers across, heads down; a line a candidate, a column a ratio.
heat_table head_maps(const std::vector<const score_row*>& rows, const plotted_error& what);

}  // namespace kvfit_tool
