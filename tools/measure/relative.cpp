// SPDX-License-Identifier: MIT
#include "measure/relative.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvfit_tool {

namespace {

constexpr double clearly_worse = 1.02;

double ratio_of(double error, double other) {
  if (std::isinf(error) && std::isinf(other)) return std::numeric_limits<double>::quiet_NaN();
  return error == other ? 1 : error / other;  // 0 against 0 as well
}

baseline_errors baseline_of(const score_row& row) {
  baseline_errors made{row.label, {}, {}};
  for (const head_score& head : row.heads) {
    made.output_error.push_back(head.errors.output_error);
    made.mass_error.push_back(head.errors.mass_error);
  }
  return made;
}

}  // namespace

comparison compare(const score_row& row, const baseline_errors& with) {
  comparison against{.name = with.name};
  double output_logs = 0;
  double mass_logs = 0;
  for (std::size_t h = 0; h < row.heads.size(); ++h) {
    const double output = ratio_of(row.heads[h].errors.output_error, with.output_error[h]);
    const double mass = ratio_of(row.heads[h].errors.mass_error, with.mass_error[h]);
    output_logs += std::log(output);
    mass_logs += std::log(mass);
    against.output_worse += output > clearly_worse ? 1 : 0;
    against.mass_worse += mass > clearly_worse ? 1 : 0;
  }
  const auto count = static_cast<double>(row.heads.size());
  against.output_error = std::exp(output_logs / count);
  against.mass_error = std::exp(mass_logs / count);
  return against;
}

void compare_with(std::vector<score_row>& rows, const std::string& label) {
  for (const score_row& other : rows) {
    if (other.label != label) continue;
    const baseline_errors with = baseline_of(other);
    for (score_row& row : rows) {
      if (row.capture == other.capture && row.ratio == other.ratio && row.on == other.on) {
        row.against = compare(row, with);
      }
    }
  }
}

}  // namespace kvfit_tool
