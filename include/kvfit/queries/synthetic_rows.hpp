// SPDX-License-Identifier: MIT
/// Reference queries that no text asks: keys of the cache, and random vectors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/engine.hpp"
#include "kvfit/queries/readings.hpp"
#include "kvfit/queries/reference_queries.hpp"
#include "kvfit/queries/sources.hpp"
#include "kvfit/queries/subsample.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows of a set: those of one source.
struct row_range {
  index_t first = 0;
  index_t count = 0;
};

/// Whether a row of a block may be read; the rows of one whose bias does not fit all may.
inline bool is_readable(const kv_block& block, index_t row) noexcept {
  return static_cast<index_t>(block.bias.size()) != block.keys.rows() || !block.is_hidden(row);
}

/// Keys that are not hidden.
inline index_t key_count(std::span<const kv_block> blocks) noexcept {
  index_t keys = 0;
  for (const kv_block& block : blocks) {
    for (index_t row = 0; row < block.keys.rows(); ++row) keys += is_readable(block, row) ? 1 : 0;
  }
  return keys;
}

/// Keys a query head, in the head that has fewest: those of a KV head are dealt out among its query
/// heads.
inline index_t fewest_keys(const cache_prefix& cache, std::span<const index_t> layers,
                           std::span<const layer_shape> shapes) {
  index_t fewest = (std::numeric_limits<index_t>::max)();
  for (const index_t l : layers) {
    const auto layer = static_cast<std::size_t>(l);
    const index_t group = shapes[layer].query_heads / shapes[layer].kv_heads;
    if (layer >= cache.blocks.size() || cache.blocks[layer].empty()) return 0;
    for (const auto& head : cache.blocks[layer]) {
      fewest = (std::min)(fewest, key_count(head) / group);
    }
  }
  return fewest;
}

/// Writes keys of each KV head into rows `to` of its query heads, none of them twice.
inline void deal_keys(std::span<const std::vector<kv_block>> heads, const row_range& to,
                      sampling how, std::uint64_t seed, reference_queries::layer& layer) {
  const auto group = static_cast<index_t>(layer.heads.size() / heads.size());
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const std::vector<index_t> rows = sample_rows(key_count(heads[h]), to.count * group, how, seed);
    index_t number = 0;  // of the key among those that are not hidden
    index_t dealt = 0;
    for (const kv_block& block : heads[h]) {
      for (index_t row = 0; row < block.keys.rows() && dealt < to.count * group; ++row) {
        if (!is_readable(block, row)) continue;
        if (rows[static_cast<std::size_t>(dealt)] == number) {
          matrix& queries = layer.heads[h * static_cast<std::size_t>(group) +
                                        static_cast<std::size_t>(dealt % group)];
          load_row(block.keys, row, queries.row(to.first + dealt / group).data());
          ++dealt;
        }
        ++number;
      }
    }
  }
}

/// Fills rows `to` of all heads of all layers, each from a seed of its own.
inline void draw_rows(const sources::random_vectors& source, const row_range& to,
                      reference_queries& queries) {
  std::uint64_t stream = 0;
  for (reference_queries::layer& layer : queries.layers) {
    for (matrix& head : layer.heads) {
      random_source random(seed_of(source.seed, stream++));
      for (index_t i = 0; i < to.count; ++i) {
        for (index_t k = 0; k < head.cols(); ++k) {
          double gaussian = -6;  // the sum of twelve uniforms: the same bits on every machine
          for (int draw = 0; draw < 12; ++draw) gaussian += random.uniform();
          head(to.first + i, k) = static_cast<float>(gaussian * source.spread);
        }
      }
    }
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
