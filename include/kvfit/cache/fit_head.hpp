// SPDX-License-Identifier: MIT
/// One head of a cache through `compact()`, or what is kept of it where that fails.
#pragma once

#include <utility>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/compacted_head.hpp"
#include "kvfit/cache/head_options.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether a method failed on numbers it met on the way, rather than on input that is wrong.
inline bool is_numerical(const error& cause) {
  return cause.code == errc::all_masked || cause.code == errc::storage_overflow ||
         (cause.code == errc::non_finite && cause.argument == "logits");
}

/// The last visible rows by position, as they are: what is left to keep where no query tells rows
/// apart. (Protected rows that queries see are kept by `compact` itself.)
inline result<compacted> keep_last(const kv_block& cache, const compact_options& options) {
  compacted out;
  const auto ok =
      take_exact(cache, protected_rows(cache, order_of(cache), {.last = options.budget}),
                 options.storage.rows, options.storage.bias, out);
  if (!ok) return ok.error();
  for (const index_t row : out.positions) out.key_positions.push_back(cache.position(row));
  return out;
}

/// Rows of the cache with their own values and biases: the most attended ones, or the last.
inline result<compacted> keep_copies(const head_task& task, const compact_options& options,
                                     const stop_when& stop) {
  auto kept = compact(task.block, query_set(task.queries), options, stop);
  if (kept || kept.error().code == errc::storage_overflow || !is_numerical(kept.error())) {
    return kept;
  }
  return keep_last(task.block, options);
}

/// The head's rows by `options`, whose budget may be 0. `known`: see `stages::problem`, or null.
inline result<compacted_head> fit_head(const head_task& task, const compact_options& options,
                                       head_fallback fallback, const stop_when& stop,
                                       const known_scores* known = nullptr) {
  compacted_head out;
  out.report.id = task.id;
  out.report.rows_before = task.block.keys.rows();
  if (options.budget == 0) {
    out.rows.keys.resize(0, task.block.keys.cols());
    out.rows.values.resize(0, task.block.values.cols());
    out.report.outcome = head_outcome::empty;
    return out;
  }
  auto fitted = compact_known(task.block, query_set(task.queries), options, known, stop);
  if (!fitted && fallback == head_fallback::copies && is_numerical(fitted.error())) {
    out.report.outcome = head_outcome::fallback;
    out.report.cause = fitted.error();
    fitted = keep_copies(task, copying(options), stop);
  }
  if (!fitted) return in_head(fitted.error(), task.id);
  out.rows = std::move(*fitted);
  out.report.rows = static_cast<index_t>(out.rows.positions.size());
  if (out.rows.report.is_identity) out.report.outcome = head_outcome::identity;
  out.report.report = out.rows.report;
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
