// SPDX-License-Identifier: MIT
/// What the reference attention kernel is asked.
#pragma once

#include <optional>

#include "kvfit/core/index.hpp"

namespace kvfit {

/// How `attend` goes about its work.
struct attend_options {
  /// Queries taken together at most, ≥ 0; 0: as many as have 16 MB of logits over the longest
  /// block, from 8 to 96 (`panel_rows`). Fewer take less memory and more time, and change what
  /// rounding decides.
  index_t panel = 0;
  /// Bytes, ≥ 0, that `attend` may hold at once beyond its inputs, its result included; none: as
  /// many as it takes (`attend_bytes`). Where that is more, panels are halved, down to one query.
  std::optional<index_t> memory = {};
};

}  // namespace kvfit
