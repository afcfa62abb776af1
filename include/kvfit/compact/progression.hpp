// SPDX-License-Identifier: MIT
/// One run of a selection that serves every smaller budget; see compact/progressive.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/compact/decided_refinement.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/compact/memory_planner.hpp"
#include "kvfit/compact/progressive_memory.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/run.hpp"
#include "kvfit/compact/stages.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/selection/fixed.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

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
      if (budget < visible_) largest = (std::max)(largest, budget);
    }
    const progressive_memory memory(sizes, budgets_, largest, options_.memory.cap);
    if (const auto ok = plan(memory, largest); !ok) return ok.error();
    if (largest > 0) {
      const auto selecting = memory.for_selection(asked(largest));
      if (!selecting) return selecting.error();
      auto lowered = memory_planner(sizes, *selecting).run();
      if (!lowered) return lowered.error();
      auto chosen = order_of_choice(*lowered, sizes.order, kept);
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
  /// The same with rows that are given, as many as the budget. Weights of a selection's own belong
  /// to all of its rows, and are fitted anew.
  [[nodiscard]] compact_options asked(index_t budget, std::vector<index_t> rows) const {
    auto options = asked(budget);
    options.selection = selection::given{std::move(rows)};
    if (options.bias.holds<bias::from_selection>()) options.bias = {};
    options.refine = decided_refinement(options_);
    return options;
  }

  /// The rows that the selection picks for the budget of `plan` beside the protected rows `kept`,
  /// in its order.
  result<selected_rows> order_of_choice(memory_plan& plan, const row_order& order,
                                        std::span<const index_t> kept) const {
    compact_options& options = plan.options;
    options.budget -= protected_;
    const open_rows where = open_stretch(options.protect, order, cache_.keys.rows());
    const block_slice open(cache_, where.first, where.count, kept);
    const stages::problem head{.cache = open.block(),
                               .queries = queries_,
                               .options = options,
                               .first_row = where.first,
                               .exact = kept,
                               .may_fit_all = !plan.report.lowers_queries,
                               .stop = stop_};
    const auto full = stages::score(head);
    if (!full) return full.error();
    auto chosen = stages::select(head, *full);
    if (!chosen) return chosen.error();
    for (index_t& row : chosen->positions) row += where.first;
    return chosen;
  }

  /// The first `count` rows in the order of choice; of those chosen by attention and of the others
  /// as many as their part of all.
  [[nodiscard]] std::vector<index_t> first_rows(index_t count) const {
    const auto all = static_cast<index_t>(order_.positions.size());
    const index_t most = order_.report.by_attention;
    const index_t by_attention = most * count / all;
    const auto begin = order_.positions.begin();
    std::vector<index_t> rows(begin, begin + by_attention);
    rows.insert(rows.end(), begin + most, begin + most + count - by_attention);
    return rows;
  }

  /// Whether every part can keep to its part of the cap; else the refusal of the part that needs
  /// most, so that a cap of what it says is enough for all.
  [[nodiscard]] result<void> plan(const progressive_memory& memory, index_t largest) const {
    std::optional<error> refusal;
    const auto note = [&](const result<compact_options>& part) {
      if (!part && (!refusal || refusal->actual < part.error().actual)) refusal = part.error();
    };
    if (largest > 0) note(memory.for_selection(asked(largest)));
    for (const index_t budget : budgets_) {
      note(memory.for_fit(asked(budget), budget));
      if (budget < visible_) note(memory.for_fit(asked(budget, {}), budget));
    }
    if (refusal) return *refusal;
    return {};
  }

  result<compacted> fit(const progressive_memory& memory, index_t budget) const {
    const index_t open =
        (std::min)(budget - protected_, static_cast<index_t>(order_.positions.size()));
    const bool is_ordered = budget < visible_ && open > 0;
    const auto options = memory.for_fit(
        is_ordered ? asked(open + protected_, first_rows(open)) : asked(budget), budget);
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
