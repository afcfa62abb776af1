// SPDX-License-Identifier: MIT
/// Runs the kernels that take what is known of a head's queries, and the same in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kvfit/metal/kernels/shared/gather_arguments.h"
#include "kvfit/metal/kernels/shared/importance_arguments.h"
#include "metal/kernels/attention_runs.hpp"

namespace kernel_tests {

/// A_rj of a head in double: exp(s_rj − log mass), n × T; 0 for queries that see nothing.
inline matrix attention_weights(head& on) {
  const query_truth truth = truth_of({&on});
  matrix out(on.rows(), on.spec.keys);
  for (int r = 0; r < out.rows; ++r) {
    for (int j = 0; j < out.cols; ++j) {
      const auto at = static_cast<std::size_t>(r);
      if (truth.max[at] > -infinity) out(r, j) = std::exp(on.logit(r, j) - truth.log_mass[at]);
    }
  }
  return out;
}

struct importance_spec {
  int kind = kernels::importance_rms;
  int pooling = kernels::pooling_none;
  int pooling_width = 7;
  std::vector<std::uint8_t> observed = {};  ///< empty: all queries
  int queries_per_part = 4096;
};

inline int observed_queries(const importance_spec& spec, int queries) {
  if (spec.observed.empty()) return queries;
  int count = 0;
  for (const std::uint8_t is_observed : spec.observed) count += is_observed != 0 ? 1 : 0;
  return count;
}

inline std::vector<float> run_importance(head& on, const std::string& tile_kind,
                                         importance_spec spec, const order& how = {},
                                         counts* cost = nullptr) {
  const query_results known = run_score(on, tile_kind, 4096);
  buffer max = buffer::of(known.max);
  buffer mass = buffer::of(known.mass);
  buffer observed = buffer::of(spec.observed);
  const std::uint32_t query_parts = tiles(on.rows(), spec.queries_per_part);
  buffer parts = buffer::output<float>(static_cast<std::size_t>(on.spec.keys) * query_parts);
  const kernels::importance_arguments rule{
      on.logits, 0, 0, 0, spec.queries_per_part, spec.kind, spec.observed.empty() ? 0 : 1, 0};
  call kernel(on.kernel("importance", tile_kind));
  on.bind(kernel);
  kernel.bytes(kernels::buffer_arguments, rule)
      .memory(kernels::importance_buffer_max, max)
      .memory(kernels::importance_buffer_mass, mass)
      .memory(kernels::importance_buffer_parts, parts);
  if (spec.observed.empty()) {
    kernel.absent(kernels::importance_buffer_observed);
  } else {
    kernel.memory(kernels::importance_buffer_observed, observed);
  }
  const outcome run =
      kernel.groups({tiles(on.spec.keys, kernels::key_tile), query_parts, 1}, {threads, 1, 1}, how);
  checked(run);
  if (cost != nullptr) *cost = run.cost;
  buffer importance = buffer::output<float>(static_cast<std::size_t>(on.spec.keys));
  const kernels::finish_importance_arguments finish{0,
                                                    0,
                                                    on.spec.keys,
                                                    static_cast<std::int32_t>(query_parts),
                                                    observed_queries(spec, on.rows()),
                                                    spec.kind,
                                                    spec.pooling,
                                                    spec.pooling_width};
  call last("finish_importance");
  last.memory(kernels::finish_importance_buffer_parts, parts)
      .memory(kernels::finish_importance_buffer_importance, importance)
      .bytes(kernels::finish_importance_buffer_arguments, finish);
  checked(last.groups({tiles(on.spec.keys, kernels::group_threads), 1, 1}, {threads, 1, 1}, how));
  return copy_of<float>(importance);
}

/// `importance_kind` and `pooling_kind` as score_options.hpp states them.
inline std::vector<double> true_importance(head& on, const importance_spec& spec) {
  const matrix weights = attention_weights(on);
  const auto keys = static_cast<std::size_t>(on.spec.keys);
  std::vector<double> raw(keys);
  for (int j = 0; j < on.spec.keys; ++j) {
    double sum = 0;
    double squares = 0;
    double most = 0;
    for (int r = 0; r < on.rows(); ++r) {
      if (!spec.observed.empty() && spec.observed[static_cast<std::size_t>(r)] == 0) continue;
      sum += weights(r, j);
      squares += weights(r, j) * weights(r, j);
      most = std::max(most, weights(r, j));
    }
    const double count = observed_queries(spec, on.rows());
    raw[static_cast<std::size_t>(j)] = spec.kind == kernels::importance_mean ? sum / count
                                       : spec.kind == kernels::importance_rms
                                           ? std::sqrt(squares / count)
                                           : most;
  }
  if (spec.pooling == kernels::pooling_none) return raw;
  std::vector<double> out(keys);
  const int half = spec.pooling_width / 2;
  for (int j = 0; j < on.spec.keys; ++j) {
    double sum = 0;
    double most = 0;
    for (int k = std::max(0, j - half); k <= std::min(on.spec.keys - 1, j + half); ++k) {
      sum += raw[static_cast<std::size_t>(k)];
      most = std::max(most, raw[static_cast<std::size_t>(k)]);
    }
    out[static_cast<std::size_t>(j)] =
        spec.pooling == kernels::pooling_max ? most : sum / spec.pooling_width;
  }
  return out;
}

/// exp(s − shift) factor of the listed rows, |rows| × n; `copied`: the keys lie one after the other
/// in memory of their own. An empty list: all keys.
inline matrix run_gather(head& on, const std::string& tile_kind, const std::vector<int>& rows,
                         bool copied, const std::vector<float>& shifts,
                         const std::vector<float>& factors, const order& how = {},
                         counts* cost = nullptr) {
  const int n = on.rows();
  const int count = rows.empty() ? on.spec.keys : static_cast<int>(rows.size());
  buffer list = buffer::of(rows);
  buffer shift = buffer::of(shifts);
  buffer factor = buffer::of(factors);
  const std::int64_t stride = n + 4;
  buffer columns = buffer::output<float>(static_cast<std::size_t>(stride * count));
  kernels::gather_arguments rule{on.logits, 0, 0, stride};
  std::optional<buffer> copies;
  call kernel(on.kernel("gather", tile_kind));
  on.bind(kernel);
  if (!rows.empty()) {
    rule.logits.keys = count;
    rule.logits.flags |= kernels::logit_rows;
    kernel.memory(kernels::buffer_rows, list);
  }
  if (copied) {
    rule.logits.flags |= kernels::logit_keys_copied;
    rule.logits.key_offset = 0;
    rule.logits.key_row_stride = on.spec.depth;
    rule.logits.key_col_stride = 1;
    copies.emplace(static_cast<std::size_t>(count * on.spec.depth) * bytes_of(on.spec.key_type));
    for (int k = 0; k < count; ++k) {
      for (int c = 0; c < on.spec.depth; ++c) {
        put(*copies, on.spec.key_type, k * on.spec.depth + c,
            on.keys(rows[static_cast<std::size_t>(k)], c));
      }
    }
    kernel.memory(kernels::buffer_keys, *copies);
  }
  kernel.bytes(kernels::buffer_arguments, rule)
      .memory(kernels::gather_buffer_shifts, shift)
      .memory(kernels::gather_buffer_factors, factor)
      .memory(kernels::gather_buffer_columns, columns);
  const outcome run = kernel.groups(
      {tiles(n, kernels::query_tile), tiles(count, kernels::key_tile), 1}, {threads, 1, 1}, how);
  checked(run);
  if (cost != nullptr) *cost = run.cost;
  matrix out(count, n);
  for (int k = 0; k < count; ++k) {
    for (int r = 0; r < n; ++r) {
      out(k, r) =
          static_cast<double>(columns.as<float>()[static_cast<std::size_t>(k * stride + r)]);
    }
  }
  return out;
}

}  // namespace kernel_tests
