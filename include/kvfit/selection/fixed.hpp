// SPDX-License-Identifier: MIT
/// Selections that do not use attention: first, last, random and given rows. Baselines, and for
/// engines that have chosen already.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Row numbers that may be kept, ascending.
inline std::vector<index_t> keepable_rows(const selection_problem& problem) {
  std::vector<index_t> rows;
  rows.reserve(static_cast<std::size_t>(problem.cache.keys.rows()));
  for (index_t row = 0; row < problem.cache.keys.rows(); ++row) {
    if (problem.may_keep(row)) rows.push_back(row);
  }
  return rows;
}

/// The same, ascending by position; rows at one position by number.
inline std::vector<index_t> keepable_rows_as_they_stand(const selection_problem& problem) {
  std::vector<index_t> rows = keepable_rows(problem);
  const kv_block& cache = problem.cache;
  if (cache.positions.empty()) return rows;
  std::sort(rows.begin(), rows.end(), [&cache](index_t a, index_t b) {
    return cache.position(a) != cache.position(b) ? cache.position(a) < cache.position(b) : a < b;
  });
  return rows;
}

inline std::size_t count_kept(const std::vector<index_t>& rows, const selection_problem& problem) {
  return (std::min)(rows.size(), static_cast<std::size_t>(problem.budget));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit::selection {
inline namespace KVFIT_ISA {

inline score_options wanted_scores(const selection::first&) {
  return {.importance = importance_kind::none};
}
inline score_options wanted_scores(const selection::last&) {
  return {.importance = importance_kind::none};
}
inline score_options wanted_scores(const selection::random&) {
  return {.importance = importance_kind::none};
}
inline score_options wanted_scores(const selection::given&) {
  return {.importance = importance_kind::none};
}

inline result<selected_rows> select(const selection::first&, const selection_problem& problem) {
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  std::vector<index_t> rows = detail::keepable_rows_as_they_stand(problem);
  rows.resize(detail::count_kept(rows, problem));
  return selected_rows{.positions = std::move(rows)};
}

inline result<selected_rows> select(const selection::last&, const selection_problem& problem) {
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  std::vector<index_t> rows = detail::keepable_rows_as_they_stand(problem);
  rows.erase(rows.begin(),
             rows.end() - static_cast<std::ptrdiff_t>(detail::count_kept(rows, problem)));
  return selected_rows{.positions = std::move(rows)};
}

inline result<selected_rows> select(const selection::random& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  std::vector<index_t> rows = detail::keepable_rows(problem);
  const std::size_t count = detail::count_kept(rows, problem);
  random_source draw(policy.seed);
  for (std::size_t i = 0; i < count; ++i) {  // Fisher–Yates, as far as needed
    const std::size_t j = i + static_cast<std::size_t>(draw.below(rows.size() - i));
    std::swap(rows[i], rows[j]);
  }
  rows.resize(count);
  return selected_rows{.positions = std::move(rows)};
}

inline result<selected_rows> select(const selection::given& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  const auto count = static_cast<index_t>(policy.positions.size());
  if (count != problem.budget) {
    return error{errc::shape_mismatch, "positions", count, problem.budget,
                 "as many rows as the budget"};
  }
  const index_t first = problem.first_row;
  const index_t end = first + problem.cache.keys.rows();
  std::vector<char> seen(static_cast<std::size_t>(end - first), 0);
  selected_rows chosen;
  for (const index_t row : policy.positions) {
    if (row < first || row >= end) {
      return error{errc::invalid_position, "positions", row, end, "not a row open to selection"};
    }
    if (!problem.may_keep(row - first)) {
      return error{errc::invalid_position, "positions", row, error::none,
                   "its bias hides this key, or it is protected"};
    }
    if (std::exchange(seen[static_cast<std::size_t>(row - first)], 1) != 0) {
      return error{errc::invalid_position, "positions", row, error::none, "given twice"};
    }
    chosen.positions.push_back(row - first);
  }
  return chosen;
}

/// What `select` holds, its result included.
inline void declare(workspace& space, const selection::first&, const head_sizes& sizes) {
  space.count(double_bytes(sizes.keys));
}
inline void declare(workspace& space, const selection::last&, const head_sizes& sizes) {
  space.count(double_bytes(sizes.keys));
}
inline void declare(workspace& space, const selection::random&, const head_sizes& sizes) {
  space.count(double_bytes(sizes.keys));
}
inline void declare(workspace& space, const selection::given&, const head_sizes& sizes) {
  space.count(static_cast<double>(sizes.keys) + grown_bytes(double_bytes(sizes.budget)));
}

static_assert(selection_policy<selection::first> && selection_policy<selection::last> &&
              selection_policy<selection::random> && selection_policy<selection::given>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
