// SPDX-License-Identifier: MIT
/// How the attention of one layer is computed, as captures, results and states carry it.
#pragma once

#include <optional>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/rope.hpp"

namespace kvfit {

/// The rule of a layer's logits, and what differs from query head to query head.
struct attention_rule {
  logit_rule logits = {};
  /// Logit of an attention sink, one a query head, finite or −∞ (none), see
  /// `query_block::sink_logit`; empty: no sinks.
  std::vector<float> sink_logits = {};
  /// ALiBi slopes, one a query head, finite, see `query_block::alibi_slope`; empty: no ALiBi.
  std::vector<float> alibi_slopes = {};
  /// How keys and queries were turned, where that is known.
  std::optional<rope> rotation = {};
};

}  // namespace kvfit
