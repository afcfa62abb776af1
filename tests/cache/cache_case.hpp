// SPDX-License-Identifier: MIT
/// A small whole cache to compact: layers of several lengths and sizes, GQA.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

/// The sizes of one layer.
struct layer_sizes {
  kvfit::index_t number = 0;
  kvfit::index_t heads = 2;
  kvfit::index_t group = 2;  ///< query heads that read one KV head
  kvfit::index_t rows = 64;
  kvfit::index_t key_size = 8;
  kvfit::index_t value_size = 6;
};

/// Owns the memory that `view` and `queries` refer to.
struct cache_case {
  std::vector<kvfit::matrix> memory;
  kvfit::cache_view view;
  kvfit::cache_queries queries;

  explicit cache_case(const std::vector<layer_sizes>& layers, kvfit::index_t query_rows = 48) {
    std::size_t matrices = 0;
    for (const layer_sizes& of : layers) {
      matrices += static_cast<std::size_t>(of.heads * (2 + of.group));
    }
    memory.reserve(matrices);  // views refer to elements
    std::uint64_t seed = 1;
    const auto random = [&](kvfit::index_t rows, kvfit::index_t cols) -> const kvfit::matrix& {
      return memory.emplace_back(random_matrix(rows, cols, seed++));
    };
    for (const layer_sizes& of : layers) {
      kvfit::cache_layer layer{.number = of.number};
      kvfit::layer_queries asked{.layer = of.number, .heads = {}};
      for (kvfit::index_t h = 0; h < of.heads; ++h) {
        const kvfit::matrix& keys = random(of.rows, of.key_size);
        const kvfit::matrix& values = random(of.rows, of.value_size);
        layer.heads.push_back({.keys = keys, .values = values});
        for (kvfit::index_t g = 0; g < of.group; ++g) {
          asked.heads.emplace_back(kvfit::row_view(random(query_rows, of.key_size)));
        }
      }
      view.layers.push_back(layer);
      queries.push_back(asked);
    }
  }

  /// The query blocks that read head h of the layer at place l, of two query heads each.
  [[nodiscard]] std::span<const kvfit::query_block> pair(std::size_t l, std::size_t h) const {
    return std::span(queries[l].heads).subspan(2 * h, 2);
  }
};

template <class Numbers>
bool same_bytes(const Numbers& a, const Numbers& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  if (a.size() == 0) return true;  // whose memory may be null, which memcmp must not get
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

inline bool same_layer(const kvfit::compacted_layer& a, const kvfit::compacted_layer& b) {
  return a.number == b.number && a.offsets == b.offsets && a.positions == b.positions &&
         a.key_positions == b.key_positions && same_bytes(a.keys, b.keys) &&
         same_bytes(a.bias, b.bias) && same_bytes(a.values, b.values);
}

inline bool same_cache(const kvfit::compacted_cache& a, const kvfit::compacted_cache& b) {
  if (a.layers.size() != b.layers.size() || a.skipped != b.skipped) return false;
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    if (!same_layer(a.layers[l], b.layers[l])) return false;
  }
  return true;
}

/// Whether head `h` of the layer is `own`, bit for bit.
inline bool is_head(const kvfit::compacted_layer& layer, std::size_t h,
                    const kvfit::compacted& own) {
  const kvfit::index_t first = layer.offsets[h];
  const kvfit::index_t rows = layer.rows(h);
  if (rows != own.keys.rows()) return false;
  const kvfit::matrix keys = layer.keys.middleRows(first, rows);
  const kvfit::matrix values = layer.values.middleRows(first, rows);
  const kvfit::vector bias = layer.bias.segment(first, rows);
  const auto from = layer.positions.begin() + first;
  return same_bytes(keys, own.keys) && same_bytes(values, own.values) &&
         same_bytes(bias, own.bias) &&
         std::vector<kvfit::index_t>(from, from + rows) == own.positions;
}

}  // namespace kvfit_test
