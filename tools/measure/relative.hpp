// SPDX-License-Identifier: MIT
/// Rows' errors compared with those of one method on the same heads.
#pragma once

#include <string>
#include <vector>

#include "measure/evaluation.hpp"

namespace kvfit_tool {

/// What is compared with: a method's errors at one ratio, head by head.
struct baseline_errors {
  std::string name;
  std::vector<double> output_error;
  std::vector<double> mass_error;
};

/// The row's errors over those of the baseline_errors, which has as many heads. Two errors of 0 are
/// equal.
comparison compare(const score_row& row, const baseline_errors& with);

/// Holds every row against the row of that label, of the same capture and ratio and judged on the
/// same queries; rows without one are left as they are.
void compare_with(std::vector<score_row>& rows, const std::string& label);

}  // namespace kvfit_tool
