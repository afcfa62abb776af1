// SPDX-License-Identifier: MIT
/// A selection under a cap on all memory that it holds.
#pragma once

#include <algorithm>
#include <concepts>
#include <limits>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// A selection that says what it takes at most.
template <class S>
concept sized_selection = selection_policy<S> &&
    requires(const S& policy, const head_sizes& sizes) {
  { select_bytes(policy, sizes) } -> std::convertible_to<double>;
};

/// The sizes of a selection's problem, for `select_bytes`.
inline head_sizes sizes_of_problem(const selection_problem& problem) noexcept {
  head_sizes sizes = sizes_of_head(problem.cache, problem.queries);
  sizes.budget = problem.budget;
  sizes.memory_cap = problem.memory_cap;
  sizes.has_exponentials = problem.scores != nullptr && problem.scores->exponentials.size() > 0;
  return sizes;
}

/// `select`, which then holds no more than `memory` ≥ 0 bytes beyond its problem, its result
/// included. Where it would hold more, `problem.memory_cap` is lowered: to n × T numbers in fp32
/// and no more; to less, so that columns are made anew where neither folding them
/// (`selection::joint::sketch`) nor bf16 makes up for it; to 0. The choice is the same but for
/// rounding, and with 0 joint selection uses all queries.
///
/// Errors: those of `check_problem`; `invalid_option` for a negative cap; `memory_cap_exceeded`,
/// with the least it needs, before anything is selected; those of `select`.
///
///     auto rows = select_within(selection::omp{}, problem, 64 << 20);
template <sized_selection S>
[[nodiscard]] result<selected_rows> select_within(const S& policy, const selection_problem& problem,
                                                  index_t memory) {
  if (memory < 0) return error{errc::invalid_option, "memory", memory, 0, "must not be negative"};
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  selection_problem asked = problem;
  double least = std::numeric_limits<double>::infinity();
  const double all = float_bytes(problem.queries.rows(), problem.cache.keys.rows());
  for (const index_t cap :
       {problem.memory_cap, whole_bytes(all), whole_bytes(std::max(all - 1, 0.0)), index_t{0}}) {
    asked.memory_cap = std::min(problem.memory_cap, cap);
    const double bytes = select_bytes(policy, sizes_of_problem(asked)) + small_bytes;
    if (bytes <= static_cast<double>(memory)) return select(policy, asked);
    least = std::min(least, bytes);
  }
  return error{errc::memory_cap_exceeded, "memory", whole_bytes(least), memory,
               "with nothing of n x T numbers stored"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
