// SPDX-License-Identifier: MIT
/// What a bias fit reads, and what it returns.
#pragma once

#include <concepts>
#include <span>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/linalg/bounded_report.hpp"
#include "kvfit/parallel/executor_ref.hpp"

namespace kvfit {

/// What a policy may keep from one fit to the next, where columns change one here and there.
struct repeated_bias_fit {
  std::span<const index_t> changed = {};  ///< columns that are not the last fit's, ascending
  std::vector<double> weights = {};       ///< the last fit's, or empty
  std::vector<double> gram = {};          ///< t × t: the policy's own, or empty
};

/// The mass equation Σ_j columns_ij w_j = exp(log_mass_i − max_i) over the kept rows.
struct bias_problem {
  const matrix* columns = nullptr;  ///< n × t: exp(s_ij − max_i), 0 where query i sees nothing
  const attention_scores* scores = nullptr;        ///< full attention of the n queries
  std::span<const double> selection_weights = {};  ///< t weights fitted by the selection, or empty
  /// Where fits are repeated: what the last one has left, and where this one may leave its own.
  repeated_bias_fit* again = nullptr;
  /// Who runs what can be done at the same time; what comes out does not depend on it.
  executor_ref threads = {};
};

/// Weights, ln w being what is added to the kept rows' own bias.
struct bias_fit {
  std::vector<double> weights;  ///< t, finite, > 0
  /// Lower bound the weights were fitted under: keys that end on it are dead. 0 where there is
  /// none.
  double floor = 0;
  linalg::bounded_report report = {};
  bool is_fitted = false;  ///< false: no fit was asked for, and `report` is empty
};

/// A bias policy: a type B with `result<bias_fit> fit_bias(const B&, const bias_problem&)` beside
/// it, and perhaps `void declare(workspace&, const B&, const head_sizes&)` (`planned_memory`).
template <class B>
concept bias_policy = requires(const B& policy, const bias_problem& problem) {
  { fit_bias(policy, problem) } -> std::same_as<result<bias_fit>>;
};

}  // namespace kvfit
