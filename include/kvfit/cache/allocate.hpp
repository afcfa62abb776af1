// SPDX-License-Identifier: MIT
/// `allocate()`: how many rows each head of a cache keeps, a total that is met exactly.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/apportion.hpp"
#include "kvfit/cache/dynamic_programming.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/cache/shares.hpp"
#include "kvfit/cache/water_filling.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::budgets {

/// By measured curves, one a head in the order of the heads (`cache/influence.hpp` measures them).
struct influence {
  std::vector<influence_curve> curves;
  /// Set: exact for curves that are not convex, at a higher cost. Else `plan_by_water_filling`.
  std::optional<dynamic_programming> exact = {};
};

}  // namespace kvfit::budgets

namespace kvfit {
inline namespace KVFIT_ISA {

/// Rows for each head, in the order of `heads`, within bounds of the caller's own: `total` in all.
///
/// policy: as `allocate` takes it. bounds: one a head. Errors: those of `shares_of` and
/// `apportion`, or of the plan's function. Cost: O(H log H).
template <class Policy>
[[nodiscard]] result<std::vector<index_t>> allocate_within(std::span<const head_rows> heads,
                                                           std::span<const row_bounds> bounds,
                                                           index_t total, const Policy& policy) {
  const auto shares = shares_of(policy, heads);
  if (!shares) return shares.error();
  return apportion(*shares, bounds, total);
}

/// The same by influence curves. The plans' own functions report the loss besides.
[[nodiscard]] inline result<std::vector<index_t>> allocate_within(
    std::span<const head_rows>, std::span<const row_bounds> bounds, index_t total,
    const budgets::influence& policy) {
  auto plan = policy.exact
                  ? plan_by_dynamic_programming(policy.curves, bounds, total, *policy.exact)
                  : plan_by_water_filling(policy.curves, bounds, total);
  if (!plan) return plan.error();
  return std::move(plan->rows);
}

/// Rows for each head, in the order of `heads`: `total` in all, by the policy and within the limits
/// (`apportion` says how exactly shares become rows).
///
/// policy: `budgets::uniform{}`, `budgets::pyramid{}`, `budgets::given{shares}`,
/// `budgets::influence{curves}`, or a caller's own type with a function `shares_of(policy, heads)`
/// beside it that returns `result<std::vector<double>>`. Errors: those of `bounds_of` and
/// `allocate_within`; among them `budget_out_of_range` where the total is below all minima together
/// or above all caps. Cost: O(H log H). Same input, same bytes.
///
///     auto rows = kvfit::allocate(heads, 4096, kvfit::budgets::pyramid{.last_share = 0.1},
///                                 {.at_least = 8, .max_ratio = 0.75});
template <class Policy>
[[nodiscard]] result<std::vector<index_t>> allocate(std::span<const head_rows> heads, index_t total,
                                                    const Policy& policy,
                                                    const head_limits& limits = {}) {
  const auto bounds = bounds_of(heads, limits);
  if (!bounds) return bounds.error();
  return allocate_within(heads, *bounds, total, policy);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
