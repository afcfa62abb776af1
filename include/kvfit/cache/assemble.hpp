// SPDX-License-Identifier: MIT
/// Heads that were compacted one by one, put together to layers and a cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/cache/compacted_layers.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Puts the heads of one layer one after the other, and frees each when it has been copied.
inline compacted_layer stack_heads(std::span<compacted_head> heads) {
  compacted_layer layer;
  layer.number = heads.front().report.id.layer;
  layer.offsets = {0};
  for (const compacted_head& head : heads) {
    layer.offsets.push_back(layer.offsets.back() + head.rows.keys.rows());
  }
  const index_t rows = layer.offsets.back();
  layer.keys.resize(rows, heads.front().rows.keys.cols());
  layer.values.resize(rows, heads.front().rows.values.cols());
  layer.bias.resize(rows);
  layer.positions.reserve(static_cast<std::size_t>(rows));
  layer.key_positions.reserve(static_cast<std::size_t>(rows));
  index_t first = 0;
  for (compacted_head& head : heads) {
    const compacted own = std::move(head.rows);
    const index_t count = own.keys.rows();
    std::copy_n(own.keys.data(), own.keys.size(), layer.keys.data() + first * layer.keys.cols());
    std::copy_n(own.values.data(), own.values.size(),
                layer.values.data() + first * layer.values.cols());
    std::copy_n(own.bias.data(), count, layer.bias.data() + first);
    layer.positions.insert(layer.positions.end(), own.positions.begin(), own.positions.end());
    layer.key_positions.insert(layer.key_positions.end(), own.key_positions.begin(),
                               own.key_positions.end());
    layer.heads.push_back(std::move(head.report));
    first += count;
  }
  return layer;
}

/// Adds heads to the sums of a `compacted_cache` or of a `ranked_cache`.
template <class Sums>
void add_sums(std::span<const compacted_head> heads, Sums& to) {
  for (const compacted_head& head : heads) {
    to.rows_before += head.report.rows_before;
    to.rows += head.report.rows;
    to.fallbacks += head.report.outcome == head_outcome::fallback ? 1 : 0;
  }
}

/// The heads of `tasks`, layer after layer of `cache`, each of which is freed when it has been
/// copied; the layers that are not compacted are listed as skipped.
inline compacted_cache assemble(const cache_view& cache, std::span<const index_t> skip,
                                std::span<const head_task> tasks, std::span<compacted_head> heads) {
  compacted_cache out;
  add_sums(heads, out);
  for (std::size_t place = 0, first = 0; place < cache.layers.size(); ++place) {
    std::size_t end = first;
    while (end < heads.size() && tasks[end].layer == place) ++end;
    if (end > first) {
      out.layers.push_back(stack_heads(heads.subspan(first, end - first)));
    } else if (!is_compacted(cache.layers[place], skip)) {
      out.skipped.push_back(cache.layers[place].number);
    }
    first = end;
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
