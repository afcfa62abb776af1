// SPDX-License-Identifier: MIT
/// One run of a selection that serves every smaller budget; see compact/progressive.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/compact/all_importance.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/compact/head_judge.hpp"
#include "kvfit/compact/memory_planner.hpp"
#include "kvfit/compact/progressive_memory.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/run.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/selection/fixed.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The rows that the selection picks for `options.budget` beside the protected rows `kept`, in its
/// order, by the caller's numbers.
inline result<selected_rows> order_of_choice(const kv_block& cache, const query_set& queries,
                                             const compact_options& options, const row_order& order,
                                             std::span<const index_t> kept, const stop_when& stop) {
  const open_rows where = open_stretch(options.protect, order, cache.keys.rows());
  const open_block open(cache, where, kept);
  const kv_block& block = open.block();
  const index_t visible = cache.keys.rows() - order.hidden();
  const auto budget = std::min(options.budget, visible) - static_cast<index_t>(kept.size());
  if (budget < 1) return selected_rows{};
  query_split parts = split_queries(queries, block.masks, options.queries.held_out,
                                    fitted_share(options, queries.rows(), budget));
  auto scores = score_checked(parts.fit.beside(block), parts.fit.set(), options.rule,
                              fit_scores(options), parts.fit.origins, stop);
  if (!scores) return scores.error();
  const executor_ref alone;
  head_judge judge(block, options.rule, parts, *scores, stop, alone);
  const auto ranked =
      rank_by_all(block, queries, options.rule, fit_scores(options),
                  fitted_share(options, queries.rows(), budget) >= 1, judge, *scores, stop, alone);
  if (!ranked) return ranked.error();
  auto chosen = select(
      options.selection,
      selection_problem{parts.fit.beside(block), parts.fit.set(), options.rule, &*scores, budget,
                        options.memory.selection, where.first, parts.fit.origins, stop});
  if (!chosen) return chosen.error();
  for (index_t& row : chosen->positions) row += where.first;
  return std::move(*chosen);
}

/// The first `count` of these rows; of those chosen by attention and of the others as many as their
/// part of all.
inline std::vector<index_t> first_rows(const selected_rows& order, index_t count) {
  const auto all = static_cast<index_t>(order.positions.size());
  const index_t most = order.report.by_attention;
  const index_t by_attention = all > 0 ? most * count / all : 0;
  const auto begin = order.positions.begin();
  std::vector<index_t> rows(begin, begin + by_attention);
  rows.insert(rows.end(), begin + most, begin + most + count - by_attention);
  return rows;
}

/// The same options with rows that are given, as many as the budget. Weights of a selection's own
/// belong to all of its rows, and are fitted anew.
inline compact_options with_rows(const compact_options& from, std::vector<index_t> rows) {
  compact_options options = from;
  options.selection = selection::given{std::move(rows)};
  if (options.bias.holds<bias::from_selection>()) options.bias = {};
  if (options.gradient.holds<no_gradient>()) options.refine = decided_refinement(from);
  return options;
}

/// `compact_progressive`, step by step.
class progression {
 public:
  progression(const kv_block& cache, const query_set& queries, const compact_options& options,
              std::span<const index_t> budgets, const stop_when& stop)
      : cache_(cache), queries_(queries), options_(options), budgets_(budgets), stop_(stop) {}

  result<std::vector<compacted>> run() {
    for (const index_t budget : budgets_) {
      if (auto ok = check_compaction(cache_, queries_, asked(budget)); !ok) return ok.error();
    }
    if (const auto ok = check_stop(stop_, "check"); !ok) return ok.error();
    const compaction_sizes sizes = sizes_of(cache_, queries_);
    visible_ = cache_.keys.rows() - sizes.order.hidden();
    const std::vector<index_t> kept = protected_rows(cache_, sizes.order, options_.protect);
    protected_ = static_cast<index_t>(kept.size());
    for (const index_t budget : budgets_) {
      const auto ok = check_protected_budget(budget, visible_, protected_);
      if (!ok) return ok.error();
    }
    index_t largest = 0;
    for (const index_t budget : budgets_) {
      if (budget < visible_) largest = std::max(largest, budget);
    }
    const progressive_memory memory(sizes, budgets_, largest, options_.memory.cap);
    if (const auto ok = plan(memory); !ok) return ok.error();
    if (largest > 0) {
      const auto selecting = memory.for_selection(asked(largest));
      if (!selecting) return selecting.error();
      auto lowered = memory_planner(sizes, *selecting).run();
      if (!lowered) return lowered.error();
      auto chosen = order_of_choice(cache_, queries_, lowered->options, sizes.order, kept, stop_);
      // Without a query that sees a row there is no order, and `compact` knows what to keep.
      if (!chosen && chosen.error().code != errc::all_masked) return chosen.error();
      if (chosen) order_ = std::move(*chosen);
    }
    std::vector<compacted> all;
    for (const index_t budget : budgets_) {
      auto fitted = fit(memory, budget);
      if (!fitted) return fitted.error();
      all.push_back(std::move(*fitted));
    }
    return all;
  }

 private:
  [[nodiscard]] compact_options asked(index_t budget) const {
    auto options = options_;
    options.budget = budget;
    return options;
  }
  [[nodiscard]] compact_options asked(index_t budget, std::vector<index_t> rows) const {
    auto options = with_rows(options_, std::move(rows));
    options.budget = budget;
    return options;
  }

  /// Whether every part can keep to its part of the cap.
  [[nodiscard]] result<void> plan(const progressive_memory& memory) const {
    for (const index_t budget : budgets_) {
      if (const auto ok = memory.for_fit(asked(budget), budget); !ok) return ok.error();
      if (budget >= visible_) continue;
      if (const auto ok = memory.for_fit(asked(budget, {}), budget); !ok) return ok.error();
    }
    return {};
  }

  result<compacted> fit(const progressive_memory& memory, index_t budget) const {
    const index_t open =
        std::min(budget - protected_, static_cast<index_t>(order_.positions.size()));
    if (budget >= visible_ || open < 1) {
      const auto options = memory.for_fit(asked(budget), budget);
      if (!options) return options.error();
      return compact_checked(cache_, queries_, *options, stop_, {});
    }
    const auto options = memory.for_fit(asked(open + protected_, first_rows(order_, open)), budget);
    if (!options) return options.error();
    return compact_checked(cache_, queries_, *options, stop_, {});
  }

  const kv_block& cache_;
  const query_set& queries_;
  const compact_options& options_;
  std::span<const index_t> budgets_;
  stop_when stop_;
  index_t visible_ = 0;
  index_t protected_ = 0;
  selected_rows order_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
