// SPDX-License-Identifier: MIT
/// When a cache is compacted, and whether the result is let in.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "server/engine.hpp"

namespace server {

struct compaction_policy {
  index_t trigger = 0;  ///< rows of a slot's cache from which on it is compacted; 0: never
  index_t target = 0;   ///< rows to be left
  index_t protect_first = 0;
  index_t protect_recent = 0;
  std::string method = "default";

  /// The sentence that says what is wrong, or nothing.
  [[nodiscard]] std::optional<std::string> fault_of() const {
    if (trigger < 0 || target < 0 || protect_first < 0 || protect_recent < 0) {
      return "lengths can't be negative";
    }
    if (trigger == 0) return {};
    if (target >= trigger) return "the target must be below the trigger";
    if (protect_first >= target || protect_recent >= target - protect_first) {
      return "protected rows leave none to fit within the target";
    }
    return {};
  }

  /// `refused_at`: rows at which the gate refused last, 0 for never. It is tried again when a
  /// quarter more has come in, not after every token.
  [[nodiscard]] std::optional<compaction_request> wants(index_t rows, index_t refused_at) const {
    if (trigger == 0 || rows < trigger) return {};
    if (refused_at > 0 && rows - refused_at < refused_at / 4 + 1) return {};
    return compaction_request{.target = target,
                              .method = method,
                              .protect_first = protect_first,
                              .protect_recent = protect_recent};
  }
};

/// Judges by queries that nothing is fitted to.
struct quality_gate {
  double most_error = 0.5;  ///< rms, relative, a mean of heads

  /// Why a compact cache is refused, or nothing.
  [[nodiscard]] std::optional<std::string> refuses(const compaction_report& report) const {
    if (report.rows_after < 1 || report.rows_after >= report.rows_before) {
      return "it has " + std::to_string(report.rows_after) + " rows of " +
             std::to_string(report.rows_before);
    }
    if (!std::isfinite(report.held_out_error) || report.held_out_error < 0) {
      return "its held-out error is no number";
    }
    if (!(report.held_out_error <= most_error)) {
      return "held-out error " + std::to_string(report.held_out_error) + ", allowed " +
             std::to_string(most_error);
    }
    return {};
  }
};

}  // namespace server
