// SPDX-License-Identifier: MIT
/// Reference queries in memory of their own, with the texts they come from.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/queries/engine.hpp"

namespace kvfit {

/// A text that was read for its queries. Read again, it gives those that the model asks when the
/// layers below are compacted.
struct query_reading {
  std::vector<token> tokens;
  index_t position = 0;        ///< of the first token
  bool is_after_cache = true;  ///< read over the cache; false: the context itself, over nothing
  std::vector<index_t> rows;   ///< tokens whose queries were kept, ascending
  index_t first_row = 0;       ///< their place in the set: rows first_row, first_row + 1, …
};

/// What became of one source. All counts are rows a query head.
struct source_report {
  std::string_view name;  ///< `name(query_source)`
  index_t asked = 0;
  index_t obtained = 0;  ///< tokens read, or keys there were
  index_t kept = 0;
};

/// What was asked for, obtained and kept.
struct gather_report {
  index_t budget = 0;             ///< queries a KV head that were asked for
  index_t rows = 0;               ///< rows a query head that the budget and the memory allow
  bool is_cut_by_memory = false;  ///< fewer than the budget, for `gather_options::memory`
  index_t bytes = 0;              ///< of queries and positions kept
  std::vector<source_report> sources;
};

/// n queries of every query head of the layers that are compacted: the same tokens for all of them,
/// source after source.
struct reference_queries {
  struct layer {
    index_t number = 0;
    std::vector<matrix> heads;  ///< one per query head, n × d_k
  };

  std::vector<layer> layers;
  std::vector<index_t> positions;  ///< n: where each query stands, in all heads
  std::vector<query_reading> readings;
  gather_report report;

  [[nodiscard]] index_t rows() const noexcept { return static_cast<index_t>(positions.size()); }

  /// One layer's, by reference: one block per query head.
  [[nodiscard]] layer_queries view(std::size_t which) const& {
    layer_queries one{layers[which].number, {}};
    for (const matrix& head : layers[which].heads) {
      query_block block(head);
      block.positions = positions;
      one.heads.push_back(block);
    }
    return one;
  }
  /// What `compact_cache` takes, by reference.
  [[nodiscard]] cache_queries view() const& {
    cache_queries all;
    for (std::size_t l = 0; l < layers.size(); ++l) all.push_back(view(l));
    return all;
  }
  layer_queries view(std::size_t which) const&& = delete;  // they would refer to what is gone
  cache_queries view() const&& = delete;
};

}  // namespace kvfit
