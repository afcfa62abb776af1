// SPDX-License-Identifier: MIT
/// The heads of all ranks' shards in the order of the serial call.
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
#include "kvfit/cache/queries_of_layer.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

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
  cache_layer layer;            ///< its blocks have sizes and no memory
  std::vector<index_t> groups;  ///< of the first part: query heads for a KV head, of each entry
  std::vector<index_t> visible;
  std::vector<int> ranks;
  std::optional<error> fault;  ///< of the first part that does not fit
};

/// Refuses a part of `heads` KV heads with entries of `asked` query heads that can't be compacted,
/// or whose groups are not those of the first part.
inline result<void> check_part(joined_layer& to, bool is_first, index_t heads,
                               std::span<const index_t> asked) {
  cache_queries entries;
  for (const index_t count : asked) {
    entries.push_back({to.layer.number, std::vector<query_block>(static_cast<std::size_t>(count))});
  }
  const auto found = queries_of_layer(entries, to.layer.number, heads);
  if (!found) return found.error();
  std::vector<index_t> groups;
  for (const index_t count : asked) groups.push_back(count / heads);
  if (is_first) to.groups = groups;
  groups.resize((std::max)(groups.size(), to.groups.size()));
  to.groups.resize(groups.size());
  for (std::size_t e = 0; e < groups.size(); ++e) {
    if (groups[e] == to.groups[e]) continue;
    return error{errc::shape_mismatch, "layer " + std::to_string(to.layer.number) + ": query heads",
                 groups[e], to.groups[e],
                 "must be as many for each KV head on all ranks; entry " + std::to_string(e)};
  }
  return {};
}

/// The heads of all ranks, those of a layer in the order of the ranks.
struct joined_heads {
  cache_view cache;  ///< blocks have sizes and no memory
  std::vector<head_task> tasks;
  std::vector<int> ranks;  ///< who has each
};

/// outlines: of all ranks' views. Errors: those that `tasks_of` has for all ranks' layers together;
/// `invalid_option` where ranks disagree about a layer's kind; `shape_mismatch` where they differ
/// in query heads for a KV head, or in entries of queries. The same on every rank: what passes is
/// an error on none.
inline result<joined_heads> join_shards(std::span<const std::vector<index_t>> outlines,
                                        std::span<const index_t> skip) {
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
      const auto [at, is_first] = layers.try_emplace(number);
      joined_layer& to = at->second;
      if (is_first) to.layer = {.number = number, .kind = kind};
      result<void> ok;
      if (to.layer.kind != kind) {
        ok = refuse_layer(number, "must be of one kind on all ranks");
      } else if (is_compacted(to.layer, skip)) {
        ok = check_part(to, is_first, heads, {word, entries});
      }
      if (!ok && !to.fault) to.fault = ok.error();
      word += static_cast<std::ptrdiff_t>(entries);
      for (index_t h = 0; h < heads; ++h, word += 4) {
        constexpr const float* nothing = nullptr;
        to.layer.heads.push_back({.keys = row_view(nothing, word[0], word[1]),
                                  .values = row_view(nothing, word[0], word[2])});
        to.visible.push_back(word[3]);
        to.ranks.push_back(static_cast<int>(r));
      }
    }
  }
  joined_heads all;
  cache_queries asked;
  for (auto& [number, part] : layers) {
    if (part.fault) return *part.fault;
    asked.push_back({number, std::vector<query_block>(part.layer.heads.size())});
    all.cache.layers.push_back(std::move(part.layer));
  }
  auto tasks = tasks_of(all.cache, asked, skip);
  if (!tasks) return tasks.error();
  all.tasks = std::move(*tasks);
  for (head_task& task : all.tasks) {
    const joined_layer& part = layers.at(task.id.layer);
    task.visible = part.visible[static_cast<std::size_t>(task.id.head)];
    all.ranks.push_back(part.ranks[static_cast<std::size_t>(task.id.head)]);
  }
  return all;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
