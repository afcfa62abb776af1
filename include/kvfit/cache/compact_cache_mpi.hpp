// SPDX-License-Identifier: MIT
/// `compact_cache()` by several processes, on one machine or many: heads are independent.
///
/// Needs <mpi.h>: link `kvfit::mpi`.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/assemble.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compact_tasks.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/mpi/rank_exchange.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/mpi.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"

namespace kvfit {

/// What every rank gets.
struct ranked_cache {
  /// With `rank_options::gathers_rows` all heads: the serial call's result. Else the heads that
  /// this rank compacted and sums over them; a layer without one is left out. `skipped` always is
  /// that of all ranks.
  compacted_cache cache;
  std::vector<head_report> heads;  ///< of all ranks, in the order of the serial call
  std::vector<int> ranks;          ///< which rank compacted each of `heads`
  index_t rows_before = 0;         ///< of all heads of all ranks
  index_t rows = 0;                ///< Σ t_h over all ranks
  index_t fallbacks = 0;           ///< heads of all ranks whose method failed
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The heads as every rank is to have them.
inline ranked_cache assemble_ranked(const rank_exchange& of, const cache_plan& plan,
                                    std::span<const index_t> skip, bool has_all_rows,
                                    std::vector<compacted_head>& heads) {
  ranked_cache out;
  for (const compacted_head& head : heads) out.heads.push_back(head.report);
  add_sums(heads, out);
  out.ranks = of.owners();
  if (has_all_rows) {
    out.cache = assemble(of.cache(), skip, plan.tasks, heads);
    return out;
  }
  std::vector<head_task> tasks;
  std::vector<compacted_head> own;
  for (const std::size_t place : of.places()) {
    tasks.push_back(plan.tasks[place]);
    own.push_back(std::move(heads[place]));
  }
  out.cache = assemble(of.cache(), skip, tasks, own);
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// The serial `compact_cache` of the whole cache, done by all ranks together: the same rows and the
/// same bytes, each head compacted by one rank on its own executor.
///
/// Collective: every rank calls it with the same options and, under `rank_holds::whole`, views of
/// one shape. Then heads go to ranks by their work, T_h · t_h, the longest first, each to the rank
/// with the least. Under `rank_holds::shard` each rank compacts what it has; heads are named as the
/// whole cache names them (layer's number, place among the heads of all ranks), and so are
/// `budgets::given` and `options.skip`, while `budgets::rows` and the curves of
/// `budgets::influence` are those of the rank's own heads, in the order of its view. Ranks that
/// share a layer have the same entries of queries for it, in the same order, each with as many
/// query heads for a KV head. The budget is that of all ranks together. `heads_at_once` and `by`
/// are each rank's own: progress counts its heads.
///
/// Errors: those of the serial call, and `invalid_option` where ranks were called with different
/// options (policies, refinement and `score_by` are not compared), `shape_mismatch` or
/// `invalid_option` where their parts do not make one cache, `policy_threw` with the head's name
/// for an exception of a caller's own policy, `communication_failed` (see `mpi_ranks`). Whatever
/// fails on one rank is the same error on all: that of the first head in order. The others end
/// their own heads first, so a wish to stop is best expressed on all. Same input, same bytes, for
/// any number of ranks and threads, on machines of one kind.
///
/// Messages besides a few numbers: reports (about 1.3 KB a head), under a budget that ranks keys 4
/// bytes a row of the cache, and the compact rows where they are gathered. Holds on each rank what
/// the serial call holds for its own heads, the reports, and all compact rows where they are
/// gathered.
///
///     auto ranks = mpi_ranks::over(MPI_COMM_WORLD);
///     thread_pool pool;
///     auto small = compact_cache(*ranks, my_layers, my_queries, {.budget = 4'096},
///                                {.holds = rank_holds::shard, .gathers_rows = false}, pool);
///     if (!small) return small.error();  // the same on every rank
template <executor E>
[[nodiscard]] result<ranked_cache> compact_cache(mpi_ranks& ranks, const cache_view& cache,
                                                 const cache_queries& queries,
                                                 const cache_options& options,
                                                 const rank_options& spread, E&& how,
                                                 const watch& by = {}) {
  detail::rank_exchange with(ranks, spread);
  cache_plan plan;
  auto heads = detail::plan_and_fit(with, cache, queries, options, how, by, plan);
  if (!heads) return heads.error();
  std::optional<ranked_cache> out;
  const auto ok = with.step([&](index_t&) -> result<void> {
    out = detail::assemble_ranked(with, plan, options.skip, spread.gathers_rows, *heads);
    return {};
  });
  if (!ok) return ok.error();
  return std::move(*out);
}

/// The same, each rank on its calling thread.
[[nodiscard]] inline result<ranked_cache> compact_cache(mpi_ranks& ranks, const cache_view& cache,
                                                        const cache_queries& queries,
                                                        const cache_options& options,
                                                        const rank_options& spread = {}) {
  return compact_cache(ranks, cache, queries, options, spread, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
