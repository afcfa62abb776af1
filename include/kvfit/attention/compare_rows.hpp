// SPDX-License-Identifier: MIT
/// The work of `compare`.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline fidelity compare_rows(const matrix& output, const vector& log_mass, const matrix& fitted,
                             const vector& fitted_log_mass) noexcept {
  fidelity f;
  double output_sum = 0;
  double mass_sum = 0;
  double cosine_sum = 0;
  double squares = 0;
  double missing = 0;
  assert(fitted.rows() == output.rows() && fitted.cols() == output.cols());
  assert(log_mass.size() == output.rows() && fitted_log_mass.size() == output.rows());
  for (index_t i = 0; i < output.rows(); ++i) {
    if (std::isinf(log_mass[i]) && std::isinf(fitted_log_mass[i])) continue;
    double difference = 0;
    double full = 0;
    double compact = 0;
    double product = 0;
    for (index_t k = 0; k < output.cols(); ++k) {
      const double a = output(i, k);
      const double b = fitted(i, k);
      difference += (a - b) * (a - b);
      full += a * a;
      compact += b * b;
      product += a * b;
    }
    const bool is_nothing = full == 0 && compact == 0;
    const bool is_one_nothing = !is_nothing && (full == 0 || compact == 0);
    double output_error = std::sqrt(difference / full);  // NaN stays NaN
    double cosine = product / (std::sqrt(full) * std::sqrt(compact));
    if (is_nothing) output_error = 0;
    if (full == 0 && compact > 0) output_error = 1;
    if (is_nothing || is_one_nothing) cosine = is_nothing ? 1 : 0;
    const double mass_error = std::abs(
        std::expm1(static_cast<double>(fitted_log_mass[i]) - static_cast<double>(log_mass[i])));
    output_sum += output_error;
    squares += full;
    missing += difference;
    mass_sum += mass_error;
    cosine_sum += cosine;
    f.output_error_max = (std::max)(f.output_error_max, output_error);
    f.mass_error_max = (std::max)(f.mass_error_max, mass_error);
    f.cosine_min = f.queries == 0 ? cosine : (std::min)(f.cosine_min, cosine);
    ++f.queries;
  }
  if (f.queries > 0) {
    const auto n = static_cast<double>(f.queries);
    f.output_error = output_sum / n;
    f.rms_output_error = std::sqrt(missing / squares);  // NaN stays NaN
    if (missing == 0) f.rms_output_error = 0;
    if (missing > 0 && squares == 0) f.rms_output_error = 1;
    f.mass_error = mass_sum / n;
    f.cosine = cosine_sum / n;
  }
  return f;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
