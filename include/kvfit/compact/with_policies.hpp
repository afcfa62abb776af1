// SPDX-License-Identifier: MIT
/// One compaction's options under other policies.
#pragma once

#include <utility>

#include "kvfit/compact/options.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// `from` with other policies, and everything else as it is.
template <class Selection, class Bias, class Values, class... Old>
compaction<Selection, Bias, Values> with_policies(const compaction<Old...>& from,
                                                  Selection selection, Bias bias, Values values) {
  // All fields in order: whoever adds one must name it here, or this does not compile.
  const auto& [budget, rule, old_selection, old_bias, old_values, refine, gradient, protect,
               replace_dead_keys, held_out, queries_per_row, queries_at_least, tied_values_from,
               keep_better_values, storage, bias_storage, precision, selection_memory, memory] =
      from;
  return {.budget = budget,
          .rule = rule,
          .selection = std::move(selection),
          .bias = std::move(bias),
          .values = std::move(values),
          .refine = refine,
          .gradient = gradient,
          .protect = protect,
          .replace_dead_keys = replace_dead_keys,
          .held_out = held_out,
          .queries_per_row = queries_per_row,
          .queries_at_least = queries_at_least,
          .tied_values_from = tied_values_from,
          .keep_better_values = keep_better_values,
          .storage = storage,
          .bias_storage = bias_storage,
          .precision = precision,
          .selection_memory = selection_memory,
          .memory = memory};
}

}  // namespace kvfit::detail::inline KVFIT_ISA
