// SPDX-License-Identifier: MIT
/// What `compact_cache()` is asked: how each head is compacted, and how rows are shared out.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "kvfit/cache/allocate.hpp"
#include "kvfit/cache/global_ranking.hpp"
#include "kvfit/cache/layer_ranking.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/cache/shares.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::budgets {

/// So many rows for each head that is compacted, in the order of the view: a plan made elsewhere.
/// The total is their sum.
struct rows {
  std::vector<index_t> each;
};

}  // namespace kvfit::budgets

namespace kvfit {

/// Any way to share rows out among heads; the first is the default.
using any_budget =
    std::variant<budgets::uniform, budgets::pyramid, budgets::given, budgets::influence,
                 budgets::global_ranking, budgets::rows, budgets::layer_ranking>;

/// What becomes of a head whose method fails on the way (no query sees a key of it, a product
/// overflows, a fitted value does not fit its storage). Input that is wrong is always an error.
enum class head_fallback : std::uint8_t {
  none,  ///< the whole call fails with that head's error, and nothing is returned
  /// The rows that queries attend to most, or the last ones where no query sees any, are kept with
  /// their values and biases as they are; the head's report and the result's count say so.
  copies,
};

/// One compaction of a whole cache.
///
///     cache_options asked{.budget = rows_of(cache) / 20, .shares = budgets::pyramid{}};
///     asked.head.storage.rows = dtype::fp16;
struct cache_options {
  /// Σ t_h ≥ 1 over all heads that are compacted; as many rows as there are or more keep
  /// everything. Not used under `budgets::rows`.
  index_t budget = 0;
  /// How each head is compacted. Its own `budget` is not used; its rule and rotation hold for
  /// layers without their own. What `protect` names by number is so in every head; rows are shared
  /// out as if none of them were among a head's first or last ones.
  compact_options head = {};
  any_budget shares = budgets::uniform{};
  head_limits limits = {};         ///< with `at_least = 0` a head may be left without rows
  std::vector<index_t> skip = {};  ///< numbers of layers to leave as they are, besides sliding ones
  head_fallback fallback = head_fallback::none;
  /// Heads under way at the same time, each with a workspace of its own; 0: as many as the executor
  /// runs.
  index_t heads_at_once = 0;
  /// Bytes that the heads under way may hold together beyond inputs and finished results (a
  /// ranking's importance of each key is one; its scores kept for the fits are not, and are
  /// counted); none: as many as they take. Fewer heads run at a time then, which changes no byte; a
  /// head that needs more alone does with less in the order of `planned_memory`, as its report
  /// says, a ranking's score pass as `score_options::memory` says, or the call ends with
  /// `memory_cap_exceeded` before any head is compacted. What a fallback would take counts, too.
  std::optional<index_t> memory = {};
};

}  // namespace kvfit
