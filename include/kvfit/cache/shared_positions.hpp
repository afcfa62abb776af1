// SPDX-License-Identifier: MIT
/// One list of positions for all heads of a layer, for engines whose heads share their cells.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/layer_tasks.hpp"
#include "kvfit/cache/refit.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/serial.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/cache/compiled.hpp"
#else
#include "kvfit/cache/shared_rows.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// `fitted` with the same positions in every head: the union of the heads' own, on which every head
/// is fitted anew.
///
/// A bias that hides the rows a head did not choose would keep its fit, but spend the slots and
/// lose what the rows could do; and a fit made before hiding is no fit. So biases and values of
/// each head are fitted to full attention over the union's rows (`refit_layer`), and all biases are
/// finite. Where every head chose the same rows the result is that of `compact` with these rows
/// given.
///
/// layer: what `fitted` was made of, all heads of the same T. queries, options: as for
/// `refit_layer`. most_rows: rows that may stay, 0 for all. Of a larger union those stay that the
/// heads attend to most, protected rows before all others,
///
///     Σ_h mean_i Â_ij^h,   Â^h = softmax(s + β) of head h's compact rows, 0 for rows it lacks,
///
/// of equal ones the first.
///
/// Errors: those of `check_layer` and `refit_layer`; `shape_mismatch` where `fitted` is not of this
/// layer; `invalid_position` where a head hides a row of the union; `budget_out_of_range` for
/// `most_rows` below 0, or not above the protected rows. Cost: that of `refit_layer` for the
/// union's rows, n · t · d_k a head for the importance. Same input, same bytes.
///
///     auto shared = kvfit::share_positions(view.layers[0], cache.layers[0], asked, options, 512);
///     // shared->positions: the union's rows, once for each head
template <executor E>
[[nodiscard]] result<compacted_layer> share_positions(
    const cache_layer& layer, const compacted_layer& fitted, std::span<const query_block> queries,
    const compact_options& options, index_t most_rows, E&& how, const watch& by = {}) {
  return detail::catch_bad_alloc("share_positions", [&]() -> result<compacted_layer> {
    const auto tasks = detail::tasks_of_layer(layer, queries);
    if (!tasks) return tasks.error();
    if (const auto ok = check_layer(fitted); !ok) return ok.error();
    const auto mismatch = [&](const char* part, index_t actual, index_t expected, const char* why) {
      return error{errc::shape_mismatch, detail::part_of(fitted, part), actual, expected, why};
    };
    if (fitted.number != layer.number) {
      return mismatch("number", fitted.number, layer.number, "of another layer");
    }
    if (fitted.heads.size() != layer.heads.size()) {
      return mismatch("heads", static_cast<index_t>(fitted.heads.size()),
                      static_cast<index_t>(layer.heads.size()), "as many as the layer has");
    }
    const index_t length = layer.heads.front().keys.rows();
    for (const kv_block& head : layer.heads) {
      if (head.keys.rows() == length) continue;
      return mismatch("rows", head.keys.rows(), length, "must be the same in all heads");
    }
    if (most_rows < 0) {
      return error{errc::budget_out_of_range, "most_rows", most_rows, 0, "must not be negative"};
    }
#if defined(KVFIT_COMPILED)
    const auto rows =
        compiled::best_cache().shared_rows(layer, fitted, *tasks, options, most_rows, by.stop());
#else
    const auto rows = detail::shared_rows(layer, fitted, *tasks, options, most_rows, by.stop());
#endif
    if (!rows) return rows.error();
    const std::vector<std::vector<index_t>> same(layer.heads.size(), *rows);
    return refit_layer(layer, same, queries, options, how, by);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_layer> share_positions(const cache_layer& layer,
                                                             const compacted_layer& fitted,
                                                             std::span<const query_block> queries,
                                                             const compact_options& options,
                                                             index_t most_rows = 0) {
  return share_positions(layer, fitted, queries, options, most_rows, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
