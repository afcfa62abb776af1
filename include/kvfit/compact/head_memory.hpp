// SPDX-License-Identifier: MIT
/// What the stages of one head hold together, from sizes alone.
#pragma once

#include <algorithm>

#include "kvfit/compact/all_importance.hpp"
#include "kvfit/compact/decided_refinement.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/replacement_rows.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/refiner.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether a policy says what it takes; a caller's own does by a function beside it.
template <class Handle>
bool says_bytes(const Handle& policy) {
  return functions_of(policy).bytes != nullptr;
}
/// What it says; nothing where it does not.
template <class Handle>
void declare_policy(workspace& space, const Handle& policy, const head_sizes& sizes) {
  const workspace::phase running(space);
  if (says_bytes(policy)) space.count(functions_of(policy).bytes(policy.settings(), sizes));
}

/// A `compacted` of t rows, its lists grown one by one.
inline void declare_compacted(workspace& space, index_t t, index_t depth, index_t width) {
  space.count(float_bytes(t, depth + width + 1) + grown_bytes(double_bytes(2, t)));
}

/// The stages (compact/stages.hpp) for the sizes of one split, each with all that lives beside it.
class head_memory {
 public:
  head_memory(const compact_options& options, const split_sizes& parts, bool adds,
              index_t panels_at_once)
      : options_(options),
        fit_(parts.fit),
        judge_(parts.judge),
        given_(parts.given),
        given_block_(parts.given_block),
        adds_(adds),
        t_(fit_.budget),
        at_once_(panels_at_once),
        wanted_(fit_scores(options, fit_.keys, fit_.budget, panels_at_once)),
        views_(parts.views) {
    fit_.memory_cap = options.memory.selection;
    fit_.has_exponentials = keeps_exponentials(fit_, wanted_);
  }

  void declare(workspace& space) const {
    const workspace::phase all(space);
    space.count(views_);
    {
      const workspace::phase scoring(space);
      declare_score_checked(space, fit_, wanted_);
    }
    {
      const workspace::phase before_weights(space);
      declare_scores(space, fit_, wanted_);
      if (wanted_.importance != importance_kind::none && wanted_.window == 0 &&
          fit_.queries < given_) {
        const bool ranks_judge =
            fit_.queries + judge_.queries == given_ && wanted_.pooling == pooling_kind::none;
        declare_ranking(space, fit_, ranks_judge ? judge_.largest_block : given_block_, wanted_,
                        options_.score_by);
      }
      choose(space);
      weigh(space);
    }
    after(space);
  }

 private:
  /// t rows of values, of the queries' weights over the kept rows, of their outputs.
  [[nodiscard]] double kept_values() const { return float_bytes(t_, fit_.width); }
  [[nodiscard]] double kept_weights(index_t queries) const { return float_bytes(queries, t_); }
  [[nodiscard]] double outputs(index_t queries) const { return float_bytes(queries, fit_.width); }
  /// Of the queries held out, and of made ones.
  [[nodiscard]] score_options bare_scores() const {
    return {.importance = importance_kind::none, .panels_at_once = at_once_};
  }

  void choose(workspace& space) const {
    declare_policy(space, options_.selection, fit_);
    const workspace::phase sorting(space);
    space.count(grown_bytes(double_bytes(6, t_)));
  }

  void weigh(workspace& space) const {
    const workspace::phase weighing(space);
    space.count(double_bytes(16, t_));
    {
      const workspace::phase columns(space);
      space.count(float_bytes(t_, fit_.depth));
      declare_row_logits(space, fit_, t_, at_once_);
    }
    space.count(kept_weights(fit_.queries));
    const bool replaces = options_.replace_dead_keys && may_replace(options_.selection);
    if (replaces) {
      // What one fit leaves for the next, rows that were dead, and the columns of others: beside
      // all later fits.
      space.count(double_bytes(t_, t_ + 1) + double_bytes(4, t_) + float_bytes(fit_.queries));
      space.count(2 * static_cast<double>(fit_.keys) + grown_bytes(double_bytes(fit_.keys)));
      replacement_rows::declare(space, fit_, options_.selection.get_if<selection::joint>());
    }
    declare_policy(space, options_.bias, fit_);
    if (!replaces) return;
    {
      const workspace::phase updating(space);
      space.count(float_bytes(fit_.queries) + double_bytes(fit_.queries));  // what is fitted to
      linalg::declare_update(space, fit_.queries, t_, t_);
    }
    const workspace::phase renewing(space);  // columns made anew
    space.count(kept_weights(fit_.queries) + float_bytes(t_, fit_.depth));
    declare_row_logits(space, fit_, t_, at_once_);
  }

  /// Everything after the weights: the exponentials are gone.
  void after(workspace& space) const {
    const workspace::phase rest(space);
    score_options plain = wanted_;
    plain.keep_exponentials = -1;
    declare_scores(space, fit_, plain);
    declare_compacted(space, t_, fit_.depth, fit_.width);
    space.count(kept_values() + double_bytes(8, t_));
    if (judge_.queries > 0) declare_scores(space, judge_, bare_scores());
    const refinement moves = decided_refinement(options_);
    if (!options_.gradient.holds<no_gradient>()) {
      descend(space);
    } else if (*moves.steps > 0) {
      refine(space, moves);
      return;
    }
    fit_values_to(space, fit_.queries, 0);
    judge(space);
  }

  void refine(workspace& space, const refinement& moves) const {
    space.count(float_bytes(6, t_, fit_.depth + 1));  // where it starts, and the best so far
    const bool is_tied = options_.tied_values_from.has_value();
    {
      const workspace::phase moving(space);
      declare_refiner(space, moves, fit_, adds_, options_.rule.soft_cap > 0, is_tied);
      compare(space);
    }
    declare_sets(space, moves, fit_);
    const index_t sets = (std::min)(moves.sets, moves.sets_at_once);
    fit_values_to(space, is_tied ? fit_.queries : many_times(1 + sets, fit_.queries),
                  is_tied ? 0 : sets);
    judge(space);
  }

  void descend(workspace& space) const {
    const workspace::phase descending(space);
    declare_compacted(space, t_, fit_.depth, fit_.width);
    declare_batch(space, fit_, fit_.queries, adds_);
    space.count(functions_of(options_.gradient)
                    .bytes(options_.gradient.settings(), fit_, options_.rule.soft_cap > 0));
  }

  /// `attend_compact` for the queries of `sizes`.
  void attend(workspace& space, const head_sizes& sizes) const {
    const workspace::phase attending(space);
    space.count(float_bytes(sizes.keys) + float_bytes(2, sizes.queries));
    declare_row_logits(space, sizes, t_, at_once_);
  }

  /// `judged_errors`.
  void compare(workspace& space) const {
    const auto with = [&](const head_sizes& sizes) {
      const workspace::phase comparing(space);
      space.count(outputs(sizes.queries));
      attend(space, sizes);
    };
    if (judge_.queries > 0) {
      {
        const workspace::phase scoring(space);
        declare_score_checked(space, judge_, bare_scores());
      }
      with(judge_);
    }
    // Held-out queries that see nothing judge nothing: then the fitted ones do.
    if (judge_.queries == 0 || adds_) with(fit_);
  }

  /// Values fitted to `queries` queries, those of `sets` made sets among them.
  void fit_values_to(workspace& space, index_t queries, index_t sets) const {
    attend(space, fit_);
    const workspace::phase fitting(space);
    space.count(kept_weights(fit_.queries) + float_bytes(fit_.queries));
    if (sets > 0) {
      space.count(float_bytes(queries, t_ + fit_.width));
      attend(space, fit_);
    }
    head_sizes all = fit_;
    all.queries = queries;
    if (!options_.tied_values_from) declare_policy(space, options_.values, all);
    // Fitted values are copied once, from where the policy made them.
    space.count((options_.tied_values_from ? 1 : 2) * kept_values());
  }

  /// The errors of the finished result.
  void judge(workspace& space) const {
    const workspace::phase judging(space);
    space.count(kept_weights(fit_.queries) + float_bytes(fit_.queries) + outputs(fit_.queries));
    space.count(3 * outputs(judge_.queries) + kept_values());
    compare(space);
  }

  const compact_options& options_;
  head_sizes fit_;
  head_sizes judge_;
  index_t given_;
  index_t given_block_;
  bool adds_;
  index_t t_;
  index_t at_once_;  // panels of queries, one for each thread
  score_options wanted_;
  double views_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
