// SPDX-License-Identifier: MIT
/// An engine's whole cache and its reference queries, by reference: layers of KV heads.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// What a layer remembers, and so what may be done to it.
enum class layer_kind : std::uint8_t {
  global,     ///< every row so far: compacted
  sliding,    ///< the rows of a window alone: left as it is, and reported as skipped
  recurrent,  ///< a state without keys: refused, for there is nothing to compact
};

/// One layer. Sizes may differ from layer to layer; within one, all heads share d_k and d_v.
struct cache_layer {
  index_t number = 0;  ///< ≥ 0, the engine's own; layers ascend by it
  layer_kind kind = layer_kind::global;
  std::vector<kv_block> heads = {};  ///< one per KV head, T_h × d_k and T_h × d_v
  /// How logits are made, where that is not the rule of the options.
  std::optional<logit_rule> rule = {};
  /// How keys were rotated, where the engine says: some layers have a base of their own.
  std::optional<rope> rotation = {};
};

/// A cache as it lies. What the blocks refer to must outlive every use.
struct cache_view {
  std::vector<cache_layer> layers;
};

/// The reference queries that one layer asks: one block per query head, in the engine's order. With
/// H KV heads and G · H query heads, heads h · G to h · G + G − 1 read KV head h (GQA).
struct layer_queries {
  /// `cache_layer::number` of the cache that they read: that of another layer where layers share
  /// their keys and values.
  index_t layer = 0;
  std::vector<query_block> heads;
};

/// The reference queries of a cache: those of every layer that is compacted, in any order.
///
/// Several entries may name one layer: where several layers read one layer's keys and values, each
/// of them is an entry, with a multiple of the KV heads' number of blocks, and the cache is fitted
/// for the queries of all of them. KV head h then has the blocks of its group in the first entry,
/// behind these those in the second, and so on; `kv_block::masks` has one mask for each, in that
/// order. An entry of a layer that the cache does not have is an error. An engine may give
/// queries of sliding and of skipped layers as well: these layers are left as they are, and so
/// their queries are not used.
using cache_queries = std::vector<layer_queries>;

}  // namespace kvfit
