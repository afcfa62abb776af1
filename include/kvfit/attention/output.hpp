// SPDX-License-Identifier: MIT
/// What the reference attention kernel returns.
#pragma once

#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// Attention of n queries; rows of all query blocks counted through.
struct attention_output {
  /// n × d_v: softmax over all blocks together, times the values; 0 if all is hidden.
  matrix output;
  vector log_mass;  ///< n: ln Σ exp(s) over all blocks and the sink; −∞ if all is hidden
};

}  // namespace kvfit
