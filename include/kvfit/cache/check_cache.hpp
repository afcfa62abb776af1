// SPDX-License-Identifier: MIT
/// Which heads of a cache are compacted, and that each has the queries it needs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/queries_of_layer.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/finite.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `cause`, found in one head of a cache, saying in which.
inline error in_head(error cause, const head_id& id) {
  cause.argument = name(id) + (cause.argument.empty() ? "" : ": " + cause.argument);
  return cause;
}

inline index_t visible_rows(const kv_block& block) {
  if (block.bias.empty()) return block.keys.rows();
  return std::count_if(block.bias.begin(), block.bias.end(),
                       [](float bias) { return is_finite(bias); });
}

/// The heads of one layer with the queries of their groups; `queries`: H groups of as many blocks,
/// as `queries_of_layer` gives them.
inline result<void> add_tasks(const cache_layer& layer, std::size_t place,
                              std::span<const query_block> queries, std::vector<head_task>& tasks) {
  const std::string where = "layer " + std::to_string(layer.number);
  if (layer.heads.empty()) return error{errc::empty_input, where + ": heads", 0, error::none, {}};
  const std::size_t heads = layer.heads.size();
  if (queries.empty() || queries.size() % heads != 0) {
    return error{errc::shape_mismatch, where + ": query heads",
                 static_cast<index_t>(queries.size()), static_cast<index_t>(heads),
                 "must be a multiple of the KV heads"};
  }
  const std::size_t group = queries.size() / heads;
  for (std::size_t h = 0; h < heads; ++h) {
    const kv_block& block = layer.heads[h];
    const head_id id{layer.number, static_cast<index_t>(h)};
    const kv_block& first = layer.heads.front();
    if (block.keys.cols() != first.keys.cols()) {
      return error{errc::shape_mismatch, name(id) + ": keys", block.keys.cols(), first.keys.cols(),
                   "columns must equal those of the layer's first head"};
    }
    if (block.values.cols() != first.values.cols()) {
      return error{errc::shape_mismatch, name(id) + ": values", block.values.cols(),
                   first.values.cols(), "columns must equal those of the layer's first head"};
    }
    const auto own = queries.subspan(h * group, group);
    tasks.push_back({id, place, block, {own.begin(), own.end()}, visible_rows(block)});
  }
  return {};
}

inline error refuse_layer(index_t number, const char* why) {
  return error{errc::invalid_option, "layer", number, error::none, why};
}

/// `tasks_of`, but for what must hold of all layers together.
inline result<void> add_layers(const cache_view& cache, const cache_queries& queries,
                               std::span<const index_t> skip, std::vector<head_task>& tasks) {
  index_t before = -1;
  for (std::size_t place = 0; place < cache.layers.size(); ++place) {
    const cache_layer& layer = cache.layers[place];
    if (layer.number <= before) return refuse_layer(layer.number, "layers must ascend from 0");
    before = layer.number;
    if (std::find(skip.begin(), skip.end(), layer.number) != skip.end()) continue;
    if (layer.kind == layer_kind::recurrent) {
      return refuse_layer(layer.number, "recurrent: it has no keys; leave it out or skip it");
    }
    if (layer.kind == layer_kind::sliding) continue;
    const auto asked =
        queries_of_layer(queries, layer.number, static_cast<index_t>(layer.heads.size()));
    if (!asked) return asked.error();
    if (const auto ok = add_tasks(layer, place, *asked, tasks); !ok) return ok.error();
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Rows of all heads of the global layers: what a ratio is a ratio of.
inline index_t rows_of(const cache_view& cache) {
  index_t sum = 0;
  for (const cache_layer& layer : cache.layers) {
    if (layer.kind != layer_kind::global) continue;
    for (const kv_block& block : layer.heads) sum += block.keys.rows();
  }
  return sum;
}

/// The heads to compact, layer after layer, with their queries: those of all global layers but the
/// ones in `skip`. A layer's queries are those of all entries that name it (`queries_of_layer`).
/// The tasks refer to what `cache` and `queries` refer to, which must outlive them.
///
/// Errors: `empty_input` without a layer to compact or a layer without heads; `invalid_option` for
/// a recurrent layer, for layers out of order, for a number in `skip` that no layer has, and for
/// queries of a layer that is not there; `missing_entry` for a layer without queries;
/// `shape_mismatch` where an entry's query heads are no multiple of the KV heads, or heads of one
/// layer differ in d_k or d_v. The rows themselves are checked by `compact`.
[[nodiscard]] inline result<std::vector<head_task>> tasks_of(const cache_view& cache,
                                                             const cache_queries& queries,
                                                             std::span<const index_t> skip = {}) {
  for (const index_t number : skip) {
    const bool is_there = std::any_of(cache.layers.begin(), cache.layers.end(),
                                      [&](const auto& layer) { return layer.number == number; });
    if (!is_there) return detail::refuse_layer(number, "to be skipped, is not in the cache");
  }
  if (const auto ok = check_query_layers(cache, queries); !ok) return ok.error();
  std::vector<head_task> tasks;
  if (const auto ok = detail::add_layers(cache, queries, skip, tasks); !ok) return ok.error();
  if (tasks.empty()) {
    return error{errc::empty_input, "layers", 0, error::none, "no layer is to be compacted"};
  }
  return tasks;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
