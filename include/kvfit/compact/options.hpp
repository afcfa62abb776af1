// SPDX-License-Identifier: MIT
/// What `compact()` is asked: three policies and a few numbers, all but the budget with defaults.
#pragma once

#include <optional>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/score_request.hpp"
#include "kvfit/bias/any_bias.hpp"
#include "kvfit/compact/protection.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/precision.hpp"
#include "kvfit/refine/any_gradient.hpp"
#include "kvfit/refine/refinement.hpp"
#include "kvfit/selection/any_selection.hpp"
#include "kvfit/values/any_values.hpp"

namespace kvfit {

/// Which of the given queries are fitted on, and which judge.
struct query_use {
  /// Share of the queries kept from the fit to judge it, in [0, 0.5]; 0: none. Rows ranked by their
  /// attention are ranked by all queries, held out or not, but where a window says which.
  double held_out = 0.0625;
  /// Fits take this many queries for each row kept, ≥ 0, or `at_least` where that is more, evenly
  /// spread over those that are given and not held out. 0: all of them. Ranks are by all.
  index_t per_row = 48;
  index_t at_least = 16384;  ///< ≥ 1
};

/// How the caller will store the result: it is rounded to these types, and what is fitted later
/// sees the rounded numbers. Types whose numbers stand on their own (fp32, fp16, bf16, fp8).
struct storage_types {
  dtype rows = dtype::fp32;  ///< keys and values
  dtype bias = dtype::fp32;
};

/// What a call may take.
struct memory_limits {
  /// Bytes, ≥ 0, that the call may hold at once beyond its inputs, its result included; none: as
  /// many as it takes. Where its estimate (compact/memory_plan.hpp) says more it does with less, in
  /// the order given there, and `compact_report::memory` says how; where nothing helps, it ends
  /// with `memory_cap_exceeded` before anything is computed.
  std::optional<index_t> cap = {};
  /// Bytes, ≥ 0, that a selection may spend on n × T numbers; where they do not fit it makes them
  /// anew (OMP: most often only a few of them, found by a copy in bf16 if that fits), and chooses
  /// the same but for what rounding decides (in bf16 that of bf16: columns made anew are fp32).
  index_t selection = index_t{1} << 30;
};

/// One compaction. `budget` has no default; all else is the best measured.
///
///     compact_options mine{.budget = 2, .selection = selection::given{{3, 7}},
///                          .values = values::copy{}};
struct compact_options {
  /// t ≥ 1 rows to keep, protected ones included; as many as are visible or more keep all of them.
  index_t budget = 0;
  logit_rule rule = {};  ///< scale, soft-cap, causality, window
  any_selection selection = {};
  any_bias bias = {};
  any_values values = {};
  refinement refine = {};  ///< of the chosen keys; with 0 steps they stay the rows they are
  /// The published gradient methods instead of refinement: what they leave is returned without a
  /// guard, as published. Biases move, whatever `bias` started them from. Not beside `refine.steps`
  /// > 0 (with none given, none are taken), nor under copied values.
  any_gradient gradient = {};

  /// Rows (sinks, recent tokens, any others by number) that keep their key, value and bias, rounded
  /// to `storage` and no more. They count towards the budget; only the other visible rows are
  /// selected from and fitted. Where no query sees any of these (a window, say), the protected rows
  /// are all that is kept.
  protection protect = {};

  query_use queries = {};
  storage_types storage = {};
  memory_limits memory = {};

  /// Keys whose fitted weight ends on its floor hold a slot without being needed: give the slot to
  /// the row that explains most of the missing mass and fit again, at most three times. Only for
  /// selections that may choose freely (`may_replace`).
  bool replace_dead_keys = true;
  /// Where copied values judge better than fitted ones (on the held-out queries, or on all), return
  /// those.
  bool keep_better_values = true;
  /// The values are columns of the keys, d_v of them from this one on, in [0, d_k − d_v]
  /// (DeepSeek's MLA: 0, d_v = 512 of d_k = 576; K = V: 0): key and value of a row stay one vector,
  /// so that the result can be stored where the keys were. Bits must agree in every row of the
  /// input, and do in every row of the result. Nothing fits values then: `values` must be its
  /// default or `copy`, which mean the same here, `gradient` none, and `keep_better_values` is not
  /// used. Refinement moves a row's one vector in both roles; with 0 steps rows are copied and
  /// the bias alone is fitted (docs/algorithm.md, Tied values).
  std::optional<index_t> tied_values_from = {};
  /// Of the score pass over the queries fitted on, of passes that only rank rows, and of
  /// `budgets::global_ranking`'s. Queries held out judge in fp32, as do those that refinement
  /// makes. With AVX-512 BF16 a score pass in bf16 takes 0.7 of the time and one in three
  /// products 1.6 of it; compactions of many rows lose up to 4 % in bf16, and nothing in three
  /// products (docs/performance.md).
  precision_kind precision = precision_kind::fp32;
  /// Who runs the score passes over the queries fitted on, those held out, and those that only rank
  /// rows, 192 of a block at a time: by default the CPU.
  score_runner score_by = {};
};

}  // namespace kvfit
