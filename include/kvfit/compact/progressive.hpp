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
#include "kvfit/compact/parted_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/selection/fixed.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// The rows between the protected ones that the selection picks for `options.budget`, in its order,
/// by the caller's numbers.
template <class Selection, class Bias, class Values>
result<std::vector<index>> order_of_choice(const kv_block& cache, const query_set& queries,
                                           const compaction<Selection, Bias, Values>& options) {
  const index head = options.protect_first;
  const block_slice open(cache, head, cache.keys.rows() - head - options.protect_last);
  const kv_block& block = open.block();
  const index visible = count_visible(block, 0, block.keys.rows());
  const index budget = std::min(options.budget - head - options.protect_last, visible);
  if (budget < 1) return std::vector<index>{};
  query_split parts = split_queries(queries, block.masks, options.held_out,
                                    fitted_share(options, queries.rows(), budget));
  score_options wanted = wanted_scores(options.selection);
  wanted.keep_exponentials = std::min(wanted.keep_exponentials, options.selection_memory);
  const auto scores = score_checked(parts.fit.beside(block), parts.fit.set(), options.rule, wanted,
                                    parts.fit.origins);
  if (!scores) return scores.error();
  auto chosen =
      select(options.selection,
             selection_problem{parts.fit.beside(block), parts.fit.set(), options.rule, &*scores,
                               budget, options.selection_memory, head, parts.fit.origins});
  if (!chosen) return chosen.error();
  for (index& row : chosen->positions) row += head;
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

/// The same composition with rows that are given.
template <class Selection, class Bias, class Values>
auto with_rows(const compaction<Selection, Bias, Values>& from, std::vector<index> rows) {
  using rows_given = std::conditional_t<std::is_constructible_v<Selection, selection::given>,
                                        Selection, selection::given>;
  const auto kept = static_cast<index>(rows.size()) + from.protect_first + from.protect_last;
  const bool refines = refines_by_default(from.selection) && fits_values(from.values);
  compaction<rows_given, decltype(fitted_anew(from.bias)), Values> options{
      .budget = kept,
      .rule = from.rule,
      .selection = selection::given{std::move(rows)},
      .bias = fitted_anew(from.bias),
      .values = from.values,
      .refine = with_steps(from.refine, refines),
      .gradient = from.gradient,
      .protect_first = from.protect_first,
      .protect_last = from.protect_last,
      .held_out = from.held_out,
      .queries_per_row = from.queries_per_row,
      .queries_at_least = from.queries_at_least,
      .keep_better_values = from.keep_better_values,
      .storage = from.storage,
      .bias_storage = from.bias_storage,
      .selection_memory = from.selection_memory,
      .memory = from.memory};
  return options;
}

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
/// Errors: `empty_input` for no budget; those of `compact`. Cost: one score pass and one selection,
/// and for each budget a score pass and the fits. Same input, same bytes.
///
///     const kvfit::index wanted[] = {512, 256, 128};
///     auto all = kvfit::compact_progressive(cache, queries, options, wanted);  // all->at(2): 128
template <selection_policy Selection, bias_policy Bias, values_policy Values>
[[nodiscard]] result<std::vector<compacted>> compact_progressive(
    const kv_block& cache, const query_set& queries,
    const compaction<Selection, Bias, Values>& options, std::span<const index> budgets) {
  if (budgets.empty()) return error{errc::empty_input, "budgets", 0, error::none, {}};
  return detail::guard_memory("compact_progressive", [&]() -> result<std::vector<compacted>> {
    auto asked = options;
    for (const index budget : budgets) {
      asked.budget = budget;
      if (auto ok = detail::check_compaction(cache, queries, asked); !ok) return ok.error();
    }
    const index visible = detail::count_visible(cache, 0, cache.keys.rows());
    asked.budget = 0;
    for (const index budget : budgets) {
      if (budget < visible) asked.budget = std::max(asked.budget, budget);
    }
    std::vector<index> order;
    if (asked.budget > 0) {
      auto chosen = detail::order_of_choice(cache, queries, asked);
      // Without a query that sees a row there is no order, and `compact` knows what to keep.
      if (!chosen && chosen.error().code != errc::all_masked) return chosen.error();
      if (chosen) order = std::move(*chosen);
    }
    std::vector<compacted> all;
    for (const index budget : budgets) {
      const index open = std::min(budget - options.protect_first - options.protect_last,
                                  static_cast<index>(order.size()));
      asked.budget = budget;
      auto fitted =
          budget >= visible || open < 1
              ? compact(cache, queries, asked)
              : compact(cache, queries,
                        detail::with_rows(options, {order.begin(), order.begin() + open}));
      if (!fitted) return fitted.error();
      all.push_back(std::move(*fitted));
    }
    return all;
  });
}

/// The same with policies chosen at run time.
[[nodiscard]] inline result<std::vector<compacted>> compact_progressive(
    const kv_block& cache, const query_set& queries, const compact_options& options,
    std::span<const index> budgets) {
  return compact_progressive<any_selection, any_bias, any_values>(cache, queries, options, budgets);
}

}  // namespace kvfit::inline KVFIT_ISA
