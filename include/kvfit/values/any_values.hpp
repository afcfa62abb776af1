// SPDX-License-Identifier: MIT
/// Any way to give kept keys their values, chosen at run time.
#pragma once

#include <algorithm>
#include "kvfit/attention/declared_bytes.hpp"

#include "kvfit/core/config.hpp"
#include "kvfit/core/policy_handle.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/values/policies.hpp"
#include "kvfit/values/problem.hpp"

namespace kvfit {

/// Fitted values on their way to memory that the one who asked has made: an Eigen matrix must not
/// be freed by code of another instruction set than made it.
struct values_sink {
  void* owner = nullptr;
  float* (*make)(void* owner, index_t rows, index_t cols) = nullptr;
  linalg::least_squares_report report = {};
  bool is_fitted = false;
};

/// What runs a value policy; see `values_policy`.
struct values_functions {
  result<void> (*fit)(const void* policy, const values_problem& problem, values_sink& into);
  result<void> (*check)(const void* policy);
  bool (*fits)(const void* policy);
  double (*bytes)(const void* policy, const head_sizes& sizes);  ///< null: it does not say

  template <class P>
  static constexpr bool runs = values_policy<P>;
  template <class P, class Isa>
  static const values_functions* of() noexcept {
    static constexpr values_functions table = {
        .fit = [](const void* p, const values_problem& problem, values_sink& into) -> result<void> {
          const result<values_fit> fitted = fit_values(*static_cast<const P*>(p), problem);
          if (!fitted) return fitted.error();
          const matrix& values = fitted->values;
          std::copy_n(values.data(), values.size(),
                      into.make(into.owner, values.rows(), values.cols()));
          into.report = fitted->report;
          into.is_fitted = fitted->is_fitted;
          return {};
        },
        .check = [](const void* p) { return check_settings(*static_cast<const P*>(p)); },
        .fits = [](const void* p) -> bool { return fits_values(*static_cast<const P*>(p)); },
        .bytes = detail::declared_bytes<P, Isa>(),
    };
    return &table;
  }
};

/// `values::least_squares` unless another is given.
using any_values =
    policy_handle<values_functions, values::least_squares, values::unpivoted_qr, values::copy>;

}  // namespace kvfit
