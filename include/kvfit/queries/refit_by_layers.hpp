// SPDX-License-Identifier: MIT
/// Sequential refit: a compact cache's layers fitted again, one after the other, from below.
#pragma once

#include <algorithm>
#include <concepts>
#include <utility>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/compact_by_layers.hpp"

namespace kvfit {

/// Refits one layer: `refit_layer(layer, queries, current)`, where `current` is what stands now.
template <class F>
concept layer_refit = requires(F& refit, index_t layer, const layer_queries& queries,
                               const compacted_layer& current) {
  { refit(layer, queries, current) } -> std::same_as<result<compacted_layer>>;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `compact_by_layers` for a cache that is compact already: each layer's fit is renewed with the
/// queries that it gets from renewed layers below. `refit_layer` is handed what stands, and keeps
/// of it what it likes (its positions, say: `selection::given`).
///
/// Errors besides: `missing_entry` (layer) where `current` lacks a layer; those of
/// `check_layer_order` for `current`.
template <engine E, executor X, layer_refit Refit>
[[nodiscard]] result<layerwise_compaction> refit_by_layers(
    const reader<E, X>& read, const cache_prefix& full, reference_queries queries,
    const token_range& range, const compacted_cache& current, Refit&& refit_layer) {
  if (const auto ok = check_layer_order(current); !ok) return ok.error();
  return compact_by_layers(
      read, full, std::move(queries), range,
      [&](index_t layer, const layer_queries& given) -> result<compacted_layer> {
        const auto& layers = current.layers;
        const auto now =
            std::find_if(layers.begin(), layers.end(),
                         [layer](const compacted_layer& one) { return one.number == layer; });
        if (now == layers.end()) {
          return error{errc::missing_entry, "current", layer, error::none, "layer"};
        }
        return refit_layer(layer, given, *now);
      });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
