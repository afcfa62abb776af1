// SPDX-License-Identifier: MIT
/// The entry points of the compiled library (target kvfit::compiled) behind `plan_cache`,
/// `compact_heads`, `refit_layer` and `share_positions`, on which `compact_cache`, rolling rounds
/// and chunks stand.
///
/// As behind `compact()`, no Eigen matrix is handed over: each head comes as plain rows.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/compact/compiled.hpp"
#include "kvfit/core/compiled_entry_points.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit::compiled {

/// A `compacted_head` without Eigen's memory.
struct plain_head {
  plain_rows rows;  ///< but for their report, which `report` has
  head_report report;
};

/// Who is given each head that is done.
struct head_taker {
  void* owner = nullptr;
  result<void> (*take)(void* owner, std::size_t place, plain_head&& head) = nullptr;
};

/// One instruction set's `plan_cache()`, `compact_heads()`, `refit_layer()` and what
/// `share_positions()` needs.
struct cache_entry_points {
  result<cache_plan> (*plan)(const cache_view& cache, const cache_queries& queries,
                             const cache_options& options, const executor_ref& threads,
                             const watch& by);
  result<void> (*heads)(const cache_view& cache, const cache_plan& plan,
                        const cache_options& options, const executor_ref& threads, const watch& by,
                        const head_taker& taker);
  /// The taker is called by several threads at once.
  result<void> (*refit)(const cache_layer& layer, std::span<const std::vector<index_t>> rows,
                        std::span<const query_block> queries, const compact_options& options,
                        const executor_ref& threads, const watch& by, const head_taker& taker);
  /// The rows on which `share_positions` fits every head; `fitted` is only read.
  result<std::vector<index_t>> (*shared_rows)(const cache_layer& layer,
                                              const compacted_layer& fitted,
                                              std::span<const head_task> tasks,
                                              const compact_options& options, index_t most,
                                              const stop_when& stop);
};

/// Those of the best of the instruction sets compiled.
inline const cache_entry_points& best_cache() noexcept {
  return *available().front().cache;
}

}  // namespace kvfit::compiled

namespace kvfit::compiled {
inline namespace KVFIT_ISA {

/// Takes the head, whose rows are gone when their copy has been made.
inline plain_head to_plain(compacted_head head) {
  return {.rows = to_plain(std::move(head.rows)), .report = std::move(head.report)};
}

/// The same the other way.
inline compacted_head from_plain(plain_head head) {
  compacted_head out{.rows = from_plain(std::move(head.rows)), .report = std::move(head.report)};
  out.rows.report = out.report.report;
  return out;
}

/// `take(place, compacted_head&&)`, which outlives every call.
template <class Take>
head_taker taker_of(Take& take) noexcept {
  using plain_take = std::remove_const_t<Take>;
  return {const_cast<plain_take*>(&take),
          [](void* owner, std::size_t place, plain_head&& head) -> result<void> {
            return (*static_cast<Take*>(owner))(place, from_plain(std::move(head)));
          }};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::compiled
