// SPDX-License-Identifier: MIT
/// What a value fit reads, and what it returns.
#pragma once

#include <concepts>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/parallel/executor_ref.hpp"

namespace kvfit {

/// weights · values ≈ output over n queries, t kept keys.
struct values_problem {
  const matrix* weights = nullptr;   ///< n × t: softmax over the kept keys, bias as stored
  const matrix* output = nullptr;    ///< n × d_v: full attention's output
  const matrix* original = nullptr;  ///< t × d_v: the kept rows' own values
  /// Who runs what can be done at the same time; what comes out does not depend on it.
  executor_ref threads = {};
};

/// What a value policy returns.
struct values_fit {
  matrix values;  ///< t × d_v, finite
  linalg::least_squares_report report = {};
  bool is_fitted = false;  ///< false: values are copies, and `report` is empty
};

/// A value policy: a type V with `result<values_fit> fit_values(const V&, const values_problem&)`
/// beside it, and perhaps `void declare(workspace&, const V&, const head_sizes&)`
/// (`planned_memory`).
template <class V>
concept values_policy = requires(const V& policy, const values_problem& problem) {
  { fit_values(policy, problem) } -> std::same_as<result<values_fit>>;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Whether a policy fits values to outputs. Yes, unless it says otherwise.
template <values_policy V>
constexpr bool fits_values(const V&) {
  return true;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
