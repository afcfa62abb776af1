// SPDX-License-Identifier: MIT
/// What the stages of one head hold together, from sizes alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "kvfit/compact/all_importance.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/compact/tied_values.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/refiner.hpp"
#include "kvfit/selection/mass_columns.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether a policy says what it takes; a caller's own does by a function beside it.
template <class Handle>
bool says_bytes(const Handle& policy) {
  return functions_of(policy).bytes != nullptr;
}

/// Bytes of a `compacted` of t rows, its lists grown one by one.
inline double compacted_bytes(index_t t, index_t depth, index_t width) noexcept {
  return float_bytes(t, depth + width + 1) + grown_bytes(double_bytes(2, t));
}

/// The stages of `pipeline` for the sizes of one split, each with all that lives beside it.
class head_bytes {
 public:
  head_bytes(const compact_options& options, const split_sizes& parts, bool adds,
             index_t panels_at_once)
      : options_(options),
        fit_(parts.fit),
        judge_(parts.judge),
        given_(parts.given),
        fits_all_(parts.fits_all),
        adds_(adds),
        t_(fit_.budget),
        at_once_(panels_at_once),
        wanted_(fit_scores(options, panels_at_once)),
        views_(parts.views) {
    fit_.memory_cap = options.memory.selection;
    fit_.has_exponentials = keeps_exponentials(fit_, wanted_);
  }

  [[nodiscard]] double most() const {
    return views_ + std::max({score_checked_bytes(fit_, wanted_), ranking(), choosing(), weighing(),
                              after()});
  }

 private:
  /// t rows of keys or of values, of the queries' weights over the kept rows, of their outputs.
  [[nodiscard]] double kept_values() const { return float_bytes(t_, fit_.width); }
  [[nodiscard]] double kept_weights(index_t queries) const { return float_bytes(queries, t_); }
  [[nodiscard]] double outputs(index_t queries) const { return float_bytes(queries, fit_.width); }
  [[nodiscard]] double full_scores() const { return scores_bytes(fit_, wanted_); }

  /// `rank_by_all`.
  [[nodiscard]] double ranking() const {
    if (wanted_.importance == importance_kind::none || wanted_.window > 0) return 0;
    if (ranks_by_judge()) {
      return full_scores() + score_checked_bytes(judge_, judging_scores(at_once_));
    }
    return fits_all_ && judge_.queries == 0
               ? 0
               : full_scores() + importance_of_all_bytes(given_, wanted_);
  }
  [[nodiscard]] bool ranks_by_judge() const {
    return fits_all_ && judge_.queries > 0 && wanted_.importance != importance_kind::none &&
           wanted_.pooling == pooling_kind::none && wanted_.window == 0;
  }
  [[nodiscard]] score_options judging_scores(index_t panels_at_once = 1) const {
    return {.importance = ranks_by_judge() ? wanted_.importance : importance_kind::none,
            .panels_at_once = panels_at_once};
  }
  /// What has been scored of the judge before rows are chosen.
  [[nodiscard]] double ranked_scores() const { return ranks_by_judge() ? judged_scores() : 0; }

  [[nodiscard]] double choosing() const {
    return full_scores() + ranked_scores() +
           std::max(select_bytes(options_.selection, fit_), grown_bytes(double_bytes(6, t_)));
  }

  [[nodiscard]] double weighing() const {
    const double fit = fit_bias_bytes(options_.bias, fit_);
    head_sizes streamed = fit_;
    streamed.memory_cap = 0;
    const auto keys = static_cast<double>(fit_.keys);
    const bool replaces = options_.replace_dead_keys && may_replace(options_.selection);
    const double replacing = replaces ? mass_columns_bytes(streamed) + float_bytes(fit_.keys) +
                                            float_bytes(fit_.queries) + 2 * keys +
                                            grown_bytes(double_bytes(fit_.keys))
                                      : 0;
    const double columns = float_bytes(t_, fit_.depth) + row_logits_bytes(fit_, t_, at_once_);
    return full_scores() + ranked_scores() + double_bytes(16, t_) +
           std::max(columns, kept_weights(fit_.queries) + std::max(fit, replacing));
  }

  /// Everything after the weights: the exponentials are gone.
  [[nodiscard]] double after() const {
    score_options plain = wanted_;
    plain.keep_exponentials = -1;
    const double held = scores_bytes(fit_, plain) + compacted_bytes(t_, fit_.depth, fit_.width) +
                        kept_values() + judged_scores() + double_bytes(8, t_);
    if (!options_.gradient.holds<no_gradient>()) {
      return held + std::max({describing_gradient(), fitting(fit_.queries, 0), judging()});
    }
    const refinement moves = decided_refinement(options_);
    if (*moves.steps == 0) return held + std::max(fitting(fit_.queries, 0), judging());
    const refiner_bytes refiner = bytes_of(moves, fit_, adds_, options_.rule.soft_cap > 0,
                                           options_.tied_values_from.has_value());
    const index_t sets = std::min(moves.sets, moves.sets_at_once);
    const score_options bare{.importance = importance_kind::none};
    const double made =
        static_cast<double>(sets) * (query_set_bytes(fit_) + scores_bytes(fit_, bare));
    // Where it starts and the best so far, here and there.
    const double points = float_bytes(6, t_, fit_.depth + 1);
    const double while_moving = std::max(refiner.most, refiner.own + comparing());
    return held + points +
           std::max({while_moving,
                     made + (options_.tied_values_from
                                 ? fitting(fit_.queries, 0)
                                 : fitting(many_times(1 + sets, fit_.queries), sets)),
                     made + judging()});
  }

  [[nodiscard]] double judged_scores() const {
    return judge_.queries == 0 ? 0 : scores_bytes(judge_, judging_scores());
  }

  /// `attend_compact` for the queries of `sizes`.
  [[nodiscard]] double attending(const head_sizes& sizes) const {
    return float_bytes(sizes.keys) + row_logits_bytes(sizes, t_, at_once_) +
           float_bytes(2, sizes.queries);
  }

  /// `head_judge::errors`.
  [[nodiscard]] double comparing() const {
    // Held-out queries that see nothing judge nothing: then the fitted ones do.
    const bool falls_back = judge_.queries == 0 || adds_;
    const auto with = [&](const head_sizes& sizes) {
      return attending(sizes) + outputs(sizes.queries);
    };
    const double held_out =
        judge_.queries == 0
            ? 0
            : std::max(score_checked_bytes(judge_, {.importance = importance_kind::none,
                                                    .panels_at_once = at_once_}),
                       with(judge_));
    return std::max(held_out, falls_back ? with(fit_) : 0);
  }

  /// Values fitted to `queries` queries, those of `sets` made sets among them.
  [[nodiscard]] double fitting(index_t queries, index_t sets) const {
    head_sizes all = fit_;
    all.queries = queries;
    // Fitted values are copied once, from where the policy made them.
    const double fit = options_.tied_values_from
                           ? kept_values()
                           : std::max(fit_values_bytes(options_.values, all), 2 * kept_values());
    const double train = kept_weights(fit_.queries) + float_bytes(fit_.queries);
    // Rows that are not exact are fitted to what the exact ones leave.
    const auto* const rows = options_.selection.get_if<selection::joint>();
    const bool has_exact = rows != nullptr && rows->exact_share > 0;
    const double stacked =
        (sets > 0 ? float_bytes(queries, t_ + fit_.width) : 0) +
        (has_exact ? float_bytes(queries, t_ + fit_.width) + 3 * kept_values() : 0);
    return std::max(attending(fit_),
                    train + stacked + std::max(fit, sets > 0 ? attending(fit_) : 0));
  }

  /// The errors of the finished result.
  [[nodiscard]] double judging() const {
    const double train =
        kept_weights(fit_.queries) + float_bytes(fit_.queries) + outputs(fit_.queries);
    return train + comparing() + 3 * outputs(judge_.queries) + kept_values();
  }

  [[nodiscard]] double describing_gradient() const {
    const double batch = batch_bytes(fit_, fit_.queries, adds_);
    const double point = compacted_bytes(t_, fit_.depth, fit_.width);
    return point + batch +
           std::max(make_batch_bytes(fit_, fit_.queries, adds_),
                    functions_of(options_.gradient)
                        .bytes(options_.gradient.settings(), fit_, options_.rule.soft_cap > 0));
  }

  const compact_options& options_;
  head_sizes fit_;
  head_sizes judge_;
  head_sizes given_;
  bool fits_all_;
  bool adds_;
  index_t t_;
  index_t at_once_;  // panels of queries, one for each thread
  score_options wanted_;
  double views_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
