// SPDX-License-Identifier: MIT
/// `compact()` itself: check, keep protected rows, take the others through the stages. Include
/// kvfit/compact.hpp.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "kvfit/compact/check.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/compact/memory_planner.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/stages.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Seconds since the last call.
class stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// Fits values to kept rows and judges them; adds the seconds of both.
inline result<compacted> complete(const stages::problem& of, const stages::targets& full,
                                  stages::refined rows, stopwatch& clock, stage_seconds& seconds) {
  auto fitted = stages::fit_values(of, full, std::move(rows));
  seconds.values += clock.lap();
  if (!fitted) return fitted.error();
  auto judged = stages::judge(of, full, std::move(*fitted));
  seconds.judge += clock.lap();
  return judged;
}

/// Whether a refined result is worse than what refinement started from, on the queries that judge.
inline bool is_worse(const compact_report& report) noexcept {
  const fidelity& start = report.refinement.start;
  const fidelity& now = report.held_out ? *report.held_out : report.train;
  return !(now.rms_output_error <= start.rms_output_error && now.mass_error <= start.mass_error);
}

/// All stages. Keys stay moved only where the finished result judges better: the last fit of values
/// may lose what refinement gained, or not fit the storage.
inline result<compacted> run_stages(const stages::problem& of) {
  stopwatch clock;
  stage_seconds seconds;
  auto full = stages::score(of);
  if (!full) return full.error();
  seconds.score = clock.lap();
  auto chosen = stages::select(of, *full);
  if (!chosen) return chosen.error();
  seconds.select = clock.lap();
  auto rows = stages::weigh(of, *full, std::move(*chosen));
  if (!rows) return rows.error();
  seconds.bias = clock.lap();
  const auto wanted = stages::score_held_out(of, std::move(*full));
  if (!wanted) return wanted.error();
  seconds.judge = clock.lap();
  auto moved = stages::refine(of, *wanted, std::move(*rows));
  if (!moved) return moved.error();
  seconds.refine = clock.lap();
  auto start = std::exchange(moved->start, std::nullopt);
  auto done = complete(of, *wanted, std::move(*moved), clock, seconds);
  const bool gives_way = start && (done ? is_worse(done->report)  //
                                        : done.error().code != errc::cancelled);
  if (gives_way) {
    done = compacted{};  // before the next one is made
    done = complete(of, *wanted, {std::move(*start)}, clock, seconds);
  }
  if (done) done->report.seconds = seconds;
  return done;
}

/// The rows that stay as they are, ascending: all visible ones where the budget holds them, else
/// those protected, which the budget must exceed.
inline result<std::vector<index_t>> rows_to_keep(const kv_block& cache, const row_order& order,
                                                 const compact_options& options) {
  const index_t visible = cache.keys.rows() - order.hidden();
  if (options.budget >= visible) return visible_rows_of(cache, order);
  std::vector<index_t> rows = protected_rows(cache, order, options.protect);
  const auto ok =
      check_protected_budget(options.budget, visible, static_cast<index_t>(rows.size()));
  if (!ok) return ok.error();
  return rows;
}

/// `compact` of checked inputs to less than all visible rows, `kept` among them, with the options
/// of `plan`.
inline result<compacted> compact_beside(const kv_block& cache, const query_set& queries,
                                        const row_order& order, std::vector<index_t> kept,
                                        memory_plan& plan, const known_scores* known,
                                        const stop_when& stop, const executor_ref& threads) {
  auto& options = plan.options;
  const open_rows open = open_stretch(options.protect, order, cache.keys.rows());
  compacted exact;
  const auto stored =
      take_exact(cache, std::move(kept), options.storage.rows, options.storage.bias, exact);
  // The place of a row that does not fit its storage is that in the result: known beforehand where
  // the row comes before all that are selected.
  if (!stored && stored.error().actual < count_below(exact.positions, open.first)) {
    return stored.error();
  }
  options.budget -= static_cast<index_t>(exact.positions.size());
  std::optional<block_slice> block(std::in_place, cache, open.first, open.count, exact.positions);
  const bool is_whole = exact.positions.empty() && open.count == cache.keys.rows();
  auto fitted = run_stages({.cache = block->block(),
                            .queries = queries,
                            .options = options,
                            .first_row = open.first,
                            .exact = exact.positions,
                            .may_fit_all = !plan.report.lowers_queries,
                            .known = is_whole ? known : nullptr,
                            .stop = stop,
                            .threads = threads.at_most(plan.report.panels_at_once)});
  block.reset();
  if (fitted) {
    for (index_t& row : fitted->positions) row += open.first;
  }
  const bool sees_none =
      !fitted && fitted.error().code == errc::all_masked && !exact.positions.empty();
  if (!fitted && !sees_none) return fitted;
  if (!stored) {
    error cause = stored.error();
    const index_t row = exact.positions[static_cast<std::size_t>(cause.actual)];
    if (fitted) cause.actual += count_below(fitted->positions, row);
    return cause;
  }
  if (sees_none) {  // queries attend to protected rows alone: no other row is kept
    exact.report.masked_queries = queries.rows();
    return exact;
  }
  if (exact.positions.empty()) return fitted;
  compacted out = merged(exact, *fitted);
  out.report = std::move(fitted->report);
  return out;
}

/// `known`: see `stages::problem`; null where nothing is.
inline result<compacted> compact_checked(const kv_block& cache, const query_set& queries,
                                         const compact_options& options, const stop_when& stop,
                                         const executor_ref& threads,
                                         const known_scores* known = nullptr) {
  stopwatch clock;
  if (const auto ok = check_compaction(cache, queries, options); !ok) return ok.error();
  if (const auto ok = check_stop(stop, "check"); !ok) return ok.error();
  const compaction_sizes sizes = sizes_of(cache, queries, threads);
  auto kept = rows_to_keep(cache, sizes.order, options);
  if (!kept) return kept.error();
  auto plan = memory_planner(sizes, options).run();
  if (!plan) return plan.error();
  const double checking = clock.lap();
  result<compacted> out = compacted{};
  if (options.budget < cache.keys.rows() - sizes.order.hidden()) {
    out =
        compact_beside(cache, queries, sizes.order, std::move(*kept), *plan, known, stop, threads);
    if (!out) return out;
  } else {
    if (kept->empty()) {
      return error{errc::all_masked, "bias", 0, queries.rows(), "every key is hidden"};
    }
    out->report.is_identity = true;
    const auto ok =
        take_exact(cache, std::move(*kept), options.storage.rows, options.storage.bias, *out);
    if (!ok) return ok.error();
  }
  for (const index_t row : out->positions) out->key_positions.push_back(cache.position(row));
  out->report.memory = plan->report;
  out->report.seconds.check = checking;
  out->report.seconds.total = checking + clock.lap();
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
