// SPDX-License-Identifier: MIT
/// Where a score pass is written.
#pragma once

namespace kvfit {

/// Where the numbers of `attention_scores` are to be written: memory of the asker, row-major.
struct score_target {
  float* max = nullptr;           ///< n
  float* mass = nullptr;          ///< n
  float* log_mass = nullptr;      ///< n
  float* output = nullptr;        ///< n × d_v; null: not asked for
  float* importance = nullptr;    ///< T; null: not asked for
  float* exponentials = nullptr;  ///< T × n; null: not asked for
  float* shift = nullptr;         ///< n, with `exponentials`
};

}  // namespace kvfit
