// SPDX-License-Identifier: MIT
/// What a selection reads, and what it returns.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit {

/// One head, scored, from which `budget` rows are to be kept.
struct selection_problem {
  kv_block cache;     ///< T rows
  query_set queries;  ///< n rows
  logit_rule rule;
  const attention_scores* scores = nullptr;  ///< of `cache` under `queries`
  index_t budget = 0;                        ///< 1 … T
  /// Bytes a selection may spend on storing n × T numbers, those of the score pass among them;
  /// where they do not fit, it recomputes them.
  index_t memory_cap = (std::numeric_limits<index_t>::max)();
  /// Row 0 of `cache` is this row of the caller's: not 0 where rows before it are protected or
  /// hidden.
  index_t first_row = 0;
  /// One per query block where these are parts of the caller's; empty: each is a query head's own.
  std::span<const block_origin> origins = {};
  /// Greedy selections check it before every round, and end with `cancelled` once it is due.
  stop_when stop = {};
  /// Who runs what can be done at the same time; what is chosen does not depend on it.
  executor_ref threads = {};

  /// A key whose own bias hides it from every query is never kept, nor read. So are those hidden
  /// that `compact` protects between the others.
  [[nodiscard]] bool may_keep(index_t row) const noexcept { return !cache.is_hidden(row); }
};

/// What a selection says of its work.
struct selection_report {
  int rounds = 0;       ///< greedy rounds
  int refits = 0;       ///< weight fits within the selection
  index_t dropped = 0;  ///< keys taken out again for a weight under the cutoff
  index_t filled = 0;   ///< keys added by importance because mass was already explained
  /// Keys chosen by attention before any round, the first of the list as the selection gave it.
  index_t by_attention = 0;
  /// The memory cap forbade storing n × T numbers at any precision: each round made them anew.
  bool recomputed = false;
};

/// What a selection returns.
struct selected_rows {
  std::vector<index_t> positions = {};  ///< distinct rows, in the order of choice; at most `budget`
  std::vector<double> weights = {};     ///< one each where the selection fitted weights, else empty
  selection_report report = {};
};

/// A selection: a type S with `score_options wanted_scores(const S&)` and
/// `result<selected_rows> select(const S&, const selection_problem&)`, found beside S. What it
/// holds, its result included, it may list by `void declare(workspace&, const S&, const
/// head_sizes&)`
/// (`planned_memory`).
template <class S>
concept selection_policy = requires(const S& policy, const selection_problem& problem) {
  { wanted_scores(policy) } -> std::same_as<score_options>;
  { select(policy, problem) } -> std::same_as<result<selected_rows>>;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// The sizes of a selection's problem.
inline head_sizes sizes_of_problem(const selection_problem& problem) noexcept {
  head_sizes sizes = sizes_of_head(problem.cache, problem.queries);
  sizes.budget = problem.budget;
  sizes.memory_cap = problem.memory_cap;
  if (problem.scores != nullptr) {
    const attention_scores& scores = *problem.scores;
    sizes.has_exponentials = scores.exponentials.rows() == sizes.keys &&
                             scores.exponentials.cols() == sizes.queries &&
                             scores.shift.size() == sizes.queries;
  }
  return sizes;
}

/// Errors common to all selections: a budget outside 1 … T, and scores or origins of other queries.
inline result<void> check_problem(const selection_problem& problem) {
  const index_t rows = problem.cache.keys.rows();
  if (problem.scores == nullptr) return error{errc::null_data, "scores"};
  if (problem.scores->max.size() != problem.queries.rows()) {
    return error{errc::shape_mismatch, "scores", problem.scores->max.size(), problem.queries.rows(),
                 "one score per query"};
  }
  const auto origins = static_cast<index_t>(problem.origins.size());
  const auto blocks = static_cast<index_t>(problem.queries.blocks().size());
  if (origins != 0 && origins != blocks) {
    return error{errc::shape_mismatch, "origins", origins, blocks, "one per query block, or none"};
  }
  if (problem.budget < 1 || problem.budget > rows) {
    return error{errc::budget_out_of_range, "budget", problem.budget, rows, "must be in 1 ... T"};
  }
  return {};
}

/// The same for selections that rank keys by importance: the score pass must have been asked for
/// it.
inline result<void> check_ranked_problem(const selection_problem& problem) {
  if (const auto ok = check_problem(problem); !ok) return ok;
  if (problem.scores->importance.size() != problem.cache.keys.rows()) {
    return error{errc::shape_mismatch, "importance", problem.scores->importance.size(),
                 problem.cache.keys.rows(), "score with the selection's wanted_scores()"};
  }
  return {};
}

/// Whether `compact()` may give a slot of this selection to another row. No, unless the selection
/// says otherwise: a caller who names rows wants these rows.
template <selection_policy S>
constexpr bool may_replace(const S&) {
  return false;
}

/// Whether keys chosen by this selection are refined where the caller does not say (`refinement`).
/// No, unless the selection says otherwise.
template <selection_policy S>
constexpr bool refines_by_default(const S&) {
  return false;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
