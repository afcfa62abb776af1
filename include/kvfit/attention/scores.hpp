// SPDX-License-Identifier: MIT
/// What a score pass returns.
#pragma once

#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// Full attention of n queries over T keys, reduced.
struct attention_scores {
  vector max;       ///< n: m_i = max_j s_ij, natural log; −∞ where every key is hidden
  vector mass;      ///< n: y_i = Σ_j exp(s_ij − m_i), in [1, T]; 0 where every key is hidden
  vector log_mass;  ///< n: ln Σ_j exp(s_ij); −∞ where every key is hidden
  /// n × d_v: Σ_j A_ij v_j; zero where every key is hidden; empty where not asked for.
  matrix output;
  vector importance;  ///< T, by `score_options`; empty for `none`

  /// T × n, a key a row: exp(s_ij − shift_i), where asked for; else empty.
  matrix exponentials;
  vector shift;  ///< n where `exponentials` are kept: at most m_i, within 16 of it
};

}  // namespace kvfit
