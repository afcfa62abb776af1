// SPDX-License-Identifier: MIT
/// What `compact()` says of its own work.
#pragma once

#include <optional>

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/linalg/bounded_report.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "kvfit/refine/refinement.hpp"
#include "kvfit/selection/problem.hpp"

namespace kvfit {

/// Seconds of each stage.
struct stage_seconds {
  double check = 0;  ///< reading every input for NaN and infinity
  double score = 0;  ///< full attention
  double select = 0;
  double bias = 0;  ///< dead keys' replacement included
  double values = 0;
  double judge = 0;   ///< errors of the result
  double refine = 0;  ///< refinement, its fits and judgements included, or gradient method
  double total = 0;
};

/// The memory of a call, known before it begins: what it holds at most beyond its inputs, and what
/// `compact_options::memory.cap` made it do without.
struct memory_report {
  index_t needed = 0;  ///< bytes: an upper bound, the result included
  index_t wanted = 0;  ///< the same where there is no cap
  index_t result = 0;  ///< bytes of keys, values, biases and positions returned
  /// False: a policy of the caller's does not say what it takes, and counts as nothing.
  bool is_complete = true;

  /// The cap took from what the selection stores of n × T numbers: a copy in bf16, all in fp32, or
  /// folded ones (compact/memory_plan.hpp).
  bool lowers_selection = false;
  /// Panels of queries scored at the same time: the threads of the call's executor, but one where
  /// the cap binds.
  index_t panels_at_once = 1;
  bool lowers_refinement = false;  ///< fewer made sets beside a batch, or smaller batches
  bool lowers_queries = false;     ///< fewer queries are fitted on, or never more than were chosen
  index_t selection_memory = 0;    ///< as it was used
  index_t refine_batch = 0;        ///< `refinement::batch` as it was used
  int refine_sets_at_once = 0;     ///< made sets beside the given queries, as many as were used
  index_t fitted_queries = 0;      ///< queries not held out that are fitted on, at most
};

/// Everything describes the result that is returned, and the rows that were open to selection
/// (protected rows are exact and left out).
struct compact_report {
  bool is_identity = false;  ///< the budget holds every row: nothing was fitted
  fidelity train;            ///< on the queries fitted on
  /// On the queries held out, if any. Nothing is fitted to them; where rows are ranked by
  /// attention, theirs counts, too.
  std::optional<fidelity> held_out;
  double mass_residual = 0;  ///< √(Σ_i (ŷ_i / y_i − 1)² / n) over the queries fitted on

  selection_report selection;
  bool is_bias_fitted = false;
  linalg::bounded_report bias;     ///< status of the weights' fit
  index_t dead_keys = 0;           ///< keys whose weight still is on its floor
  index_t dead_keys_replaced = 0;  ///< slots that were given to another key
  /// False: copied, by request or because copies judged better, or tied to the keys.
  bool is_values_fitted = false;
  bool copies_judged_better = false;    ///< the fitted values lost against copied ones
  linalg::least_squares_report values;  ///< empty where the joint loss moved them
  refinement_report refinement;
  gradient_report gradient;    ///< zeros without `compact_options::gradient`
  index_t masked_queries = 0;  ///< queries that see no key: left out of every fit

  memory_report memory;

  stage_seconds seconds;
};

}  // namespace kvfit
