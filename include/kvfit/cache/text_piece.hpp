// SPDX-License-Identifier: MIT
/// A stretch of a text with the cache of its prefill, and what becomes of it.
#pragma once

#include <optional>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/chunks.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// A stretch of a text, in the prefill that it was part of.
struct text_piece {
  /// All layers of the prefill, whose rows outside the stretch are not used.
  cache_view cache;
  chunk where;        ///< the stretch's rows in the prefill
  index_t place = 0;  ///< number of its first row in the whole text
  /// Where its first row shall stand; none: where it stood in the prefill. Keys are turned by the
  /// difference, prefix_len + chunk_start − local_prefix_len for a chunk prefilled alone.
  std::optional<index_t> position = {};
  /// Rows to keep, of all heads that are compacted together; all there are, or more: the stretch
  /// stays as it is.
  index_t budget = 0;
  /// At the prefill's positions, of layers that `cache` has; not used where all rows stay.
  cache_queries queries = {};
};

/// What became of one stretch.
struct piece_report {
  chunk where;  ///< in the whole text
  /// Layer after layer; each head beside this stretch's rows alone.
  std::vector<head_report> heads;
};

/// A compact cache of a text that was compacted piece by piece.
struct compacted_text {
  compacted_cache cache;  ///< positions are of the whole text; reports of heads have sums alone
  std::vector<piece_report> pieces;
};

}  // namespace kvfit
