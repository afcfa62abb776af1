// SPDX-License-Identifier: MIT
/// Logits of all queries against some rows of a cache, as one matrix.
#pragma once

#include <span>
#include <vector>

#include "kvfit/attention/logits.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Writes s_ij of every query i against the rows numbered `rows`, bias, mask and positions of those
/// rows included: n × |rows|, natural log. `keys` are the rows' keys (|rows| × d_k): the cache's
/// own, or what is stored in their place. Cost n · |rows| · d_k multiply-adds; allocates a panel of
/// at most 16 MB or 8 rows.
inline void row_logits_into(const kv_block& cache, const query_set& queries, const logit_rule& rule,
                            std::span<const index> rows, const row_view& keys, matrix& logits) {
  std::vector<float> bias;
  std::vector<index> positions;
  for (const index row : rows) {
    if (!cache.bias.empty()) bias.push_back(cache.bias[static_cast<std::size_t>(row)]);
    positions.push_back(cache.position(row));
  }
  const kv_block subset{
      .keys = keys, .values = {}, .bias = bias, .positions = positions, .masks = cache.masks};
  logit_source source(subset, queries, rule, rows);
  logits.resize(queries.rows(), static_cast<index>(rows.size()));
  matrix part;
  for (const query_panel& panel : cut_panels(queries, panel_rows(logits.cols()))) {
    part.resize(logits.cols(), panel.count);
    source.fill(panel, part.data(), panel.count);
    logits.middleRows(panel.offset, panel.count) = part.transpose();
  }
}

/// Bytes that `row_logits_into` holds at most for `rows` rows, the n × |rows| logits included.
inline double row_logits_bytes(const head_sizes& sizes, index rows) noexcept {
  return float_bytes(sizes.queries, rows) + grown_bytes(float_bytes(3, rows)) +
         logit_source_bytes(sizes, rows) + float_bytes(largest_panel(sizes, rows), rows);
}

/// The same for the cache's own keys, as a new matrix.
inline matrix row_logits(const kv_block& cache, const query_set& queries, const logit_rule& rule,
                         std::span<const index> rows) {
  const matrix keys = gather_rows(cache.keys, rows);
  matrix logits;
  row_logits_into(cache, queries, rule, rows, keys, logits);
  return logits;
}

}  // namespace kvfit::inline KVFIT_ISA
