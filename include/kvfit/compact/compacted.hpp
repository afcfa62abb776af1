// SPDX-License-Identifier: MIT
/// What `compact()` returns.
#pragma once

#include <vector>

#include "kvfit/compact/report.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// A small cache: t keys with a bias each, and values.
///
/// An engine attends over it as over any cache, with `bias` added to the logits (natural log, after
/// scale and soft-cap) and positions going on from the original length.
struct compacted {
  std::vector<index> positions;  ///< t original row numbers, ascending
  matrix keys;                   ///< t × d_k: those rows' keys
  vector bias;                   ///< t: the rows' own bias + ln w, finite
  matrix values;                 ///< t × d_v
  compact_report report;
};

}  // namespace kvfit
