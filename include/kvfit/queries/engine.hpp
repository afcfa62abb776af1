// SPDX-License-Identifier: MIT
/// What `queries/` asks of a transformer: embed, project, finish, and logits at the end.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// A token of the engine's vocabulary.
using token = std::int32_t;

/// The sizes of one layer's attention, and how its logits are made.
///
/// ALiBi slopes and attention sinks are not described: an engine that has them attends otherwise
/// than the drivers here do, and gives its queries as `query_block`s of its own.
struct layer_shape {
  layer_kind kind = layer_kind::global;
  index_t query_heads = 0;  ///< a multiple of kv_heads
  index_t kv_heads = 0;
  index_t key_size = 0;    ///< d_k
  index_t value_size = 0;  ///< d_v
  logit_rule rule = {};    ///< causality is the driver's business, not set here
  std::optional<rope> rotation = {};
};

/// What one layer makes of n tokens before it attends: queries and keys already rotated, values.
struct layer_rows {
  std::vector<matrix> queries;  ///< one per query head, n × d_k
  std::vector<matrix> keys;     ///< one per KV head, n × d_k
  std::vector<matrix> values;   ///< one per KV head, n × d_v
};

/// A transformer taken apart where attention is: a layer is `project`, attention, `finish`. The
/// attention between is the driver's (`attend`), over whatever cache it tries, so that an engine
/// needs no code for compact caches to have them tried.
///
/// hidden: n × width, one row a token, carried from layer to layer. position: of row 0; the rows
/// after it follow one by one. Nothing is kept between calls.
///
///     for (index_t l = 0; l < model.layers(); ++l) {
///       auto rows = model.project(l, hidden, position);             // Q, K, V of layer l
///       // outputs[h]: attention of rows->queries[h] over a cache and over rows->keys, causally
///       if (auto ok = model.finish(l, outputs, hidden); !ok) ...    // hidden leaves layer l
///     }
template <class E>
concept engine = requires(const E& model, index_t layer, index_t position,
                          std::span<const token> tokens, matrix& hidden, const matrix& given,
                          const std::vector<matrix>& outputs) {
  { model.layers() } -> std::same_as<index_t>;
  { model.shape(layer) } -> std::same_as<layer_shape>;
  { model.positions() } -> std::same_as<index_t>;   ///< positions it knows: 0 … positions() − 1
  { model.vocabulary() } -> std::same_as<index_t>;  ///< tokens are 0 … vocabulary() − 1
  { model.embed(tokens) } -> std::same_as<result<matrix>>;
  { model.project(layer, given, position) } -> std::same_as<result<layer_rows>>;
  { model.finish(layer, outputs, hidden) } -> std::same_as<result<void>>;  ///< one n × d_v a head
  { model.logits(given) } -> std::same_as<result<matrix>>;                 ///< n × vocabulary
};

}  // namespace kvfit
