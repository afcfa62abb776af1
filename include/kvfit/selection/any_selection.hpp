// SPDX-License-Identifier: MIT
/// Any way to select rows, chosen at run time.
#pragma once

#include "kvfit/attention/declared_bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/policy_handle.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit {

/// What runs a selection; see `selection_policy`.
struct selection_functions {
  score_options (*scoring)(const void* policy);
  result<selected_rows> (*choose)(const void* policy, const selection_problem& problem);
  result<void> (*check)(const void* policy);
  bool (*replaces)(const void* policy);
  bool (*refines)(const void* policy);
  double (*bytes)(const void* policy, const head_sizes& sizes);  ///< null: it does not say

  template <class P>
  static constexpr bool runs = selection_policy<P>;
  template <class P, class Isa>
  static const selection_functions* of() noexcept {
    static constexpr selection_functions table = {
        .scoring = [](const void* p) { return wanted_scores(*static_cast<const P*>(p)); },
        .choose = [](const void* p, const selection_problem& problem) -> result<selected_rows> {
          return select(*static_cast<const P*>(p), problem);
        },
        .check = [](const void* p) { return check_settings(*static_cast<const P*>(p)); },
        .replaces = [](const void* p) -> bool { return may_replace(*static_cast<const P*>(p)); },
        .refines = [](const void* p) -> bool {
          return refines_by_default(*static_cast<const P*>(p));
        },
        .bytes = detail::declared_bytes<P, Isa>(),
    };
    return &table;
  }
};

/// `selection::joint` unless another is given.
using any_selection =
    policy_handle<selection_functions, selection::joint, selection::omp,
                  selection::highest_attention, selection::expected_attention, selection::first,
                  selection::last, selection::random, selection::given>;

}  // namespace kvfit
