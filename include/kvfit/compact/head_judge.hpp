// SPDX-License-Identifier: MIT
/// Errors of a compact cache of one head, on queries held out from its fit.
#pragma once

#include <optional>
#include <utility>

#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/score_panels.hpp"
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

  /// Full attention of the judging queries, computed at the first call.
  result<const attention_scores*> held_out_scores() {
    if (!held_out_) {
      auto full =
          score_checked(parts_.judge.beside(cache_), parts_.judge.set(), rule_,
                        {.importance = importance_kind::none, .panels_at_once = threads_.threads()},
                        {}, stop_, threads_);
      if (!full) return full.error();
      held_out_ = std::move(*full);
    }
    return &*held_out_;
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
