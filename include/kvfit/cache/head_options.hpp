// SPDX-License-Identifier: MIT
/// What each head of a cache is asked: its own compaction, and the copies it may fall back to.
#pragma once

#include <algorithm>

#include "kvfit/bias/zero.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/values/copy.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The options of one head's own `compact`.
inline compact_options head_options(const cache_options& options, const cache_layer& layer,
                                    index_t rows) {
  auto own = options.head;
  own.budget = rows;
  if (layer.rule) own.rule = *layer.rule;
  if (layer.rotation) own.refine.rotation = layer.rotation;
  if (options.memory) {
    own.memory.cap = (std::min)(*options.memory, own.memory.cap.value_or(*options.memory));
  }
  return own;
}

/// What a fallback to copies asks of the head instead (`head_fallback::copies`).
inline compact_options copying(const compact_options& options) {
  compact_options asked = options;
  asked.selection = selection::highest_attention{};
  if (const auto* joint = options.selection.get_if<selection::joint>();
      joint != nullptr && !joint->prior.empty()) {
    asked.selection = selection::joint{.attention_share = 1, .prior = joint->prior};
  }
  asked.bias = bias::zero{};
  asked.values = values::copy{};
  asked.refine = {.steps = 0};
  asked.gradient = {};
  return asked;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
