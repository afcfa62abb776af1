// SPDX-License-Identifier: MIT
/// Errors of compact rows on the queries held out from their fit.
#pragma once

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Attention of `part` over the keys and biases of `rows`.
inline compact_attention attention_over(const stages::problem& of, const query_part& part,
                                        const compacted& rows) {
  return attend_compact(part, of.cache, of.options.rule, rows, of.threads);
}

/// Errors of `found` with these `values` against full attention of the same queries.
inline fidelity errors_of(const stages::problem& of, const attention_scores& full,
                          const compact_attention& found, const matrix& values) {
  return compare(full.output, full.log_mass, weighted_values(found.weights, values, of.threads),
                 found.log_mass);
}

/// Errors of the keys and biases of `rows` with these `values` on the queries held out, or on those
/// fitted on where none are held out or none of them sees a key.
inline fidelity judged_errors(const stages::problem& of, const stages::targets& full,
                              const compacted& rows, const matrix& values) {
  if (!full.parts.judge.blocks.empty()) {
    const fidelity judged =
        errors_of(of, full.held_out, attention_over(of, full.parts.judge, rows), values);
    if (judged.queries > 0) return judged;
  }
  return errors_of(of, full.fitted, attention_over(of, full.parts.fit, rows), values);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
