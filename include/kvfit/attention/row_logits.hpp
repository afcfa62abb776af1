// SPDX-License-Identifier: MIT
/// Logits of all queries against some rows of a cache, as one matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/attention/logits.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/transpose.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Biases and positions of some rows of a cache.
struct row_subset {
  std::vector<float> bias;
  std::vector<index_t> positions;

  void declare(workspace& space, index_t rows) {
    space.reserve(bias, rows);
    space.reserve(positions, rows);
  }

  /// A cache of these rows with `keys`; both must outlive it.
  [[nodiscard]] kv_block take(const kv_block& cache, std::span<const index_t> rows,
                              const row_view& keys) {
    allocate_buffers(*this, static_cast<index_t>(rows.size()));
    for (const index_t row : rows) {
      if (!cache.bias.empty()) bias.push_back(cache.bias[static_cast<std::size_t>(row)]);
      positions.push_back(cache.position(row));
    }
    return {.keys = keys, .values = {}, .bias = bias, .positions = positions, .masks = cache.masks};
  }
};

/// What `row_logits_into` works in, beside its sources of logits.
struct row_logit_buffers {
  matrix parts;  ///< the panels at work, one below the other
  std::vector<float> ones;

  void declare(workspace& space, index_t rows, index_t panel, index_t at_once) {
    space.add(parts, many_times(at_once, rows), panel);
    space.add(ones, panel, 1, 1.0F);
  }
};

/// Writes s_ij of every query i against the rows numbered `rows`, bias, mask and positions of those
/// rows included: n × |rows|, natural log. `keys` are the rows' keys (|rows| × d_k): the cache's
/// own, or what is stored in their place. `threads` take `threads.threads()` panels of queries at
/// the same time: same bytes. Cost n · |rows| · d_k multiply-adds; allocates for each a panel of at
/// most 96 queries (`panel_rows`), and a tile of keys.
inline void row_logits_into(const kv_block& cache, const query_set& queries, const logit_rule& rule,
                            std::span<const index_t> rows, const row_view& keys, matrix& logits,
                            const executor_ref& executor = {}) {
  const auto count = static_cast<index_t>(rows.size());
  logits.resize(queries.rows(), count);
  const std::vector<query_panel> panels = cut_panels(queries, panel_rows(count));
  const executor_ref threads = executor.for_work(2.0 * static_cast<double>(queries.rows()) *
                                                 static_cast<double>(keys.cols() * count));
  const auto all = static_cast<index_t>(panels.size());
  const index_t at_once = std::clamp<index_t>(threads.threads(), 1, std::max<index_t>(all, 1));
  index_t longest = 0;
  for (const query_panel& panel : panels) longest = (std::max)(longest, panel.count);
  row_logit_buffers own;
  allocate_buffers(own, count, longest, at_once);
  row_subset some;
  const kv_block subset = some.take(cache, rows, keys);
  std::vector<logit_source> sources(static_cast<std::size_t>(at_once),
                                    logit_source(subset, queries, rule, rows));
  for (logit_source& source : sources) source.reserve(longest);
  // Panel by panel, each with a source of its own.
  threads.run(at_once, [&](index_t k) noexcept {
    float* part = own.parts.data() + k * count * longest;
    for (index_t p = k; p < all; p += at_once) {
      const query_panel& panel = panels[static_cast<std::size_t>(p)];
      sources[static_cast<std::size_t>(k)].fill(panel, part, panel.count);
      simd::transpose_scaled(part, panel.count, own.ones.data(), panel.count, count,
                             logits.data() + panel.offset * count, count);
    }
  });
}

/// What `row_logits_into` holds for `rows` rows, the n × |rows| logits included; `at_once`: panels
/// that are made at the same time.
inline void declare_row_logits(workspace& space, const head_sizes& sizes, index_t rows,
                               index_t at_once = 1) {
  constexpr double bookkeeping = sizeof(logit_source) + 128.0;  // with the blocks it is made of
  const index_t panel = panel_rows(rows, sizes.panel);
  const index_t longest = largest_panel(sizes, rows);
  const index_t sources = (std::min)(at_once, sizes.queries / panel + sizes.blocks);
  space.count(float_bytes(sizes.queries, rows));
  panel_list().declare(space, sizes.queries, sizes.blocks, panel);
  row_subset().declare(space, rows);
  row_logit_buffers().declare(space, rows, longest, sources);
  workspace source;
  declare_logits(source, {.keys = rows, .depth = sizes.depth, .panel = longest});
  space.count(static_cast<double>(sources) * (source.most() + bookkeeping));
}

/// The same of the cache's own keys, a key a row: |rows| × n, row k at `logits` + k · n. One panel
/// after the other; allocates a tile of keys and a panel of queries.
inline void logits_by_key(const kv_block& cache, const query_set& queries, const logit_rule& rule,
                          std::span<const index_t> rows, float* logits) {
  const matrix keys = gather_rows(cache.keys, rows);
  row_subset some;
  const kv_block subset = some.take(cache, rows, keys);
  logit_source source(subset, queries, rule, rows);
  const auto count = static_cast<index_t>(rows.size());
  for (const query_panel& panel : cut_panels(queries, panel_rows(count))) {
    source.fill(panel, logits + panel.offset, queries.rows());
  }
}

/// What `logits_by_key` holds for `rows` rows, the logits not included.
inline void declare_logits_by_key(workspace& space, const head_sizes& sizes, index_t rows) {
  const workspace::phase making(space);
  space.count(float_bytes(rows, sizes.depth));
  row_subset().declare(space, rows);
  panel_list().declare(space, sizes.queries, sizes.blocks, panel_rows(rows, sizes.panel));
  declare_logits(space, {.keys = rows, .depth = sizes.depth, .panel = largest_panel(sizes, rows)});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
