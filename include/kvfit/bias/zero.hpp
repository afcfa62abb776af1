// SPDX-License-Identifier: MIT
/// Bias policies that fit nothing: zero, and what the selection fitted.
#pragma once

#include "kvfit/bias/problem.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::bias {

/// w = 1: the kept rows keep their own bias. For kernels that take no bias per key.
struct zero {};

/// The weights that the selection fitted on its way, as the published OMP does. A selection that
/// fits none is an error (`invalid_option`).
struct from_selection {};

}  // namespace kvfit::bias

namespace kvfit::bias::inline KVFIT_ISA {

inline result<bias_fit> fit_bias(const bias::zero&, const bias_problem& problem) {
  return bias_fit{.weights = Eigen::VectorXd::Ones(problem.columns->cols())};
}

inline result<bias_fit> fit_bias(const bias::from_selection&, const bias_problem& problem) {
  const auto given = problem.selection_weights;
  if (static_cast<index_t>(given.size()) != problem.columns->cols()) {
    return error{errc::invalid_option, "bias::from_selection", static_cast<index_t>(given.size()),
                 problem.columns->cols(), "the selection fitted no weights"};
  }
  return bias_fit{.weights =
                      Eigen::Map<const Eigen::VectorXd>(given.data(), problem.columns->cols())};
}

/// Bytes that `fit_bias` holds: its result.
inline double fit_bias_bytes(const bias::zero&, const head_sizes& sizes) {
  return double_bytes(sizes.budget);
}
inline double fit_bias_bytes(const bias::from_selection&, const head_sizes& sizes) {
  return double_bytes(sizes.budget);
}

static_assert(bias_policy<bias::zero> && bias_policy<bias::from_selection>);

}  // namespace kvfit::bias::inline KVFIT_ISA
