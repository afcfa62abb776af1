// SPDX-License-Identifier: MIT
/// How close compact attention comes to full attention.
#pragma once

#include "kvfit/core/index.hpp"

namespace kvfit {

/// Errors over a set of queries; o, L are full output and log-mass, ô, L' the compact ones. All are
/// relative to what is there, however small: values times a constant change none of them. Where o
/// is zero, the output error is 0 if ô is zero too, else 1.
struct fidelity {
  index_t queries = 0;
  double output_error = 0;      ///< mean of ‖o − ô‖ / ‖o‖
  double output_error_max = 0;  ///< worst query
  /// √(Σ ‖o − ô‖² / Σ ‖o‖²): queries count by the length of their output, which is long where
  /// attention is concentrated. Nearer to what a model says than the mean (docs/algorithm.md,
  /// Output errors).
  double rms_output_error = 0;
  double mass_error = 0;  ///< mean of |exp(L' − L) − 1|
  double mass_error_max = 0;
  double cosine = 1;  ///< mean of o·ô / (‖o‖ ‖ô‖); 1 where both are zero, 0 where one is
  double cosine_min = 1;
};

}  // namespace kvfit
