// SPDX-License-Identifier: MIT
/// One head of a compact cache by itself, before heads are put one after the other.
#pragma once

#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"

namespace kvfit {

/// One head's compact cache and how it came about.
struct compacted_head {
  compacted rows;
  head_report report;  ///< its `report` is that of `rows`
};

}  // namespace kvfit
