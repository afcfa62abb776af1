// SPDX-License-Identifier: MIT
/// One run of a selection that serves every smaller budget.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/compact.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/compact/progressive_memory.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/compact/with_policies.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/selection/fixed.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// The rows that the selection picks for `options.budget` beside the protected rows `kept`, in its
/// order, by the caller's numbers.
template <class Selection, class Bias, class Values>
result<std::vector<index_t>> order_of_choice(const kv_block& cache, const query_set& queries,
                                             const compaction<Selection, Bias, Values>& options,
                                             const row_order& order, std::span<const index_t> kept,
                                             const stop_when& stop) {
  const open_rows where = open_stretch(options.protect, order, cache.keys.rows());
  const open_block open(cache, where, kept);
  const kv_block& block = open.block();
  const index_t visible = cache.keys.rows() - order.hidden();
  const auto budget = std::min(options.budget, visible) - static_cast<index_t>(kept.size());
  if (budget < 1) return std::vector<index_t>{};
  query_split parts = split_queries(queries, block.masks, options.held_out,
                                    fitted_share(options, queries.rows(), budget));
  const auto scores = score_checked(parts.fit.beside(block), parts.fit.set(), options.rule,
                                    fit_scores(options), parts.fit.origins, stop);
  if (!scores) return scores.error();
  auto chosen = select(
      options.selection,
      selection_problem{parts.fit.beside(block), parts.fit.set(), options.rule, &*scores, budget,
                        options.selection_memory, where.first, parts.fit.origins, stop});
  if (!chosen) return chosen.error();
  for (index_t& row : chosen->positions) row += where.first;
  return std::move(chosen->positions);
}

/// The policy that fits weights to rows chosen before: those of a selection's own belong to all of
/// its rows, and are fitted anew.
template <class Bias>
Bias fitted_anew(const Bias& policy) {
  return policy;
}
inline bias::nnls fitted_anew(const bias::from_selection&) {
  return {};
}
inline any_bias fitted_anew(const any_bias& policy) {
  return std::holds_alternative<bias::from_selection>(policy) ? any_bias{bias::nnls{}} : policy;
}

/// The same composition with rows that are given, as many as the budget.
template <class Selection, class Bias, class Values>
auto with_rows(const compaction<Selection, Bias, Values>& from, std::vector<index_t> rows) {
  using rows_given = std::conditional_t<std::is_constructible_v<Selection, selection::given>,
                                        Selection, selection::given>;
  auto options = with_policies(from, rows_given{selection::given{std::move(rows)}},
                               fitted_anew(from.bias), from.values);
  if (!from.gradient) {
    options.refine = decided_refinement(from);
  }
  return options;
}

/// `compact_progressive`, step by step.
template <class Selection, class Bias, class Values>
class progression {
 public:
  using options_type = compaction<Selection, Bias, Values>;

  progression(const kv_block& cache, const query_set& queries, const options_type& options,
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
    const progressive_memory memory(sizes, budgets_, largest, options_.memory);
    if (const auto ok = plan(memory); !ok) return ok.error();
    if (largest > 0) {
      const auto selecting = memory.for_selection(asked(largest));
      if (!selecting) return selecting.error();
      auto lowered = memory_planner<Selection, Bias, Values>(sizes, *selecting).run();
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
  [[nodiscard]] options_type asked(index_t budget) const {
    auto options = options_;
    options.budget = budget;
    return options;
  }
  [[nodiscard]] auto asked(index_t budget, std::vector<index_t> rows) const {
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
    const index_t open = std::min(budget - protected_, static_cast<index_t>(order_.size()));
    if (budget >= visible_ || open < 1) {
      const auto options = memory.for_fit(asked(budget), budget);
      if (!options) return options.error();
      return compact(cache_, queries_, *options, stop_);
    }
    const auto options =
        memory.for_fit(asked(open + protected_, {order_.begin(), order_.begin() + open}), budget);
    if (!options) return options.error();
    return compact(cache_, queries_, *options, stop_);
  }

  const kv_block& cache_;
  const query_set& queries_;
  const options_type& options_;
  std::span<const index_t> budgets_;
  stop_when stop_;
  index_t visible_ = 0;
  index_t protected_ = 0;
  std::vector<index_t> order_;
};

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

/// Compacts one head to each of `budgets` rows with one run of the selection, at the largest of
/// them that is below T: a smaller budget takes the first rows in the order of choice
/// (arXiv:2602.16284, where a greedy order is cut to any smaller t), and fits biases, keys and
/// values to those anew.
///
/// The first t rows of `highest_attention` are the t it would choose alone, from the same queries;
/// those of `omp` too where k = 1, but for rows that were dropped on the way; of others they are
/// near. Dead keys are not replaced, for the rows are given; in the place of weights that come with
/// a selection (`bias::from_selection`) stand those of `bias::nnls`.
///
/// budgets: each as `compaction::budget`, in any order; `options.budget` is not looked at.
/// `options.memory` caps the whole call, all results included: the selection does with less in the
/// order of `planned_memory`, as `compact` to the largest budget would, and so does each fit beside
/// the results of the others.
/// Errors: `empty_input` for no budget; those of `compact`, `memory_cap_exceeded` (bytes of the
/// whole call) before anything is computed, and `cancelled` once `stop` is due, which is looked at
/// as there. Cost: one score pass and one selection, and for each budget a score pass and the fits.
/// Same input, same bytes.
///
///     const kvfit::index_t wanted[] = {512, 256, 128};
///     auto all = kvfit::compact_progressive(cache, queries, options, wanted);  // all->at(2): 128
template <selection_policy Selection, bias_policy Bias, values_policy Values>
[[nodiscard]] result<std::vector<compacted>> compact_progressive(
    const kv_block& cache, const query_set& queries,
    const compaction<Selection, Bias, Values>& options, std::span<const index_t> budgets,
    const stop_when& stop = {}) {
  if (budgets.empty()) return error{errc::empty_input, "budgets", 0, error::none, {}};
  return detail::catch_bad_alloc("compact_progressive", [&] {
    return detail::progression(cache, queries, options, budgets, stop).run();
  });
}

/// The same with policies chosen at run time.
[[nodiscard]] inline result<std::vector<compacted>> compact_progressive(
    const kv_block& cache, const query_set& queries, const compact_options& options,
    std::span<const index_t> budgets, const stop_when& stop = {}) {
  return compact_progressive<any_selection, any_bias, any_values>(cache, queries, options, budgets,
                                                                  stop);
}

}  // namespace kvfit::inline KVFIT_ISA
