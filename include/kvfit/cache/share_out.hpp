// SPDX-License-Identifier: MIT
/// A cache's rows shared out among its heads by the budget policy of its options.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline std::vector<head_rows> lengths_of(std::span<const head_task> tasks) {
  std::vector<head_rows> heads;
  heads.reserve(tasks.size());
  for (const head_task& task : tasks) heads.push_back({task.id, task.visible});
  return heads;
}

/// Rows of all heads; `check_heads` lets through no lengths whose sum does not fit.
inline index_t total_length(std::span<const head_rows> heads) {
  return std::accumulate(heads.begin(), heads.end(), index_t{0},
                         [](index_t sum, const head_rows& head) { return sum + head.rows; });
}

/// Rows that `asked` protects of a head with `visible` rows, at least and at most: named rows may
/// be among its first and last ones.
inline protected_count count_protected(const protection& asked, index_t visible) noexcept {
  if (asked.first < 0 || asked.last < 0) return {};  // refused with the heads
  const index_t first = (std::min)(asked.first, visible);
  const index_t ends = first + (std::min)(asked.last, visible - first);
  const index_t named = (std::min)(static_cast<index_t>(asked.rows.size()), visible);
  return {(std::max)(ends, named), ends + (std::min)(named, visible - ends)};
}

/// The limits of the options, and space in every head for as many rows as may be protected and one
/// besides.
inline result<std::vector<row_bounds>> bounds_of_tasks(std::span<const head_rows> heads,
                                                       const cache_options& options) {
  auto bounds = bounds_of(heads, options.limits);
  if (!bounds) return bounds;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const index_t kept = count_protected(options.head.protect, heads[h].rows).most;
    if (kept == 0) continue;
    row_bounds& own = (*bounds)[h];
    own.least = (std::max)(own.least, (std::min)(kept + 1, heads[h].rows));
    own.most = (std::max)(own.most, own.least);
  }
  return bounds;
}

/// Rows that the caller has given, no more than there are.
inline result<std::vector<index_t>> given_rows(const std::vector<index_t>& each,
                                               std::span<const head_rows> heads,
                                               const cache_options& options) {
  if (each.size() != heads.size()) {
    return error{errc::shape_mismatch, "shares.each", static_cast<index_t>(each.size()),
                 static_cast<index_t>(heads.size()), "one number for each head to compact"};
  }
  std::vector<index_t> rows = each;
  for (std::size_t h = 0; h < rows.size(); ++h) {
    const index_t kept = count_protected(options.head.protect, heads[h].rows).least;
    const index_t least = kept > 0 ? kept + 1 : 0;
    rows[h] = (std::min)(rows[h], heads[h].rows);
    if (rows[h] < (std::min)(least, heads[h].rows)) {
      return error{errc::budget_out_of_range, name(heads[h].id), rows[h], least,
                   "must exceed the protected rows, and not be negative"};
    }
  }
  return rows;
}

/// What a policy ranks keys by; null for policies that rank none.
inline const selection::highest_attention* ranking_of(const any_budget& shares) noexcept {
  if (const auto* all = std::get_if<budgets::global_ranking>(&shares)) return &all->by;
  if (const auto* layer = std::get_if<budgets::layer_ranking>(&shares)) return &layer->by;
  return nullptr;
}

/// Refuses budgets before any key is read. True where the policy ranks keys and not all can be
/// kept: `share_out` then needs their importance.
inline result<bool> check_shares(std::span<const head_rows> heads, const cache_options& options) {
  if (const auto ok = check_heads(heads); !ok) return ok.error();
  if (std::holds_alternative<budgets::rows>(options.shares)) return false;
  if (options.budget < 1) {
    return error{errc::budget_out_of_range, "budget", options.budget, 1, "must be at least 1"};
  }
  if (options.budget >= total_length(heads)) return false;
  const auto bounds = bounds_of_tasks(heads, options);
  if (!bounds) return bounds.error();
  if (const auto ok = check_total(*bounds, options.budget); !ok) return ok.error();
  const auto* ranking = ranking_of(options.shares);
  if (ranking == nullptr) return false;
  if (const auto ok = check_settings(*ranking); !ok) return ok.error();
  if (const auto* layer = std::get_if<budgets::layer_ranking>(&options.shares)) {
    if (const auto ok = check_safeguard(layer->safeguard); !ok) return ok.error();
  }
  return true;
}

/// Rows by the policy of options that `check_shares` lets through, within bounds and with an exact
/// sum. importance: of the keys of each head, where `check_shares` asks for it; sorted.
inline result<std::vector<index_t>> share_out(std::span<const head_rows> heads,
                                              const cache_options& options,
                                              std::span<std::vector<float>> importance) {
  const auto* given = std::get_if<budgets::rows>(&options.shares);
  if (given != nullptr) return given_rows(given->each, heads, options);
  if (options.budget >= total_length(heads)) {
    std::vector<index_t> all;
    for (const head_rows& head : heads) all.push_back(head.rows);
    return all;
  }
  const auto bounds = bounds_of_tasks(heads, options);
  if (!bounds) return bounds.error();
  return std::visit(
      [&]<class Policy>(const Policy& policy) -> result<std::vector<index_t>> {
        if constexpr (std::is_same_v<Policy, budgets::rows>) {
          return given_rows(policy.each, heads, options);
        } else if constexpr (std::is_same_v<Policy, budgets::global_ranking>) {
          return rank_globally(importance, *bounds, options.budget);
        } else if constexpr (std::is_same_v<Policy, budgets::layer_ranking>) {
          return rank_in_layers(importance, heads, *bounds, options.budget, policy.safeguard);
        } else {
          return allocate_within(heads, *bounds, options.budget, policy);
        }
      },
      options.shares);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
