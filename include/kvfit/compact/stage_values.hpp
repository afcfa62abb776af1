// SPDX-License-Identifier: MIT
/// What the stages of compact/stages.hpp take and give.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/known_scores.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/query_sets.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit::stages {
inline namespace KVFIT_ISA {

/// One head and what is asked of it. Refers to everything, owns nothing.
struct problem {
  kv_block cache;                  ///< T rows; those whose bias is −∞ are never kept
  query_set queries;               ///< n rows
  const compact_options& options;  ///< `protect` and `memory.cap` are not used
  /// Row 0 of `cache` is this row of the caller's.
  index_t first_row = 0;
  /// Rows, ascending by the caller's numbers, that stay beside those of `cache` as they are: the
  /// place of a row that does not fit its storage counts them.
  std::span<const index_t> exact = {};
  /// Where the queries chosen see no key, all are fitted on; false: as many, spread over all.
  bool may_fit_all = true;
  /// What the score pass over all `queries` gives as `options` ask for it, where that is known; it
  /// stands in for the pass if all are fitted on.
  const known_scores* known = nullptr;
  stop_when stop = {};
  executor_ref threads = {};  ///< as many panels are computed at once; changes no byte
};

/// Queries fitted on and held out, and full attention of the former.
struct scored {
  query_split parts;
  /// Of `parts.fit`, with what the selection wants; importance is that under all queries, those
  /// left out of the fit and held out included, but where a window says which.
  attention_scores fitted;
  index_t masked_queries = 0;  ///< those of `parts.fit` that see no key
};

/// What the compact cache is to give: full attention of both parts.
struct targets {
  query_split parts;
  attention_scores fitted;    ///< of `parts.fit`, without exponentials
  attention_scores held_out;  ///< of `parts.judge`, without importance; empty where there is none
};

/// Kept rows whose keys and biases stand.
struct refined {
  compacted rows;  ///< t rows; values only where a gradient method has moved them
  /// Made queries that the last steps were taken on, and that values are fitted to besides.
  std::vector<scored_set> sets = {};
  /// Where refinement has moved keys: the rows it started from.
  std::optional<compacted> start = {};
};

/// What n queries give t compact keys: softmax weights (n × t) and the log of their mass (n).
struct compact_attention {
  matrix weights;
  vector log_mass;
};

/// Kept rows as they will be stored, not judged yet.
struct valued {
  compacted rows;
  compact_attention attention;  ///< of the queries fitted on over `rows`
  matrix copies;  ///< t × d_v: the rows' own values as stored; empty where none may be returned
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::stages

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What a selection is told of a scored head.
inline selection_problem selection_problem_of(const stages::problem& of,
                                              const stages::scored& full) {
  return {.cache = full.parts.fit.beside(of.cache),
          .queries = full.parts.fit.set(),
          .rule = of.options.rule,
          .scores = &full.fitted,
          .budget = of.options.budget,
          .memory_cap = of.options.memory.selection,
          .first_row = of.first_row,
          .origins = full.parts.fit.origins,
          .stop = of.stop,
          .threads = of.threads};
}

/// How many of the ascending `rows` are below `row`.
inline index_t count_below(std::span<const index_t> rows, index_t row) noexcept {
  return std::lower_bound(rows.begin(), rows.end(), row) - rows.begin();
}

/// `round_to_storage` for numbers of the rows `positions` of `of.cache`; the error's place is that
/// in the whole result.
template <class Numbers>
result<void> round_rows(const stages::problem& of, std::span<const index_t> positions,
                        Numbers& numbers, dtype type, const char* argument) {
  const auto ok = round_to_storage(numbers, type, argument);
  if (ok) return ok;
  error cause = ok.error();
  const index_t row = of.first_row + positions[static_cast<std::size_t>(cause.actual)];
  cause.actual += count_below(of.exact, row);
  return cause;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
