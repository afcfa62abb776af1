// SPDX-License-Identifier: MIT
/// `--require`: conditions on figures of rows, read and judged.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace kvfit_tool {

/// How a figure is compared with a limit.
enum class relation : std::uint8_t { at_most, less, at_least, more };

/// "output_error <= 0.4".
struct condition {
  std::string figure;
  relation is = relation::at_most;
  double limit = 0;
  std::string text;  ///< with one space on both sides of the operator, the limit as it was written
};

/// "default@20: output_error <= 0.4, cosine >= 0.95".
struct requirement {
  std::string method;  ///< a method's name or a row's label
  double ratio = 1;
  std::string name;  ///< "default@20", as it was written
  std::vector<condition> conditions;
};

/// A row as requirements name it.
struct row_name {
  std::string method;
  std::string label;  ///< the method with what tables show beside it
  double ratio = 1;
};

/// A row that was measured.
struct judged_row {
  row_name what;
  std::string place;  ///< the capture; empty where there is but one
  /// Every figure of the row by name; one that was not measured is NaN.
  std::vector<std::pair<std::string, double>> figures;
};

/// Reads "METHOD@RATIO: FIGURE OP NUMBER, ..." into `to`, with OP one of <=, <, >= and >. The
/// method ends at the last @. Returns what is wrong with it, or nothing.
std::string parse_requirement(const std::string& text, requirement& to);

/// What is wrong with it where these rows will be measured and have these figures: it names no row,
/// or what is no figure. Nothing: all is well.
std::string check_requirement(const requirement& asked, std::span<const row_name> rows,
                              std::span<const std::string> figures);

/// Whether the requirement is about the row: its ratio, and its label or its method. A method's
/// name alone means all of its rows, whatever their settings.
bool is_about(const requirement& asked, const row_name& row);

/// Holds every row that a requirement is about against each of its conditions. A line for each that
/// fails: "required default@20: output_error <= 0.4, measured 0.437", with the row's label and
/// place behind it where the requirement is about several rows. NaN fails every condition, and so
/// does a requirement about none of the rows.
std::vector<std::string> failures_of(std::span<const requirement> asked,
                                     std::span<const judged_row> rows);

}  // namespace kvfit_tool
