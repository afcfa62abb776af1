// SPDX-License-Identifier: MIT
/// `compact()` itself: check, keep protected rows, fit the others. Include kvfit/compact.hpp.
#pragma once

#include "kvfit/compact/check.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/compact/pipeline.hpp"
#include "kvfit/core/guarded.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// Whether a row among the first `head` or last `tail` is visible at all.
inline bool protects_visible(const kv_block& cache, index_t head, index_t tail) {
  return count_visible(cache, 0, head) + count_visible(cache, cache.keys.rows() - tail, tail) > 0;
}

template <class Selection, class Bias, class Values>
result<compacted> compact_checked(const kv_block& cache, const query_set& queries,
                                  const compaction<Selection, Bias, Values>& options,
                                  const stop_when& stop, const loop& threads) {
  stopwatch clock;
  if (const auto ok = check_compaction(cache, queries, options); !ok) return ok.error();
  if (const auto ok = check_stop(stop, "check"); !ok) return ok.error();
  const compaction_sizes sizes = sizes_of(cache, queries, threads);
  auto plan = memory_planner<Selection, Bias, Values>(sizes, options).run();
  if (!plan) return plan.error();
  const double checking = clock.lap();
  const index_t rows = cache.keys.rows();
  compacted out;
  out.keys.resize(0, cache.keys.cols());
  out.values.resize(0, cache.values.cols());
  const bool is_identity = options.budget >= count_visible(cache, 0, rows);
  const index_t head = is_identity ? rows : options.protect_first;
  if (const auto ok = append_exact(cache, 0, head, options.storage, options.bias_storage, out);
      !ok) {
    return ok.error();
  }
  if (is_identity) {
    if (out.positions.empty()) {
      return error{errc::all_masked, "bias", 0, queries.rows(), "every key is hidden"};
    }
    out.report.is_identity = true;
  } else {
    const index_t tail = options.protect_last;
    const block_slice open(cache, head, rows - head - tail);
    auto& inner = plan->options;
    inner.budget = options.budget - head - tail;
    const auto below_kept = [&out](error cause) {  // a place in the result, not in a part of it
      const auto kept = static_cast<index_t>(out.positions.size());
      if (cause.code == errc::storage_overflow) cause.actual += kept;
      return cause;
    };
    if (count_visible(cache, head, rows - head - tail) > 0) {
      auto fitted = pipeline<Selection, Bias, Values>(open.block(), queries, inner, head,
                                                      plan->report, stop, threads)
                        .run();
      if (fitted) {
        append(out, *fitted, head);
        out.report = std::move(fitted->report);
      } else if (fitted.error().code == errc::all_masked && protects_visible(cache, head, tail)) {
        // No query looks between the protected rows: nothing there is worth a slot.
        out.report.masked_queries = queries.rows();
      } else {
        return below_kept(fitted.error());
      }
    }
    if (const auto ok =
            append_exact(cache, rows - tail, tail, options.storage, options.bias_storage, out);
        !ok) {
      return below_kept(ok.error());
    }
  }
  for (const index_t row : out.positions) out.key_positions.push_back(cache.position(row));
  out.report.memory = plan->report;
  out.report.seconds.check = checking;
  out.report.seconds.total = checking + clock.lap();
  return out;
}

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

template <selection_policy Selection, bias_policy Bias, values_policy Values>
result<compacted> compact(const kv_block& cache, const query_set& queries,
                          const compaction<Selection, Bias, Values>& options, const stop_when& stop,
                          const loop& threads) {
  return detail::guard_memory(
      "compact", [&] { return detail::compact_checked(cache, queries, options, stop, threads); });
}

}  // namespace kvfit::inline KVFIT_ISA
