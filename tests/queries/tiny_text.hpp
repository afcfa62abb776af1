// SPDX-License-Identifier: MIT
/// A tiny engine that has read a text, and ways to hold what it made against the oracle.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/bias/nnls.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/queries/prefill.hpp"
#include "kvfit/queries/reader.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/values/least_squares.hpp"
#include "support/catch.hpp"
#include "support/tiny_engine.hpp"

namespace kvfit_test {

using tiny_reader = kvfit::reader<tiny_engine, const kvfit::serial>;

/// By reference to an engine; not to be moved, for the prefix refers to its cache.
struct tiny_text {
  tiny_text(const tiny_engine& model, index_t length, const kvfit::read_options& options = {})
      : tokens(model.text(length, 77)), read(*kvfit::make_reader(model, options)) {
    auto made = kvfit::prefill(read, tokens);
    REQUIRE(made);
    full = std::move(*made);
    prefix = kvfit::prefix_of(full.cache);
  }
  tiny_text(const tiny_text&) = delete;
  tiny_text& operator=(const tiny_text&) = delete;
  ~tiny_text() = default;

  std::vector<kvfit::token> tokens;
  tiny_reader read;
  kvfit::prefilled full;
  kvfit::cache_prefix prefix;
};

/// Compacts the heads of a layer of `cache` to `budget` rows each, with plain policies.
inline kvfit::result<kvfit::compacted_layer> compact_heads(const kvfit::cache_layer& layer,
                                                           const kvfit::layer_queries& queries,
                                                           index_t budget) {
  const kvfit::compact_options options{.budget = budget, .queries = {.held_out = 0}};
  kvfit::compacted_layer out;
  out.number = layer.number;
  out.offsets = {0};
  const std::size_t group = queries.heads.size() / layer.heads.size();
  const index_t width = layer.heads.front().keys.cols();
  const index_t values = layer.heads.front().values.cols();
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const auto blocks = std::span(queries.heads).subspan(h * group, group);
    auto fitted = kvfit::compact(layer.heads[h], blocks, options);
    if (!fitted) return fitted.error();
    const index_t before = out.offsets.back();
    const index_t rows = fitted->keys.rows();
    out.offsets.push_back(before + rows);
    out.positions.insert(out.positions.end(), fitted->positions.begin(), fitted->positions.end());
    out.key_positions.insert(out.key_positions.end(), fitted->key_positions.begin(),
                             fitted->key_positions.end());
    out.keys.conservativeResize(before + rows, width);
    out.keys.bottomRows(rows) = fitted->keys;
    out.values.conservativeResize(before + rows, values);
    out.values.bottomRows(rows) = fitted->values;
    out.bias.conservativeResize(before + rows);
    out.bias.tail(rows) = fitted->bias;
    kvfit::head_report report;
    report.id = {layer.number, static_cast<index_t>(h)};
    report.rows_before = layer.heads[h].keys.rows();
    report.rows = rows;
    out.heads.push_back(report);
  }
  return out;
}

/// The rows of a compacted layer as the oracle takes them.
inline std::vector<std::vector<seen_row>> oracle_rows(const kvfit::compacted_layer& layer) {
  std::vector<std::vector<seen_row>> heads;
  for (std::size_t h = 0; h + 1 < layer.offsets.size(); ++h) {
    std::vector<seen_row> rows;
    for (index_t j = layer.offsets[h]; j < layer.offsets[h + 1]; ++j) {
      const auto key = layer.keys.row(j);
      const auto value = layer.values.row(j);
      rows.push_back({numbers(key.data(), key.data() + key.size()),
                      numbers(value.data(), value.data() + value.size()),
                      static_cast<double>(layer.bias[j])});
    }
    heads.push_back(std::move(rows));
  }
  return heads;
}

template <class T>
std::vector<T> joined(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

}  // namespace kvfit_test
