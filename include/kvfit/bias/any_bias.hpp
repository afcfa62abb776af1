// SPDX-License-Identifier: MIT
/// Any way to give kept keys a bias, chosen at run time.
#pragma once

#include "kvfit/attention/declared_bytes.hpp"
#include "kvfit/bias/policies.hpp"
#include "kvfit/bias/problem.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/policy_handle.hpp"
#include "kvfit/core/settings.hpp"

namespace kvfit {

/// What runs a bias policy; see `bias_policy`.
struct bias_functions {
  result<bias_fit> (*fit)(const void* policy, const bias_problem& problem);
  result<void> (*check)(const void* policy);
  double (*bytes)(const void* policy, const head_sizes& sizes);  ///< null: it does not say

  template <class P>
  static constexpr bool runs = bias_policy<P>;
  template <class P, class Isa>
  static const bias_functions* of() noexcept {
    static constexpr bias_functions table = {
        .fit = [](const void* p, const bias_problem& problem) -> result<bias_fit> {
          return fit_bias(*static_cast<const P*>(p), problem);
        },
        .check = [](const void* p) { return check_settings(*static_cast<const P*>(p)); },
        .bytes = detail::declared_bytes<P, Isa>(),
    };
    return &table;
  }
};

/// `bias::nnls` unless another is given.
using any_bias = policy_handle<bias_functions, bias::nnls, bias::projected_gradient, bias::zero,
                               bias::from_selection>;

}  // namespace kvfit
