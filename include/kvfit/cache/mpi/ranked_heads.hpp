// SPDX-License-Identifier: MIT
/// The heads of all ranks in one order, and those that this rank works on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/compacted_layers.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/balance.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// All heads that are compacted, in the order of the serial call: layer after layer; within one,
/// those of rank 0 come first.
struct ranked_heads {
  cache_view cache;  ///< all layers; of shards, blocks have their sizes but no memory
  std::vector<head_task> tasks;
  std::vector<int> ranks;      ///< who works on each
  std::vector<head_task> own;  ///< this rank's, with their memory; `layer` is a place in its view
  std::vector<std::size_t> places;  ///< of `own` in `tasks`

  /// Notes which heads are this rank's. `own` is left to the caller where they lie in a shard.
  void find_places(int rank) {
    places.clear();
    for (std::size_t at = 0; at < ranks.size(); ++at) {
      if (ranks[at] == rank) places.push_back(at);
    }
  }

  /// Where every rank has every head: each goes to the rank with the least work so far.
  void deal(std::span<const double> work, int rank, int size) {
    ranks = balance(work, size);
    find_places(rank);
    own.clear();
    for (const std::size_t at : places) own.push_back(tasks[at]);
  }
};

/// What a rank tells the others of its view, in numbers: for each layer its number, kind, KV heads
/// and entries of queries, for each entry its query heads, and for each KV head T, d_k, d_v and the
/// rows that are visible.
inline std::vector<index_t> outline_of(const cache_view& cache, const cache_queries& queries) {
  std::vector<index_t> outline;
  for (const cache_layer& layer : cache.layers) {
    std::vector<index_t> asked;
    for (const layer_queries& entry : queries) {
      if (entry.layer == layer.number) asked.push_back(static_cast<index_t>(entry.heads.size()));
    }
    outline.insert(outline.end(),
                   {layer.number, static_cast<index_t>(layer.kind),
                    static_cast<index_t>(layer.heads.size()), static_cast<index_t>(asked.size())});
    outline.insert(outline.end(), asked.begin(), asked.end());
    for (const kv_block& block : layer.heads) {
      outline.insert(outline.end(), {block.keys.rows(), block.keys.cols(), block.values.cols(),
                                     visible_rows(block)});
    }
  }
  return outline;
}

/// One layer of which ranks have parts.
struct joined_layer {
  cache_layer layer;
  std::vector<index_t> asked;   ///< query heads of each entry of queries, over all ranks
  std::vector<index_t> groups;  ///< of each entry, those of one KV head of the first rank's part
  bool is_asked = true;         ///< every rank that has a part of it has queries for it
  std::optional<error> unlike;  ///< ranks have other entries of queries for it
  std::vector<index_t> visible;
  std::vector<int> ranks;
};

/// Adds one rank's entries of queries for a layer of `heads` KV heads to those of the ranks before.
inline void join_entries(joined_layer& to, bool is_first, std::span<const index_t> entries,
                         index_t heads) {
  const std::string where = "layer " + std::to_string(to.layer.number);
  if (entries.empty()) to.is_asked = false;
  if (is_first) {
    to.asked.assign(entries.begin(), entries.end());
    for (const index_t count : entries) to.groups.push_back(heads > 0 ? count / heads : 0);
    return;
  }
  if (!to.is_asked || to.unlike) return;
  if (entries.size() != to.asked.size()) {
    to.unlike = error{errc::shape_mismatch, where + ": entries of queries",
                      static_cast<index_t>(entries.size()), static_cast<index_t>(to.asked.size()),
                      "must be as many on all ranks"};
    return;
  }
  for (std::size_t e = 0; e < entries.size(); ++e) {
    to.asked[e] += entries[e];
    // One entry's groups are compared head by head, with the head's name. Of several only the sum
    // would be, and a head's blocks would not be those of the whole cache.
    if (entries.size() == 1 || heads == 0 || entries[e] / heads == to.groups[e]) continue;
    to.unlike =
        error{errc::shape_mismatch, where + ": query heads", entries[e] / heads, to.groups[e],
              "must be as many for each KV head on all ranks; entry " + std::to_string(e)};
    return;
  }
}

/// The layers of all ranks, by number. Errors: `invalid_option` where a rank's layers do not ascend
/// or ranks disagree about a layer's kind.
inline result<std::map<index_t, joined_layer>> join_layers(
    std::span<const std::vector<index_t>> outlines) {
  std::map<index_t, joined_layer> layers;
  for (std::size_t r = 0; r < outlines.size(); ++r) {
    index_t before = -1;
    for (auto word = outlines[r].begin(); word != outlines[r].end();) {
      const index_t number = *word++;
      const auto kind = static_cast<layer_kind>(*word++);
      const index_t heads = *word++;
      const auto entries = static_cast<std::size_t>(*word++);
      if (number <= before) return refuse_layer(number, "layers must ascend from 0");
      before = number;
      const auto [at, is_new] = layers.try_emplace(number);
      joined_layer& own = at->second;
      if (is_new) {
        own.layer.number = number;
        own.layer.kind = kind;
      } else if (own.layer.kind != kind) {
        return refuse_layer(number, "must be of one kind on all ranks");
      }
      join_entries(own, is_new, {word, entries}, heads);
      word += static_cast<std::ptrdiff_t>(entries);
      for (index_t h = 0; h < heads; ++h) {
        const index_t rows = *word++;
        const index_t key_size = *word++;
        const index_t value_size = *word++;
        constexpr const float* nothing = nullptr;
        own.layer.heads.push_back({.keys = row_view(nothing, rows, key_size),
                                   .values = row_view(nothing, rows, value_size)});
        own.visible.push_back(*word++);
        own.ranks.push_back(static_cast<int>(r));
      }
    }
  }
  return layers;
}

/// The heads of all ranks' shards, and this rank's. `failed_at` is told the place of a head at
/// fault, where the fault is this rank's alone.
///
/// Errors: those that `tasks_of` has for all ranks' layers together, and for each rank's own part;
/// `shape_mismatch` where ranks that share a layer differ in query heads for one KV head, or in
/// entries of queries.
inline result<ranked_heads> join_shards(std::span<const std::vector<index_t>> outlines,
                                        const cache_view& cache, const cache_queries& queries,
                                        std::span<const index_t> skip, int rank,
                                        index_t& failed_at) {
  auto layers = join_layers(outlines);
  if (!layers) return layers.error();
  ranked_heads all;
  cache_queries asked;
  for (auto& [number, part] : *layers) {
    if (part.is_asked && part.unlike && is_compacted(part.layer, skip)) return *part.unlike;
    all.cache.layers.push_back(std::move(part.layer));
    if (!part.is_asked) continue;
    for (const index_t count : part.asked) {
      asked.push_back({number, std::vector<query_block>(static_cast<std::size_t>(count))});
    }
  }
  auto tasks = tasks_of(all.cache, asked, skip);
  if (!tasks) return tasks.error();
  all.tasks = std::move(*tasks);
  for (head_task& task : all.tasks) {
    const joined_layer& part = layers->at(task.id.layer);
    const auto head = static_cast<std::size_t>(task.id.head);
    task.visible = part.visible[head];
    all.ranks.push_back(part.ranks[head]);
  }
  all.find_places(rank);
  const auto added = add_layers(cache, queries, skip, all.own);
  for (std::size_t i = 0; i < all.own.size(); ++i) {
    const head_task& whole = all.tasks[all.places[i]];
    head_task& own = all.own[i];
    own.id = whole.id;
    if (own.queries.size() == whole.queries.size()) continue;
    failed_at = static_cast<index_t>(all.places[i]);
    return error{errc::shape_mismatch, name(own.id) + ": query heads",
                 static_cast<index_t>(own.queries.size()),
                 static_cast<index_t>(whole.queries.size()),
                 "must be as many for each KV head of a layer on all ranks"};
  }
  if (added) return all;
  if (all.own.size() < all.places.size()) {
    failed_at = static_cast<index_t>(all.places[all.own.size()]);
  }
  return added.error();
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
