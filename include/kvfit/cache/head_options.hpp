// SPDX-License-Identifier: MIT
/// What each head of a cache is asked: its own compaction, and the copies it may fall back to.
#pragma once

#include <algorithm>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/with_policies.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// The options of one head's own `compact`.
template <class Selection, class Bias, class Values>
compaction<Selection, Bias, Values> head_options(
    const cache_compaction<Selection, Bias, Values>& options, const cache_layer& layer,
    index_t rows) {
  auto own = options.head;
  own.budget = rows;
  if (layer.rule) own.rule = *layer.rule;
  if (layer.rotation) own.refine.rotation = layer.rotation;
  if (options.memory) own.memory = std::min(*options.memory, own.memory.value_or(*options.memory));
  return own;
}

/// What a fallback to copies asks of the head instead (`head_fallback::copies`).
template <class Options>
compact_options copying(const Options& options) {
  compact_options asked = with_policies<any_selection, any_bias, any_values>(
      options, selection::highest_attention{}, bias::zero{}, values::copy{});
  asked.refine = {.steps = 0};
  asked.gradient.reset();
  return asked;
}

}  // namespace kvfit::detail::inline KVFIT_ISA
