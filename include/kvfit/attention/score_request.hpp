// SPDX-License-Identifier: MIT
/// A score pass as it is asked of someone else: another processor, or an engine that has the scores
/// already.
#pragma once

#include <span>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/score_target.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit {

/// Inputs and options that were checked; `options.memory`, `panel` and `precision` may be ignored.
struct score_request {
  const kv_block& cache;
  query_set queries;
  const logit_rule& rule;
  const score_options& options;
  std::span<const block_origin> origins = {};  ///< as in `selection_problem`
  stop_when stop = {};
  score_target to = {};
};

/// Who runs a compaction's score passes in place of the CPU. Called once a pass, perhaps from
/// several threads at once. What it refers to must outlive the call it is given to.
struct score_runner {
  void* owner = nullptr;
  /// Writes everything asked for and says so by true, or leaves the pass to the CPU by false, which
  /// then reports what is wrong with it. An error ends the compaction. Null: the CPU runs all.
  result<bool> (*run)(void* owner, const score_request& request) = nullptr;

  friend bool operator==(const score_runner&, const score_runner&) = default;
};

}  // namespace kvfit
