// SPDX-License-Identifier: MIT
/// Greedy selection on mass and output together: simultaneous orthogonal least squares.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/selection/fill.hpp"
#include "kvfit/selection/joint_search.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/selection/target_columns.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows that the queries are folded onto, where they are more; 0: they are not.
inline index_t folded_rows(const selection::joint& policy, index_t budget) noexcept {
  return policy.sketch > 0 ? std::max(policy.sketch, 5 * budget) : 0;
}

/// The prior must have a factor for each row of the problem.
inline result<void> check_prior(const selection::joint& policy, const selection_problem& problem) {
  const auto given = static_cast<index_t>(policy.prior.size());
  const index_t needed = problem.first_row + problem.cache.keys.rows();
  if (given == 0 || given >= needed) return {};
  return error{errc::shape_mismatch, "joint.prior", given, needed, "one factor for each row"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit::selection {
inline namespace KVFIT_ISA {

inline score_options wanted_scores(const selection::joint& policy) {
  return {.importance = policy.attention_share > 0 ? importance_kind::rms : importance_kind::none,
          .keep_exponentials = std::numeric_limits<index_t>::max()};
}

inline result<void> check_settings(const selection::joint& policy) {
  if (!(policy.mass_weight >= 0 && policy.mass_weight <= 1e6)) {
    return kvfit::detail::refuse_number("joint.mass_weight", policy.mass_weight,
                                        "must be in [0, 1e6]");
  }
  if (!(policy.attention_share >= 0 && policy.attention_share <= 1)) {
    return kvfit::detail::refuse_number("joint.attention_share", policy.attention_share,
                                        "must be in [0, 1]");
  }
  if (!(policy.exact_share >= 0 && policy.exact_share <= policy.attention_share)) {
    return kvfit::detail::refuse_number("joint.exact_share", policy.exact_share,
                                        "must be in [0, attention_share]");
  }
  if (policy.sweep < 1 || policy.sweep > 256) {
    return error{errc::invalid_option, "joint.sweep", policy.sweep, policy.sweep < 1 ? 1 : 256,
                 "must be in 1 ... 256"};
  }
  for (std::size_t row = 0; row < policy.prior.size(); ++row) {
    const float factor = policy.prior[row];
    if (factor >= 0 && std::isfinite(factor)) continue;
    return error{errc::invalid_option, "joint.prior", static_cast<index_t>(row), error::none,
                 "the one at this place must be finite and not negative, is " +
                     kvfit::detail::number_text(factor)};
  }
  if (policy.sketch < 0) {
    return error{errc::invalid_option, "joint.sketch", policy.sketch, 0, "must not be negative"};
  }
  return {};
}

/// Runs the search. Weights are left to the bias fit. Cost: n · T · (1 + d_v) multiply-adds to
/// begin with, T · (6 sweep + 1 + d_v) a pick, and n · T a key examined (two to four a pick), n
/// counted after folding. Memory: the exponentials as for `omp`,
/// T · (1 + d_v + 7 sweep + max(sketch, 5 t)) + r · (t + 5 sweep) + n · (1 + d_v) floats beside, r
/// the rows after folding.
inline result<selected_rows> select(const selection::joint& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const auto ok =
      policy.attention_share > 0 ? check_ranked_problem(problem) : check_problem(problem);
  if (!ok) return ok.error();
  if (const auto sized = detail::check_prior(policy, problem); !sized) return sized.error();
  result<selected_rows> chosen = selected_rows{};
  if (detail::rows_by_attention(policy, problem.budget) == problem.budget) {
    const vector ranks = detail::times_prior(problem.scores->importance, policy, problem.first_row);
    chosen->positions = highest_rows(problem, ranks.data(), problem.budget);
  } else {
    const index_t folded = detail::folded_rows(policy, problem.budget);
    chosen = detail::joint_search(problem, policy, folded).run();
    if (!chosen) return chosen;
  }
  chosen->report.by_attention = std::min(detail::rows_by_attention(policy, problem.budget),
                                         static_cast<index_t>(chosen->positions.size()));
  const auto exact = detail::share_of_rows(policy.exact_share, problem.budget);
  if (exact > 0) {
    chosen->is_exact.assign(chosen->positions.size(), 0);
    std::fill_n(chosen->is_exact.begin(),
                std::min(static_cast<std::size_t>(exact), chosen->positions.size()), 1);
  }
  return chosen;
}

/// Bytes that `select` holds at most, its result included.
inline double select_bytes(const selection::joint& policy, const head_sizes& sizes) {
  const index_t keys = sizes.keys;
  const index_t targets = 1 + sizes.width;
  const index_t sweep = std::min(policy.sweep, keys);
  const index_t folded = detail::folded_rows(policy, sizes.budget);
  const bool folds = folds_columns(sizes, folded);
  const index_t rows = folds ? folded : sizes.queries;
  const double begun = target_columns_bytes(sizes) + mass_columns_bytes(sizes) +
                       (folds ? float_bytes(rows, keys) : 0);
  // Rows of most attention that are taken at once.
  const index_t most = detail::rows_by_attention(policy, sizes.budget) > 0 ? 2 * sweep : 0;
  const double search = begun + float_bytes(sizes.queries) + static_cast<double>(keys) +
                        float_bytes(targets + 7 * sweep + (most > 0 ? sweep : 0) + 4, keys) +
                        float_bytes(sizes.budget + 2 * sweep + 1, rows) +
                        float_bytes(6 * sweep, targets + 2) +
                        grown_bytes(double_bytes(sizes.budget));
  const auto products = [&](index_t many) {  // with as many columns, result aside
    return float_bytes(2 * many, rows);
  };
  const double look = static_cast<double>(keys) + selection::highest_rows_bytes(2 * sweep) +
                      grown_bytes(double_bytes(2, sweep)) + products(sweep) +
                      float_bytes(sweep, rows) + float_bytes(sweep, sizes.budget) +
                      (folds ? 0 : columns_bytes(sizes, sweep));
  const double taking = most == 0 ? 0
                                  : 2 * selection::highest_rows_bytes(sizes.budget) +
                                        float_bytes(targets, rows) + 2 * products(most) +
                                        float_bytes(most, sizes.budget + targets) +
                                        (folds ? 0 : products(most) + columns_bytes(sizes, most));
  return std::max(begun + float_bytes(2, sizes.queries),
                  search + std::max({products(targets) + float_bytes(most > 0 ? targets : 0, rows),
                                     taking, look, fill_bytes(sizes)}));
}

constexpr bool may_replace(const selection::joint&) {
  return true;
}

constexpr bool refines_by_default(const selection::joint&) {
  return true;
}

static_assert(selection_policy<selection::joint>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
