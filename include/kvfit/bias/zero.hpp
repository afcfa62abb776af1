// SPDX-License-Identifier: MIT
/// Bias policies that fit nothing: zero, and what the selection fitted.
#pragma once

#include <vector>

#include "kvfit/bias/policies.hpp"
#include "kvfit/bias/problem.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::bias {
inline namespace KVFIT_ISA {

inline result<bias_fit> fit_bias(const bias::zero&, const bias_problem& problem) {
  return bias_fit{.weights =
                      std::vector<double>(static_cast<std::size_t>(problem.columns->cols()), 1.0)};
}

inline result<bias_fit> fit_bias(const bias::from_selection&, const bias_problem& problem) {
  const auto given = problem.selection_weights;
  if (static_cast<index_t>(given.size()) != problem.columns->cols()) {
    return error{errc::invalid_option, "bias::from_selection", static_cast<index_t>(given.size()),
                 problem.columns->cols(), "the selection fitted no weights"};
  }
  return bias_fit{.weights = {given.begin(), given.end()}};
}

/// What `fit_bias` holds: its result.
inline void declare(workspace& space, const bias::zero&, const head_sizes& sizes) {
  space.count(double_bytes(sizes.budget));
}
inline void declare(workspace& space, const bias::from_selection&, const head_sizes& sizes) {
  space.count(double_bytes(sizes.budget));
}

static_assert(bias_policy<bias::zero> && bias_policy<bias::from_selection>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::bias
