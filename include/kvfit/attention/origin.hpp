// SPDX-License-Identifier: MIT
/// Where the rows of query blocks come from, where a caller's block was cut into several.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit {

/// Row i of a block is row first + i · step of the caller's block number `block`.
struct block_origin {
  std::size_t block = 0;
  index_t first = 0;
  index_t step = 1;  ///< ≥ 1
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// The end of the run of blocks that starts at `begin` and is of one block of the caller's: of one
/// query head. Without origins every block is a caller's own. Blocks of one head stand together.
inline std::size_t head_end(std::span<const query_block> blocks,
                            std::span<const block_origin> origins, std::size_t begin) {
  std::size_t end = begin + 1;
  if (origins.empty()) return end;
  while (end < blocks.size() && origins[end].block == origins[begin].block) ++end;
  return end;
}

/// For each block how many of its last rows are among the last `window` rows of its head, as far as
/// the blocks have them; all rows for a window of 0. Cost and memory n at most.
inline std::vector<index_t> last_rows(std::span<const query_block> blocks,
                                      std::span<const block_origin> origins, index_t window) {
  std::vector<index_t> counts(blocks.size());
  for (std::size_t begin = 0; begin < blocks.size();) {
    const std::size_t end = head_end(blocks, origins, begin);
    index_t total = 0;
    for (std::size_t b = begin; b < end; ++b) total += counts[b] = blocks[b].rows.rows();
    if (window > 0 && window < total) {
      if (end - begin == 1) {
        counts[begin] = window;
      } else {
        std::vector<index_t> rows;  // of the caller's block
        rows.reserve(static_cast<std::size_t>(total));
        for (std::size_t b = begin; b < end; ++b) {
          for (index_t i = 0; i < counts[b]; ++i) {
            rows.push_back(origins[b].first + i * origins[b].step);
          }
        }
        const auto earliest = rows.begin() + static_cast<std::ptrdiff_t>(window) - 1;
        std::nth_element(rows.begin(), earliest, rows.end(), std::greater<>());
        for (std::size_t b = begin; b < end; ++b) {
          const index_t before = std::max<index_t>(*earliest - origins[b].first, 0);
          counts[b] -= std::min(counts[b], (before + origins[b].step - 1) / origins[b].step);
        }
      }
    }
    begin = end;
  }
  return counts;
}

}  // namespace kvfit::inline KVFIT_ISA
