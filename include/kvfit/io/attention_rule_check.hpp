// SPDX-License-Identifier: MIT
/// Refuses a layer's rule that is outside its ranges, or does not fit the layer's sizes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// The scale that a rule means for keys of `depth` numbers.
inline float scale_of(const logit_rule& rule, index_t depth) noexcept {
  return rule.scale.value_or(1.0F / std::sqrt(static_cast<float>(depth)));
}

/// Whether logits depend on where queries and keys stand.
inline bool looks_at_positions(const attention_rule& rule) noexcept {
  return rule.logits.causal || rule.logits.window > 0 ||
         std::any_of(rule.alibi_slopes.begin(), rule.alibi_slopes.end(),
                     [](float slope) { return slope != 0; });
}

/// Numbers of query heads: none, or a multiple of the KV heads.
inline result<void> check_head_numbers(const std::vector<float>& numbers, const char* what,
                                       index_t kv_heads, bool may_hide) {
  const auto count = static_cast<index_t>(numbers.size());
  if (count % kv_heads != 0) {
    return error{errc::shape_mismatch, what, count, kv_heads,
                 "one a query head: a multiple of the KV heads"};
  }
  for (std::size_t head = 0; head < numbers.size(); ++head) {
    const float x = numbers[head];
    if (may_hide ? kvfit::detail::is_finite_or_hidden(x) : kvfit::detail::is_finite(x)) continue;
    return error{errc::non_finite, what, static_cast<index_t>(head), 0,
                 may_hide ? "finite or -infinity" : "must be finite"};
  }
  return {};
}

/// `rule` for a layer of `kv_heads` heads whose keys have `depth` numbers. Errors: those of
/// `check_rule` and `check_rope`; `shape_mismatch` where sinks or slopes are no multiple of the KV
/// heads or not as many as each other; `non_finite` with the query head.
inline result<void> check_attention_rule(const attention_rule& rule, index_t kv_heads,
                                         index_t depth) {
  if (auto ok = check_rule(rule.logits); !ok) return ok;
  if (auto ok = check_head_numbers(rule.sink_logits, "sink_logits", kv_heads, true); !ok) return ok;
  if (auto ok = check_head_numbers(rule.alibi_slopes, "alibi_slopes", kv_heads, false); !ok) {
    return ok;
  }
  const std::size_t sinks = rule.sink_logits.size();
  const std::size_t slopes = rule.alibi_slopes.size();
  if (sinks != 0 && slopes != 0 && sinks != slopes) {
    return error{errc::shape_mismatch, "alibi_slopes", static_cast<index_t>(slopes),
                 static_cast<index_t>(sinks), "query heads, against those of sink_logits"};
  }
  if (rule.rotation) return check_rope(*rule.rotation, depth);
  return {};
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
