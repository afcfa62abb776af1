// SPDX-License-Identifier: MIT
/// `compact_chunks()`: one prefill of a long text, cut into chunks that are compacted one by one.
#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/cache/chunks.hpp"
#include "kvfit/cache/compact_pieces.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// KV-based chunks: one prefill of the whole text, cut into chunks that are fitted one by one; rows
/// outside every chunk stay as they are. No key is moved.
///
/// plan: of `plan_chunks(chunks, T, heads, budget)`, T the rows of every head that is compacted.
/// queries: one set, which all chunks are fitted for, or one a chunk of the plan. Errors and costs
/// as of `compact_pieces`; `shape_mismatch` besides where plan, queries and cache do not fit.
///
///     auto chunks = split_by_length({prefix, rows - prefix}, 4096);
///     auto plan = plan_chunks(*chunks, rows, heads, budget);
///     auto small = compact_chunks(cache, std::span(&queries, 1), *plan, options, pool);
template <executor E>
[[nodiscard]] result<compacted_text> compact_chunks(const cache_view& cache,
                                                    std::span<const cache_queries> queries,
                                                    const chunk_plan& plan,
                                                    const cache_options& options, E&& how,
                                                    const watch& by = {}) {
  const auto chunks = static_cast<index_t>(plan.chunks.size());
  if (static_cast<index_t>(plan.budgets.size()) != chunks) {
    return error{errc::shape_mismatch, "plan.budgets", static_cast<index_t>(plan.budgets.size()),
                 chunks, "one a chunk"};
  }
  if (queries.size() != 1 && static_cast<index_t>(queries.size()) != chunks) {
    return error{errc::shape_mismatch, "queries", static_cast<index_t>(queries.size()), chunks,
                 "one set, or one a chunk of the plan"};
  }
  std::optional<index_t> rows;
  for (const cache_layer& layer : cache.layers) {
    if (!detail::is_compacted(layer, options.skip)) continue;
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const kv_block& block = layer.heads[h];
      if (const auto ok = detail::check_ascending(block, {0, block.keys.rows()}); !ok) {
        return detail::in_head(ok.error(), {layer.number, static_cast<index_t>(h)});
      }
      const index_t own = block.keys.rows();
      if (own != rows.value_or(own)) {
        return error{errc::shape_mismatch,
                     name(head_id{layer.number, static_cast<index_t>(h)}) + ": keys", own, *rows,
                     "rows must be those of the text in all heads"};
      }
      rows = own;
    }
  }
  if (!rows) {
    return error{errc::empty_input, "layers", 0, error::none, "no layer is to be compacted"};
  }
  if (const auto ok = detail::check_chunks(plan.chunks, *rows); !ok) return ok.error();
  return detail::catch_bad_alloc("compact_chunks", [&]() -> result<compacted_text> {
    constexpr index_t all = (std::numeric_limits<index_t>::max)();
    std::vector<text_piece> pieces;
    index_t end = 0;
    const auto keep_up_to = [&](index_t first) {
      if (first > end) {
        pieces.push_back(
            {.cache = cache, .where = {end, first - end}, .place = end, .budget = all});
      }
    };
    for (std::size_t c = 0; c < plan.chunks.size(); ++c) {
      const chunk& where = plan.chunks[c];
      keep_up_to(where.first);
      pieces.push_back({.cache = cache,
                        .where = where,
                        .place = where.first,
                        .budget = plan.budgets[c],
                        .queries = queries[queries.size() == 1 ? 0 : c]});
      end = where.first + where.rows;
    }
    keep_up_to(*rows);
    return compact_pieces(std::span<const text_piece>(pieces), options, how, by);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
