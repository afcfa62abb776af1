// SPDX-License-Identifier: MIT
/// The heads of all ranks in one order, and those that this rank works on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/balance.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// All heads that are compacted, in the order of the serial call: layer after layer; within one,
/// those of rank 0 come first.
struct ranked_heads {
  cache_view cache;       ///< all layers; of shards, blocks have their sizes but no memory
  cache_queries queries;  ///< of shards; what `tasks` refer to
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

/// How a number of query heads is told that is not there.
inline constexpr index_t no_queries = -1;

/// What a rank tells the others of its view, in numbers: for each layer its number, kind, KV heads
/// and query heads, and for each KV head T, d_k, d_v and the rows that are visible.
inline std::vector<index_t> outline_of(const cache_view& cache, const cache_queries& queries) {
  std::vector<index_t> outline;
  for (const cache_layer& layer : cache.layers) {
    const auto asked = std::find_if(queries.begin(), queries.end(), [&](const layer_queries& of) {
      return of.layer == layer.number;
    });
    outline.insert(
        outline.end(),
        {layer.number, static_cast<index_t>(layer.kind), static_cast<index_t>(layer.heads.size()),
         asked == queries.end() ? no_queries : static_cast<index_t>(asked->heads.size())});
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
  layer_queries queries;
  bool is_asked = true;  ///< every rank that has a part of it has queries for it
  std::vector<index_t> visible;
  std::vector<int> ranks;
};

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
      const index_t queries = *word++;
      if (number <= before) return refuse_layer(number, "layers must ascend from 0");
      before = number;
      const auto [at, is_new] = layers.try_emplace(number);
      joined_layer& own = at->second;
      if (is_new) {
        own.layer.number = own.queries.layer = number;
        own.layer.kind = kind;
      } else if (own.layer.kind != kind) {
        return refuse_layer(number, "must be of one kind on all ranks");
      }
      own.is_asked = own.is_asked && queries != no_queries;
      if (queries > 0) {
        own.queries.heads.resize(own.queries.heads.size() + static_cast<std::size_t>(queries));
      }
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
/// `shape_mismatch` where ranks that share a layer differ in query heads for one KV head.
inline result<ranked_heads> join_shards(std::span<const std::vector<index_t>> outlines,
                                        const cache_view& cache, const cache_queries& queries,
                                        std::span<const index_t> skip, int rank,
                                        index_t& failed_at) {
  auto layers = join_layers(outlines);
  if (!layers) return layers.error();
  ranked_heads all;
  for (auto& [number, part] : *layers) {
    all.cache.layers.push_back(std::move(part.layer));
    if (part.is_asked) all.queries.push_back(std::move(part.queries));
  }
  auto tasks = tasks_of(all.cache, all.queries, skip);
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

}  // namespace kvfit::detail::inline KVFIT_ISA
