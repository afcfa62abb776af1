// SPDX-License-Identifier: MIT
/// Where the rows of query blocks come from, where a caller's block was cut into several.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit {

/// Row i of a block is row first + i · step of the caller's block number `block`.
struct block_origin {
  std::size_t block = 0;
  index_t first = 0;
  index_t step = 1;  ///< ≥ 1
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

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
          counts[b] -= (std::min)(counts[b], (before + origins[b].step - 1) / origins[b].step);
        }
      }
    }
    begin = end;
  }
  return counts;
}

/// The queries of a head in their places, and one flag a query.
struct placed_queries {
  struct placed {
    index_t position;
    index_t row;  ///< of the caller's block
    std::size_t query;
  };
  std::vector<placed> head;
  std::vector<char> flags;

  void declare(workspace& space, index_t queries) {
    space.reserve(head, queries);
    space.reserve(flags, queries);
  }
};

/// One flag a query: whether it is among the `window` ≥ 1 queries of its head at the largest
/// positions; of queries at one position the later rows of the caller's block. For blocks in the
/// order of their positions `last_rows` says the same. Cost n; memory `placed_queries`.
inline std::vector<char> latest_queries(std::span<const query_block> blocks,
                                        std::span<const block_origin> origins, index_t window) {
  using placed = placed_queries::placed;
  index_t queries = 0;
  for (const query_block& block : blocks) queries += block.rows.rows();
  placed_queries own;
  allocate_buffers(own, queries);
  std::vector<placed>& head = own.head;
  std::vector<char>& flags = own.flags;
  for (std::size_t begin = 0; begin < blocks.size();) {
    const std::size_t end = head_end(blocks, origins, begin);
    head.clear();
    for (std::size_t b = begin; b < end; ++b) {
      for (index_t i = 0; i < blocks[b].rows.rows(); ++i) {
        const index_t row = origins.empty() ? i : origins[b].first + i * origins[b].step;
        head.push_back({blocks[b].position(i), row, flags.size()});
        flags.push_back(0);
      }
    }
    const auto most = (std::min)(static_cast<std::size_t>(window), head.size());
    const auto is_later = [](const placed& a, const placed& b) {
      return a.position != b.position ? a.position > b.position : a.row > b.row;
    };
    if (most < head.size()) {
      std::nth_element(head.begin(), head.begin() + static_cast<std::ptrdiff_t>(most), head.end(),
                       is_later);
    }
    for (std::size_t k = 0; k < most; ++k) flags[head[k].query] = 1;
    begin = end;
  }
  return std::move(flags);
}

/// Whether the flagged queries of each block are its last `counts[b]` rows, and no others.
inline bool are_last(std::span<const char> flags, std::span<const query_block> blocks,
                     std::span<const index_t> counts) noexcept {
  std::size_t at = 0;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const index_t rows = blocks[b].rows.rows();
    for (index_t i = 0; i < rows; ++i) {
      if ((flags[at++] != 0) != (i >= rows - counts[b])) return false;
    }
  }
  return true;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
