// SPDX-License-Identifier: MIT
/// On-policy compaction: each layer is compacted with the queries that it gets from compacted
/// layers below.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/keep_rows.hpp"
#include "kvfit/queries/reader.hpp"
#include "kvfit/queries/reference_queries.hpp"

namespace kvfit {

/// Compacts one layer with the queries given, all heads of it: `compact_layer(layer, queries)`.
template <class F>
concept layer_compaction = requires(F& compact, index_t layer, const layer_queries& queries) {
  { compact(layer, queries) } -> std::same_as<result<compacted_layer>>;
};

/// What `compact_by_layers` returns.
struct layerwise_compaction {
  compacted_cache cache;
  reference_queries queries;  ///< those that each layer was compacted with
  index_t layer_passes = 0;   ///< texts taken through a layer, added up
};

/// The rows that are replaced: all that stand in [first, end).
struct token_range {
  index_t first = 0;
  index_t end = 0;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// A text on its way up: hidden states that have left the layers below, and what the layer at work
/// has made of them, chunk by chunk.
struct carried_reading {
  const query_reading* reading = nullptr;
  matrix hidden;
  std::vector<layer_rows> chunks = {};
};

template <engine E, executor X>
class layerwise {
 public:
  layerwise(const reader<E, X>& read, const cache_prefix& full, reference_queries queries,
            const token_range& range)
      : read_(read), prefix_(full), range_(range) {
    out_.queries = std::move(queries);
  }

  template <class Compact>
  result<layerwise_compaction> run(Compact& compact) {
    if (const auto ok = check_prefix(prefix_, read_.shapes()); !ok) return ok.error();
    if (const auto ok = check_queries_of_engine(); !ok) return ok.error();
    if (const auto ok = embed_readings(); !ok) return ok.error();
    out_.cache.layers.reserve(out_.queries.layers.size());  // the prefix refers to them
    const index_t last = out_.queries.layers.back().number;
    const index_t passes = (last + 1) * static_cast<index_t>(carried_.size());
    std::size_t next = 0;
    for (index_t l = 0; l <= last; ++l) {
      const bool is_compacted = out_.queries.layers[next].number == l;
      for (carried_reading& text : carried_) {
        if (const auto ok = read_.check_cancelled(out_.layer_passes, passes); !ok) {
          return ok.error();
        }
        if (const auto ok = project(text, l); !ok) return ok.error();
        if (is_compacted) keep_queries(text, out_.queries.layers[next]);
        ++out_.layer_passes;
      }
      if (is_compacted) {
        if (const auto ok = compact_one(compact, l, next); !ok) return ok.error();
        ++next;
      } else {
        out_.cache.skipped.push_back(l);
      }
      if (l == last) break;  // nothing above asks for its output
      for (carried_reading& text : carried_) {
        if (const auto ok = finish(text, l); !ok) return ok.error();
      }
    }
    for (index_t l = last + 1; l < read_.layers(); ++l) out_.cache.skipped.push_back(l);
    return std::move(out_);
  }

 private:
  /// Queries of exactly the layers that are compacted, as `gather_queries` makes them.
  result<void> check_queries_of_engine() const {
    const std::vector<index_t> wanted = global_layers(read_.shapes());
    const auto& given = out_.queries.layers;
    if (wanted.empty() || given.size() != wanted.size()) {
      return error{errc::shape_mismatch, "queries", static_cast<index_t>(given.size()),
                   static_cast<index_t>(wanted.size()), "layers"};
    }
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const layer_shape& shape = read_.shape(wanted[i]);
      const std::string here = "layer " + std::to_string(wanted[i]);
      if (given[i].number != wanted[i]) {
        return error{errc::shape_mismatch, "queries", given[i].number, wanted[i], "layer numbers"};
      }
      if (static_cast<index_t>(given[i].heads.size()) != shape.query_heads) {
        return error{errc::shape_mismatch, "queries", static_cast<index_t>(given[i].heads.size()),
                     shape.query_heads, here + ": query heads"};
      }
      for (const matrix& head : given[i].heads) {
        if (head.rows() != out_.queries.rows()) {
          return error{errc::shape_mismatch, "queries", head.rows(), out_.queries.rows(),
                       here + ": rows"};
        }
      }
    }
    return {};
  }

  result<void> embed_readings() {
    for (const query_reading& reading : out_.queries.readings) {
      if (!reading.is_after_cache || reading.rows.empty()) continue;
      if (reading.position != prefix_.positions) {
        return error{errc::invalid_position, "readings", reading.position, prefix_.positions,
                     "must equal it: a text that was read over the cache follows it"};
      }
      const auto count = static_cast<index_t>(reading.rows.size());
      const auto tokens = static_cast<index_t>(reading.tokens.size());
      if (!std::is_sorted(reading.rows.begin(), reading.rows.end()) || reading.rows.front() < 0 ||
          reading.rows.back() >= tokens || reading.first_row < 0 ||
          reading.first_row + count > out_.queries.rows()) {
        return error{errc::invalid_position, "readings", reading.rows.back(), tokens,
                     "rows that the text or the set does not have"};
      }
      auto hidden = read_.embed(reading.tokens, reading.position);
      if (!hidden) return hidden.error();
      carried_.push_back({&reading, std::move(*hidden)});
    }
    return {};
  }

  result<void> project(carried_reading& text, index_t layer) {
    const index_t tokens = text.hidden.rows();
    text.chunks.clear();
    for (index_t from = 0; from < tokens; from += read_.options().chunk) {
      const index_t count = (std::min)(read_.options().chunk, tokens - from);
      const matrix part = text.hidden.middleRows(from, count);
      auto rows = read_.project(layer, part, text.reading->position + from);
      if (!rows) return rows.error();
      text.chunks.push_back(std::move(*rows));
    }
    return {};
  }

  static void keep_queries(const carried_reading& text, reference_queries::layer& into) {
    index_t first = 0;
    for (const layer_rows& rows : text.chunks) {
      keep_rows(*text.reading, first, rows, into);
      first += rows.queries.front().rows();
    }
  }

  template <class Compact>
  result<void> compact_one(Compact& compact, index_t layer, std::size_t which) {
    const layer_queries given = out_.queries.view(which);
    result<compacted_layer> fitted = compact(layer, given);
    if (!fitted) return fitted.error();
    if (fitted->number != layer) {
      return error{errc::invalid_option, "layer.number", fitted->number, layer,
                   "the layer that was compacted is another"};
    }
    compacted_cache& cache = out_.cache;
    cache.layers.push_back(std::move(*fitted));
    const compacted_layer& kept = cache.layers.back();
    cache.rows += kept.offsets.empty() ? 0 : kept.offsets.back();
    for (const head_report& head : kept.heads) {
      cache.rows_before += head.rows_before;
      if (head.outcome == head_outcome::fallback) ++cache.fallbacks;
    }
    return replace_rows(prefix_, kept, range_.first, range_.end);
  }

  result<void> finish(carried_reading& text, index_t layer) {
    live_cache live(read_.shapes(), text.reading->position);
    index_t from = 0;
    for (const layer_rows& rows : text.chunks) {
      const index_t count = rows.queries.front().rows();
      matrix part = text.hidden.middleRows(from, count);
      live.append(layer, rows);
      const auto ok = read_.finish(layer, prefix_, live, rows, text.reading->position + from, part);
      if (!ok) return ok;
      text.hidden.middleRows(from, count) = part;
      from += count;
    }
    text.chunks.clear();
    return {};
  }

  const reader<E, X>& read_;
  cache_prefix prefix_;
  token_range range_;
  std::vector<carried_reading> carried_;
  layerwise_compaction out_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Compacts a cache layer by layer, from below. Layer l's queries are those that its texts ask when
/// the layers below are already compact (on-policy, arXiv:2602.16284): hidden states of every text
/// are carried from layer to layer, so that L layers cost L passes a text, where reading each text
/// anew for every layer costs L (L + 1) / 2.
///
/// full: the cache as it is; in each compacted layer the rows that stand in `range` are replaced.
/// queries: from `gather_queries` over that cache: their readings are read again, row numbers are
/// kept, and rows of other sources (context, keys, random vectors) stay what they are. The first
/// global layer gets the same queries as off-policy. compact_layer: for instance
///
///     auto small = kvfit::compact_by_layers(
///         *read, kvfit::prefix_of(text->cache), std::move(*queries), {0, length},
///         [&](kvfit::index_t layer, const kvfit::layer_queries& given) {
///           return my_compaction(text->cache.view().layers[layer], given);
///         });
///
/// Layers that are not global are left as they are, and named in `cache.skipped`. Errors: those of
/// `check_prefix`, `reader::run`, `replace_rows` and of `compact_layer`; `shape_mismatch` and
/// `invalid_position` for queries of another engine or cache; `cancelled` (layer passes done, of
/// how many). Memory: hidden states of all texts, and the rows of all texts in one layer.
template <engine E, executor X, layer_compaction Compact>
[[nodiscard]] result<layerwise_compaction> compact_by_layers(const reader<E, X>& read,
                                                             const cache_prefix& full,
                                                             reference_queries queries,
                                                             const token_range& range,
                                                             Compact&& compact_layer) {
  return detail::catch_bad_alloc("compact_by_layers", [&] {
    return detail::layerwise<E, X>(read, full, std::move(queries), range).run(compact_layer);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
