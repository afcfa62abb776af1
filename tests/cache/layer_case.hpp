// SPDX-License-Identifier: MIT
/// A layer of made-up heads under GQA, compacted head by head.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

/// Heads of 64 keys, d_k = 16, d_v = 8; the 96 queries of a head are those of two query heads.
struct layer_case {
  explicit layer_case(std::size_t count, std::uint64_t seed = 40) {
    for (std::size_t h = 0; h < count; ++h) heads.push_back(make_head(seed + h));
    for (const head& one : heads) {
      layer.heads.push_back(one.cache());
      queries.emplace_back(kvfit::row_view(one.queries).middle_rows(0, 48));
      queries.emplace_back(kvfit::row_view(one.queries).middle_rows(48, 48));
    }
    layer.number = 3;
  }
  layer_case(const layer_case&) = delete;  // views point into it
  layer_case& operator=(const layer_case&) = delete;
  ~layer_case() = default;

  [[nodiscard]] std::span<const kvfit::query_block> group(std::size_t h) const {
    return std::span(queries).subspan(2 * h, 2);
  }

  std::vector<head> heads;
  kvfit::cache_layer layer;
  std::vector<kvfit::query_block> queries;
};

/// The head compacted alone to these very rows.
inline kvfit::compacted compact_to(const layer_case& made, std::size_t h,
                                   const std::vector<index_t>& rows,
                                   kvfit::compact_options options) {
  options.budget = static_cast<index_t>(rows.size());
  options.selection = kvfit::selection::given{rows};
  auto fitted = kvfit::compact(made.layer.heads[h], made.group(h), options);
  REQUIRE(fitted);
  return std::move(*fitted);
}

/// Results of heads one below the other; nothing: a head without rows.
inline kvfit::compacted_layer stacked(const layer_case& made,
                                      const std::vector<std::optional<kvfit::compacted>>& parts) {
  kvfit::compacted_layer layer;
  layer.number = made.layer.number;
  layer.offsets = {0};
  layer.keys.resize(0, made.heads[0].keys.cols());
  layer.values.resize(0, made.heads[0].values.cols());
  for (std::size_t h = 0; h < parts.size(); ++h) {
    kvfit::head_report report{.id = {layer.number, static_cast<index_t>(h)},
                              .rows_before = made.heads[h].keys.rows(),
                              .outcome = kvfit::head_outcome::empty,
                              .cause = {},
                              .report = {}};
    if (parts[h]) {
      const kvfit::compacted& one = *parts[h];
      const index_t rows = one.keys.rows();
      layer.keys.conservativeResize(layer.keys.rows() + rows, one.keys.cols());
      layer.keys.bottomRows(rows) = one.keys;
      layer.values.conservativeResize(layer.values.rows() + rows, one.values.cols());
      layer.values.bottomRows(rows) = one.values;
      layer.bias.conservativeResize(layer.bias.size() + rows);
      layer.bias.tail(rows) = one.bias;
      layer.positions.insert(layer.positions.end(), one.positions.begin(), one.positions.end());
      layer.key_positions.insert(layer.key_positions.end(), one.key_positions.begin(),
                                 one.key_positions.end());
      report.rows = rows;
      report.outcome = kvfit::head_outcome::fitted;
    }
    layer.offsets.push_back(layer.keys.rows());
    layer.heads.push_back(report);
  }
  return layer;
}

/// Every head by the default method; a budget of 0 leaves it empty.
inline kvfit::compacted_layer ragged(const layer_case& made, const std::vector<index_t>& budgets) {
  std::vector<std::optional<kvfit::compacted>> parts(budgets.size());
  for (std::size_t h = 0; h < budgets.size(); ++h) {
    if (budgets[h] == 0) continue;
    auto fitted = kvfit::compact(made.layer.heads[h], made.group(h), {.budget = budgets[h]});
    REQUIRE(fitted);
    parts[h] = std::move(*fitted);
  }
  return stacked(made, parts);
}

/// Mean ‖o − ô‖ / ‖o‖ over some queries.
inline double error_of(const layer_case& made, std::size_t h, const kvfit::kv_block& compact,
                       const kvfit::matrix& queries) {
  const auto full = kvfit::attend(queries, {made.layer.heads[h]});
  const auto small = kvfit::attend(queries, {compact});
  REQUIRE(full);
  REQUIRE(small);
  const kvfit::vector off = (full->output - small->output).rowwise().norm();
  return static_cast<double>((off.array() / full->output.rowwise().norm().array()).mean());
}

}  // namespace kvfit_test
