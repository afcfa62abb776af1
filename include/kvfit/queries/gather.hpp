// SPDX-License-Identifier: MIT
/// `gather_queries()`: reference queries from an engine, a mixture of sources cut to a budget.
#pragma once

#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/gathering.hpp"
#include "kvfit/queries/reader.hpp"
#include "kvfit/queries/reference_queries.hpp"
#include "kvfit/queries/sources.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Reference queries of a cache, source by source (arXiv:2602.16284, reference queries): texts are
/// made (self-study answers are generated), rows are allotted, then each text is read once over the
/// cache and only the rows kept are copied, so that memory is known before.
///
/// context: the tokens that the cache was made of, which `context` and `repeat` read; others don't
/// look at it. cache: full, or compact where an iteration asks what the compact model asks.
/// Queries are those of global layers, after the engine's rotation, never rescaled. All layers and
/// heads have the same tokens.
///
///     const kvfit::query_mixture mixture = {{kvfit::sources::repeat{}, 0.75},
///                                           {kvfit::sources::texts{questions}, 0.25}};
///     auto queries = kvfit::gather_queries(*read, tokens, kvfit::prefix_of(text->cache), mixture,
///                                          {.budget = 4096});
///     auto small = kvfit::compact_cache(text->cache.view(), queries->view(), options, how);
///
/// Errors, before any text is read: those of `check_fractions`, `rows_asked`, `check_prefix` and
/// `reader::check_tokens`; `budget_out_of_range` for a budget below G; `memory_cap_exceeded` where
/// not one row of each source fits; source settings out of range. On the way: the engine's and
/// `reader::run`'s, `cancelled` among them. Same input, same bytes, whoever runs the heads.
///
/// Cost: a pass through all layers for every token of every text, and for every token generated.
/// Memory: the queries kept, and the live rows of one text.
template <engine E, executor X>
[[nodiscard]] result<reference_queries> gather_queries(const reader<E, X>& read,
                                                       std::span<const token> context,
                                                       const cache_prefix& cache,
                                                       std::span<const weighted_source> mixture,
                                                       const gather_options& options = {}) {
  return detail::guard_memory("gather_queries", [&] {
    return detail::gathering<E, X>(read, context, cache, mixture, options).run();
  });
}

/// The same from one source.
template <engine E, executor X>
[[nodiscard]] result<reference_queries> gather_queries(const reader<E, X>& read,
                                                       std::span<const token> context,
                                                       const cache_prefix& cache,
                                                       const query_source& source,
                                                       const gather_options& options = {}) {
  const weighted_source one{source, 1.0};
  return gather_queries(read, context, cache, std::span<const weighted_source>(&one, 1), options);
}

}  // namespace kvfit::inline KVFIT_ISA
