// SPDX-License-Identifier: MIT
/// A compacted layer for fused kernels that take no bias per key.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/refit.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/presets.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// `fitted` on the same positions with every bias 0 and values fitted to that.
///
/// Leaving the biases of a fit out is no option: its values were fitted to the attention that they
/// make. Here keys start as their rows again, no bias is fitted, and values solve
///
///     softmax(s) C ≈ softmax(s_full) V                            (arXiv:2602.16284, flash-safe)
///
/// Mass can't be matched without biases, so that live tokens beside the block get more of the
/// attention than they should; keys that move win some of it back, and do so only where
/// `options.refine.steps` is given and not 0. A caller who knows beforehand that the kernel takes
/// no bias is better off with rows chosen for it (`presets::joint_zero_bias`).
///
/// layer, fitted, queries, options: as for `refit_layer`; the bias policy of the options is not
/// used. Errors: those of `check_layer` and `refit_layer`; `shape_mismatch` where `fitted` is
/// not of this layer; `invalid_option` "bias" (row) where the cache itself has a bias on a row that
/// was kept, which no zero can stand for. Cost: that of `refit_layer`. Same input, same bytes.
///
///     auto fused = kvfit::refit_without_bias(view.layers[0], cache.layers[0], queries, options);
///     // fused->bias is all zeros
template <executor E>
[[nodiscard]] result<compacted_layer> refit_without_bias(const cache_layer& layer,
                                                         const compacted_layer& fitted,
                                                         std::span<const query_block> queries,
                                                         const compact_options& options, E&& how,
                                                         const watch& by = {}) {
  return detail::catch_bad_alloc("refit_without_bias", [&]() -> result<compacted_layer> {
    if (const auto ok = check_layer(fitted); !ok) return ok.error();
    if (fitted.number != layer.number || fitted.heads.size() != layer.heads.size()) {
      return error{errc::shape_mismatch, detail::part_of(fitted, "heads"),
                   static_cast<index_t>(fitted.heads.size()),
                   static_cast<index_t>(layer.heads.size()), "of another layer"};
    }
    std::vector<std::vector<index_t>> rows;
    for (std::size_t h = 0; h < fitted.heads.size(); ++h) {
      const auto first = fitted.positions.begin() + fitted.offsets[h];
      rows.emplace_back(first, first + fitted.rows(h));
      const auto own = layer.heads[h].bias;
      for (const index_t row : rows.back()) {
        const auto at = static_cast<std::size_t>(row);
        if (at >= own.size() || own[at] == 0) continue;
        return detail::in_head({errc::invalid_option, "bias", row, error::none,
                                "the cache's own bias of this row is not 0"},
                               {layer.number, static_cast<index_t>(h)});
      }
    }
    compact_options asked = presets::without_bias(options);
    asked.refine.steps = options.refine.steps.value_or(0);
    return refit_layer(layer, rows, queries, asked, how, by);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_layer> refit_without_bias(
    const cache_layer& layer, const compacted_layer& fitted, std::span<const query_block> queries,
    const compact_options& options) {
  return refit_without_bias(layer, fitted, queries, options, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
