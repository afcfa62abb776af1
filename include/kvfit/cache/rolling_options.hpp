// SPDX-License-Identifier: MIT
/// When a cache in use is compacted again, and what every round leaves.
#pragma once

#include <algorithm>
#include <utility>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// Lengths are rows a head, on average over the heads that are compacted: as memory counts them.
struct rolling_options {
  index_t trigger = 8192;  ///< rows, compact and live ones together, from which a round is due
  index_t target = 1024;   ///< rows that a round leaves, the recent ones included; < trigger
  index_t sinks = 4;       ///< ≥ 0 rows at the smallest positions that stay as they are
  index_t recent = 256;    ///< ≥ 0 last rows, which stay live: no round takes them
  /// How heads are compacted and share the rows. Its budget and the protected rows of its head are
  /// set by each round. Under `budgets::rows` a round leaves those rows, whatever the target.
  cache_options cache = {};
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` for lengths that no round could keep: negative ones, a target that does not
/// exceed sinks and recent rows, a trigger that does not exceed the target, and for protected rows
/// or a budget in `cache`.
[[nodiscard]] inline result<void> check_rolling(const rolling_options& options) {
  constexpr index_t largest = index_t{1}
                              << 40U;  // times the heads of any cache stays within 63 bits
  const auto refuse = [](const char* field, index_t found, index_t limit, const char* why) {
    return error{errc::invalid_option, field, found, limit, why};
  };
  for (const auto& [field, rows] :
       {std::pair{"sinks", options.sinks}, std::pair{"recent", options.recent}}) {
    if (rows < 0) return refuse(field, rows, 0, "must not be negative");
    if (rows > largest) return refuse(field, rows, largest, "must be at most 2^40");
  }
  if (options.target <= options.sinks + options.recent) {
    return refuse("target", options.target, options.sinks + options.recent + 1,
                  "must exceed sinks and recent rows");
  }
  if (options.trigger > largest) {
    return refuse("trigger", options.trigger, largest, "must be at most 2^40");
  }
  if (options.trigger <= options.target) {
    return refuse("trigger", options.trigger, options.target + 1, "must exceed the target");
  }
  const auto& head = options.cache.head;
  if (!head.protect.is_empty()) {
    return refuse("cache.head.protect", (std::max)(head.protect.first, head.protect.last), 0,
                  "must be empty: sinks and recent rows set it");
  }
  if (const auto* rows = head.selection.get_if<selection::joint>();
      rows != nullptr && !rows->prior.empty()) {
    return refuse("joint.prior", static_cast<index_t>(rows->prior.size()), 0,
                  "must be empty: every round has other rows");
  }
  if (options.cache.budget != 0) {
    return refuse("cache.budget", options.cache.budget, 0, "must be 0: the target sets it");
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
