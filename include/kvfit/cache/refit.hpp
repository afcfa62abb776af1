// SPDX-License-Identifier: MIT
/// Fits a layer's heads on rows that are chosen already: the same rows for all of them, or those of
/// a result that is to do without biases.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/assemble.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/cache/compiled.hpp"
#else
#include "kvfit/cache/refit_tasks.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Compacts every head of `layer` to the rows named for it: `compact` with `selection::given`, so
/// biases and values are fitted to full attention for these very rows.
///
/// rows: one list a head, ascending, hidden rows not among them; an empty list leaves the head
/// without rows. Rows that `options` protects, by position or number, must be named. queries: one
/// block per query head, in the engine's order, a multiple of the KV heads; where other layers read
/// this one's keys and values, too, what `queries_of_layer` makes of the entries of all. options:
/// of each head; `budget` and `selection` are not used, but where the selection would have
/// been refined by default the rows are, too. `bias::from_selection` has nothing to take weights
/// from and is an error. The layer's own rule and rotation stand in for those of the options.
///
/// `options.memory` caps what all heads under way hold together beyond inputs and finished results:
/// fewer of them run at a time first, then each does with less (`planned_memory`).
///
/// Errors: `invalid_option` for a layer that is not global; `empty_input`; `shape_mismatch`;
/// `invalid_position` for rows that can't be kept; `memory_cap_exceeded` before any head is fitted;
/// those of `compact`, of the first head that has one, with its name in front; `cancelled` once
/// `by` says so; `out_of_memory`. Nothing is returned then. Cost: one `compact` a head, spread over
/// the executor; the same bytes for every one of them.
///
///     const std::vector<std::vector<index_t>> rows = {{0, 3, 9}, {0, 4, 9}};
///     auto refitted = kvfit::refit_layer(layer, rows, queries, options, pool);
template <executor E>
[[nodiscard]] result<compacted_layer> refit_layer(const cache_layer& layer,
                                                  std::span<const std::vector<index_t>> rows,
                                                  std::span<const query_block> queries,
                                                  const compact_options& options, E&& how,
                                                  const watch& by = {}) {
  return detail::catch_bad_alloc("refit_layer", [&]() -> result<compacted_layer> {
    std::vector<compacted_head> done(layer.heads.size());
    const auto take = [&](std::size_t head, compacted_head&& one) -> result<void> {
      done[head] = std::move(one);
      return {};
    };
#if defined(KVFIT_COMPILED)
    const auto ran = compiled::best_cache().refit(layer, rows, queries, options, executor_ref(how),
                                                  by, compiled::taker_of(take));
#else
    const auto ran = detail::refit_tasks(layer, rows, queries, options, how, take, by);
#endif
    if (!ran) return ran.error();
    return detail::stack_heads(done);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_layer> refit_layer(const cache_layer& layer,
                                                         std::span<const std::vector<index_t>> rows,
                                                         std::span<const query_block> queries,
                                                         const compact_options& options) {
  return refit_layer(layer, rows, queries, options, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
