// SPDX-License-Identifier: MIT
/// The query blocks that one layer's cache is fitted for: those of every entry that names it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// The blocks of all entries of `queries` for `layer`, KV head after KV head; within one, entry
/// after entry in the order of `queries`. Entries e of G_e · H blocks give H groups of Σ G_e
/// blocks:
///
///     head h:  e₀[h · G₀ …], e₁[h · G₁ …], …
///
/// kv_heads: H, the heads of the layer. What `compact_cache` fits a layer for; `refit_layer`,
/// `share_positions` and `refit_without_bias` take it as it is. The blocks refer to the rows that
/// `queries` refers to. Errors: `missing_entry` where no entry names the layer; `empty_input` for
/// no KV head; `shape_mismatch` for an entry whose blocks are none, or no multiple of H. Cost: one
/// copy of the blocks, without their rows.
///
///     auto asked = kvfit::queries_of_layer(queries, 3, kv_heads);
[[nodiscard]] inline result<std::vector<query_block>> queries_of_layer(const cache_queries& queries,
                                                                       index_t layer,
                                                                       index_t kv_heads) {
  const std::string where = "layer " + std::to_string(layer);
  const auto heads = static_cast<std::size_t>(std::max<index_t>(kv_heads, 0));
  std::vector<const layer_queries*> entries;
  std::size_t blocks = 0;
  for (const layer_queries& entry : queries) {
    if (entry.layer != layer) continue;
    entries.push_back(&entry);
    blocks += entry.heads.size();
  }
  if (entries.empty()) {
    return error{errc::missing_entry, "queries of " + where, error::none, error::none, {}};
  }
  if (heads == 0) return error{errc::empty_input, where + ": heads", 0, error::none, {}};
  for (std::size_t e = 0; e < entries.size(); ++e) {
    const std::size_t own = entries[e]->heads.size();
    if (own > 0 && own % heads == 0) continue;
    std::string detail = "must be a multiple of the KV heads";
    if (entries.size() > 1) detail += "; entry " + std::to_string(e) + " of this layer";
    return error{errc::shape_mismatch, where + ": query heads", static_cast<index_t>(own),
                 static_cast<index_t>(heads), detail};
  }
  std::vector<query_block> all;
  all.reserve(blocks);
  for (std::size_t h = 0; h < heads; ++h) {
    for (const layer_queries* entry : entries) {
      const std::size_t group = entry->heads.size() / heads;
      for (std::size_t g = 0; g < group; ++g) all.push_back(entry->heads[h * group + g]);
    }
  }
  return all;
}

/// `invalid_option`, naming the layer, for an entry of a layer that `cache` does not have.
[[nodiscard]] inline result<void> check_query_layers(const cache_view& cache,
                                                     const cache_queries& queries) {
  for (const layer_queries& entry : queries) {
    const bool is_there = std::any_of(cache.layers.begin(), cache.layers.end(),
                                      [&](const auto& of) { return of.number == entry.layer; });
    if (is_there) continue;
    return error{errc::invalid_option, "queries of layer " + std::to_string(entry.layer),
                 error::none, error::none, "the cache has no such layer"};
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
