// SPDX-License-Identifier: MIT
/// The entry points of the compiled library (target kvfit::compiled), behind `compact()` and its
/// like: code for several instruction sets, the best of which is taken when it runs.
///
/// What crosses them is plain data: an Eigen matrix is freed otherwise by code with wider registers
/// than by code with narrow ones, so none is handed over.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/split_sizes.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/compiled_entry_points.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit::compiled {

/// A `compacted` without Eigen's memory.
struct plain_rows {
  std::vector<index_t> positions;
  std::vector<index_t> key_positions;
  std::vector<float> keys;    ///< t × d_k, row-major
  std::vector<float> bias;    ///< t
  std::vector<float> values;  ///< t × d_v, row-major
  index_t key_columns = 0;
  index_t value_columns = 0;
  compact_report report;
};

/// One instruction set's `compact()`, `compact_progressive()` and `planned_memory()`.
struct compact_entry_points {
  result<plain_rows> (*call)(const kv_block& cache, const query_set& queries,
                             const compact_options& options, const stop_when& stop,
                             const executor_ref& threads);
  result<std::vector<plain_rows>> (*progressive)(const kv_block& cache, const query_set& queries,
                                                 const compact_options& options,
                                                 std::span<const index_t> budgets,
                                                 const stop_when& stop);
  result<memory_report> (*planned_memory)(const compaction_sizes& sizes,
                                          const compact_options& options);
};

}  // namespace kvfit::compiled

namespace kvfit::compiled {
inline namespace KVFIT_ISA {

/// Takes the rows, so that they are gone when their copy has been made.
inline plain_rows to_plain(compacted rows) {
  const auto copied = [](const auto& of) {
    return std::vector<float>(of.data(), of.data() + of.size());
  };
  return {.positions = std::move(rows.positions),
          .key_positions = std::move(rows.key_positions),
          .keys = copied(rows.keys),
          .bias = copied(rows.bias),
          .values = copied(rows.values),
          .key_columns = rows.keys.cols(),
          .value_columns = rows.values.cols(),
          .report = std::move(rows.report)};
}

/// The same the other way.
inline compacted from_plain(plain_rows rows) {
  const auto count = static_cast<index_t>(rows.positions.size());
  return {.positions = std::move(rows.positions),
          .key_positions = std::move(rows.key_positions),
          .keys = Eigen::Map<const matrix>(rows.keys.data(), count, rows.key_columns),
          .bias = Eigen::Map<const vector>(rows.bias.data(), count),
          .values = Eigen::Map<const matrix>(rows.values.data(), count, rows.value_columns),
          .report = std::move(rows.report)};
}

/// `kvfit::compact()` through the best of the instruction sets compiled.
inline result<compacted> compact(const kv_block& cache, const query_set& queries,
                                 const compact_options& options, const stop_when& stop,
                                 const executor_ref& threads) {
  return detail::catch_bad_alloc("compact", [&]() -> result<compacted> {
    auto fitted = available().front().compact->call(cache, queries, options, stop, threads);
    if (!fitted) return fitted.error();
    return from_plain(std::move(*fitted));
  });
}

/// `kvfit::compact_progressive()` through the same.
inline result<std::vector<compacted>> compact_progressive(const kv_block& cache,
                                                          const query_set& queries,
                                                          const compact_options& options,
                                                          std::span<const index_t> budgets,
                                                          const stop_when& stop) {
  return detail::catch_bad_alloc("compact_progressive", [&]() -> result<std::vector<compacted>> {
    auto fitted = available().front().compact->progressive(cache, queries, options, budgets, stop);
    if (!fitted) return fitted.error();
    std::vector<compacted> all;
    all.reserve(fitted->size());
    for (plain_rows& rows : *fitted) all.push_back(from_plain(std::move(rows)));
    return all;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::compiled
