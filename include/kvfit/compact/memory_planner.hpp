// SPDX-License-Identifier: MIT
/// The search for options that keep to a cap; see compact/memory_plan.hpp.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/compact/check.hpp"
#include "kvfit/compact/head_memory.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/report.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Options under which the call keeps to its cap, and what it says about that.
struct memory_plan {
  compact_options options;
  memory_report report;
};

/// Searches options of no more than `cap` bytes; see `planned_memory`.
class memory_planner {
 public:
  /// Both must outlive this, and be sound.
  memory_planner(const compaction_sizes& sizes, const compact_options& options)
      : sizes_(sizes), given_(options) {
    for (const index_t rows : sizes.query_rows) queries_ += rows;
    const index_t visible = sizes.keys - sizes.order.hidden();
    keeps_all_ = options.budget >= visible;
    protected_ = count_protected(options.protect, sizes.order, sizes.keys);
    open_ = open_stretch(options.protect, sizes.order, sizes.keys).count;
    kept_ = (std::min)(options.budget, visible);
  }

  result<memory_plan> run() {
    compact_options now = given_;
    panels_at_once_ = sizes_.threads;
    const double wanted = bytes(now);
    const double cap = given_.memory.cap ? static_cast<double>(*given_.memory.cap)
                                         : std::numeric_limits<double>::infinity();
    bool fits = wanted <= cap;
    if (!fits) {
      panels_at_once_ = 1;
      fits = bytes(now) <= cap || search(now, cap);
    }
    if (!fits) {
      return error{errc::memory_cap_exceeded, "memory.cap", whole_bytes(bytes(now)),
                   *given_.memory.cap, "with all that a cap may take taken"};
    }
    return memory_plan{now, report(now, wanted)};
  }

 private:
  /// For what is small, and what an allocator adds to every block.
  static constexpr double small_change = 256.0 * 1024;
  static constexpr index_t least_batch = 512;
  static constexpr index_t least_queries = 256;

  /// Bytes of the whole call under `options`.
  [[nodiscard]] double bytes(const compact_options& options) const {
    workspace space;
    space.count(small_change + lists_of_options());
    declare_beside(space);
    if (!keeps_all_) {
      const workspace::phase fitting(space);
      if (protected_.most > 0) declare_compacted(space, kept_, sizes_.depth, sizes_.width);
      // Biases that hide protected rows among the others.
      const bool is_cut = sizes_.order.is_plain() && given_.protect.rows.empty();
      if (protected_.most > 0 && !is_cut) space.count(float_bytes(open_));
      for (index_t count = protected_.least; count <= protected_.most && count < kept_; ++count) {
        declare_fit(space, options, count);
      }
    }
    return space.most();
  }

  /// Copies of options: the plan's, what it searches by, a head's own of a cache, and the
  /// library's.
  [[nodiscard]] double lists_of_options() const {
    const auto* joint = given_.selection.get_if<selection::joint>();
    const auto factors = joint == nullptr ? index_t{0} : static_cast<index_t>(joint->prior.size());
    const auto named = static_cast<index_t>(given_.protect.rows.size());
    return 4 * (float_bytes(factors) + double_bytes(named));
  }

  /// Reading the inputs, finding protected rows; and rows kept as they are, gathered and put into
  /// the result.
  void declare_beside(workspace& space) const {
    declare_check(space, {.keys = sizes_.keys, .depth = sizes_.depth, .width = sizes_.width});
    {
      const workspace::phase finding(space);
      declare_protected_rows(space, sizes_.order, sizes_.keys, given_.protect);
    }
    const workspace::phase copying(space);
    for (int k = 0; k < 3; ++k) declare_compacted(space, kept_, sizes_.depth, sizes_.width);
    space.count(grown_bytes(double_bytes(kept_)));
  }

  /// The fit of what is left of the budget beside `count` protected rows.
  void declare_fit(workspace& space, const compact_options& options, index_t count) const {
    const double own = fitted_share(options, queries_, kept_ - count);
    declare_split(space, options, count, options.queries.held_out, own);
    // Where the queries chosen see no key, the fit begins again on all (see `stages::score`).
    if (hides()) declare_split(space, options, count, 0, limits(options) ? own : 1);
  }

  void declare_split(workspace& space, const compact_options& options, index_t count,
                     double held_out, double share) const {
    const head_sizes head{.keys = open_,
                          .depth = sizes_.depth,
                          .width = sizes_.width,
                          .has_masks = sizes_.has_masks,
                          .budget = kept_ - count};
    const split_sizes parts = part_sizes(head, sizes_.query_rows, held_out, share);
    head_memory(options, parts, hides(), panels_at_once_).declare(space);
  }

  /// Whether anything may hide a key from a single query.
  [[nodiscard]] bool hides() const noexcept {
    return given_.rule.causal || given_.rule.window > 0 || sizes_.has_masks || sizes_.has_slopes;
  }
  [[nodiscard]] double share(const compact_options& options) const {
    return fitted_share(options, queries_, open_budget());
  }
  /// Rows that are selected, at most.
  [[nodiscard]] index_t open_budget() const noexcept {
    return keeps_all_ ? 0 : std::max<index_t>(kept_ - protected_.least, 1);
  }
  /// Whether `options` are ours, with fewer queries than the given ones.
  [[nodiscard]] bool limits(const compact_options& options) const noexcept {
    return options.queries.per_row != given_.queries.per_row ||
           options.queries.at_least != given_.queries.at_least;
  }

  /// Takes what is documented, step by step, until `now` fits; gives back what was taken in vain.
  bool search(compact_options& now, double cap) const {
    const auto fits = [&] { return bytes(now) <= cap; };
    if (!(take_selection(now, fits) || take_refinement(now, fits) || take_queries(now, fits))) {
      return false;
    }
    const auto give_back = [&](auto&& restore) {
      compact_options richer = now;
      restore(richer);
      if (bytes(richer) <= cap) now = std::move(richer);
    };
    give_back([&](compact_options& o) { o.refine = given_.refine; });
    give_back([&](compact_options& o) { o.memory.selection = given_.memory.selection; });
    return true;
  }

  template <class Fits>
  bool take_selection(compact_options& now, Fits fits) const {
    // Enough for the exponentials and no more; a byte too little for them, but perhaps enough for
    // folded columns, or for all of them in bf16; nothing.
    const double all = float_bytes(fitted(now), open_);
    for (const double bytes : {all, (std::max)(all - 1, 0.0), 0.0}) {
      now.memory.selection = (std::min)(given_.memory.selection, whole_bytes(bytes));
      if (fits()) return true;
    }
    return false;
  }

  template <class Fits>
  bool take_refinement(compact_options& now, Fits fits) const {
    if (!now.gradient.holds<no_gradient>()) return false;
    refinement& moves = now.refine;
    if (const int most = (std::min)(moves.sets, moves.sets_at_once); most > 0) {
      const auto fits_with = [&](int sets) {
        moves.sets = sets > 0 ? given_.refine.sets : 0;
        moves.sets_at_once = (std::max)(sets, 1);
        return fits();
      };
      if (fits_with(0)) {  // the most sets that fit, by bisection
        int few = 0;
        for (int many = most; many - few > 1;) {
          const int middle = few + (many - few) / 2;
          (fits_with(middle) ? few : many) = middle;
        }
        return fits_with(few);
      }
    }
    moves.batch = (std::min)(moves.batch, (std::max)(fitted(now), least_batch));
    while (moves.batch > least_batch) {
      moves.batch = (std::max)(moves.batch / 2, least_batch);
      if (fits()) return true;
    }
    return false;
  }

  template <class Fits>
  bool take_queries(compact_options& now, Fits fits) const {
    const index_t kept = open_budget();
    const index_t least = (std::max)(2 * kept, least_queries);
    index_t wanted = queries_;
    if (now.queries.per_row > 0) {
      wanted = (std::max)(many_times(now.queries.per_row, kept), now.queries.at_least);
      wanted = (std::min)(wanted, queries_);
    }
    now.queries.per_row = 1;  // fewer than `least` asks for
    now.queries.at_least = wanted;
    if (hides() && fits()) return true;  // not to begin again on all was enough
    while (wanted > least) {
      wanted = (std::max)(wanted - wanted / 4, least);
      now.queries.at_least = wanted;
      if (fits()) return true;
    }
    return false;
  }

  /// Queries fitted on under `options`.
  [[nodiscard]] index_t fitted(const compact_options& options) const {
    return part_sizes({}, sizes_.query_rows, options.queries.held_out, share(options)).fit.queries;
  }

  [[nodiscard]] memory_report report(const compact_options& now, double wanted) const {
    memory_report out;
    out.needed = whole_bytes(bytes(now));
    out.wanted = whole_bytes(wanted);
    out.result =
        whole_bytes(float_bytes(kept_, sizes_.depth + sizes_.width + 1) + double_bytes(2, kept_));
    out.is_complete =
        keeps_all_ || (says_bytes(now.selection) && says_bytes(now.bias) && says_bytes(now.values));
    out.panels_at_once = panels_at_once_;
    out.lowers_selection = now.memory.selection < given_.memory.selection;
    out.lowers_refinement = now.refine.batch != given_.refine.batch ||
                            now.refine.sets != given_.refine.sets ||
                            now.refine.sets_at_once != given_.refine.sets_at_once;
    out.lowers_queries = limits(now);
    out.selection_memory = now.memory.selection;
    out.refine_batch = now.refine.batch;
    out.refine_sets_at_once = (std::min)(now.refine.sets, now.refine.sets_at_once);
    out.fitted_queries = keeps_all_ ? 0 : fitted(now);
    return out;
  }

  const compaction_sizes& sizes_;
  const compact_options& given_;
  index_t queries_ = 0;
  bool keeps_all_ = false;
  protected_count protected_;
  index_t open_ = 0;  // rows that the fit sees
  index_t kept_ = 0;
  index_t panels_at_once_ = 1;
};

inline result<void> check_sizes(const compaction_sizes& sizes) {
  constexpr index_t largest = index_t{1} << 53U;  // no count that is made of them overflows
  const auto check = [](index_t size, const char* name) -> result<void> {
    if (size < 1) return error{errc::empty_input, name, size, 1, "must be at least 1"};
    if (size > largest) return error{errc::invalid_option, name, size, largest};
    return {};
  };
  if (const auto ok = check(sizes.keys, "keys"); !ok) return ok;
  index_t visible = sizes.keys;
  for (const index_t hidden :
       {sizes.order.hidden_first, sizes.order.hidden_last, sizes.order.hidden_between}) {
    if (hidden < 0 || hidden > visible) {
      return error{errc::invalid_option, "order", hidden, visible, "hidden rows of all rows"};
    }
    visible -= hidden;
  }
  if (const auto ok = check(sizes.depth, "depth"); !ok) return ok;
  if (const auto ok = check(sizes.width, "width"); !ok) return ok;
  if (const auto ok = check(sizes.threads, "threads"); !ok) return ok;
  const auto blocks = static_cast<index_t>(sizes.query_rows.size());
  if (const auto ok = check(blocks, "query_rows"); !ok) return ok;
  index_t queries = 0;
  for (const index_t rows : sizes.query_rows) {
    if (const auto ok = check(rows, "query_rows"); !ok) return ok;
    queries += rows;
    if (const auto ok = check(queries, "query_rows"); !ok) return ok;
  }
  return {};
}

/// `planned_memory`.
inline result<memory_report> plan_memory(const compaction_sizes& sizes,
                                         const compact_options& options) {
  if (const auto ok = check_rule(options.rule); !ok) return ok.error();
  if (const auto ok = check_sizes(sizes); !ok) return ok.error();
  if (const auto ok = check_options(options, sizes.keys, sizes.depth, sizes.width); !ok) {
    return ok.error();
  }
  const auto counted = count_protected(options.protect, sizes.order, sizes.keys);
  const index_t visible = sizes.keys - sizes.order.hidden();
  const auto ok = check_protected_budget(options.budget, visible, counted.least);
  if (!ok) return ok.error();
  auto plan = memory_planner(sizes, options).run();
  if (!plan) return plan.error();
  return plan->report;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
