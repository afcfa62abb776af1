// SPDX-License-Identifier: MIT
/// Which layers of a cache are compacted.
#pragma once

#include <algorithm>
#include <span>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether `compact_cache` takes a layer: global, and not among the numbers to `skip`.
inline bool is_compacted(const cache_layer& layer, std::span<const index_t> skip) {
  return layer.kind == layer_kind::global &&
         std::find(skip.begin(), skip.end(), layer.number) == skip.end();
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
