// SPDX-License-Identifier: MIT
/// Errors of a compact cache of one head, on queries held out from its fit.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Compares full and compact attention on the judging queries of a split, or on the fitted ones
/// where none are held out or none of them sees a key.
class head_judge {
 public:
  /// `fitted`: full attention of the queries fitted on. All must outlive this.
  head_judge(const kv_block& cache, const logit_rule& rule, const query_split& parts,
             const attention_scores& fitted, const stop_when& stop, const executor_ref& threads)
      : cache_(cache),
        rule_(rule),
        parts_(parts),
        fitted_(fitted),
        stop_(stop),
        threads_(threads) {}

  [[nodiscard]] bool has_held_out() const noexcept { return !parts_.judge.blocks.empty(); }

  /// Full attention of the judging queries, computed at the first call, with the keys' `importance`
  /// that it asks for.
  result<const attention_scores*> held_out_scores(
      importance_kind importance = importance_kind::none) {
    if (!held_out_) {
      auto full = score_checked(parts_.judge.beside(cache_), parts_.judge.set(), rule_,
                                {.importance = importance, .panels_at_once = threads_.threads()},
                                {}, stop_, threads_);
      if (!full) return full.error();
      held_out_ = std::move(*full);
    }
    return &*held_out_;
  }

  /// Gives the importance in `fitted`, the scores of the queries fitted on, the held-out ones'
  /// part; some are held out, and it is neither pooled nor of a window.
  result<void> add_importance_to(attention_scores& fitted, importance_kind kind) {
    const auto full = held_out_scores(kind);
    if (!full) return full.error();
    const vector& more = (*full)->importance;
    const auto held = static_cast<double>((*full)->max.size());
    const double share = held / (held + static_cast<double>(fitted.max.size()));
    for (index_t j = 0; j < more.size(); ++j) {
      const auto a = static_cast<double>(fitted.importance[j]);
      const auto b = static_cast<double>(more[j]);
      const double both = kind == importance_kind::max ? std::max(a, b)
                          : kind == importance_kind::mean
                              ? a + share * (b - a)
                              : std::sqrt(a * a + share * (b * b - a * a));
      fitted.importance[j] = static_cast<float>(both);
    }
    return {};
  }

  /// Attention of the judging queries over `compact`.
  [[nodiscard]] compact_attention held_out_attention(const compacted& compact) const {
    return attend_compact(parts_.judge, cache_, rule_, compact, threads_);
  }

  /// Errors of the keys and biases of `compact` with these `values`.
  result<fidelity> errors(const compacted& compact, const matrix& values) {
    if (has_held_out()) {
      const auto full = held_out_scores();
      if (!full) return full.error();
      const fidelity judged = compared(**full, held_out_attention(compact), values);
      if (judged.queries > 0) return judged;
    }
    return compared(fitted_, attend_compact(parts_.fit, cache_, rule_, compact, threads_), values);
  }

 private:
  [[nodiscard]] fidelity compared(const attention_scores& full, const compact_attention& found,
                                  const matrix& values) const {
    return compare(full.output, full.log_mass, weighted_values(found.weights, values, threads_),
                   found.log_mass);
  }

  const kv_block& cache_;
  const logit_rule& rule_;
  const query_split& parts_;
  const attention_scores& fitted_;
  stop_when stop_;
  executor_ref threads_;
  std::optional<attention_scores> held_out_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
