// SPDX-License-Identifier: MIT
/// Reads tokens over a compact prefix and a live suffix.
#pragma once

#include <span>
#include <vector>

#include "engine/cache.hpp"
#include "engine/model.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"

namespace llama {

/// The queries of every layer as attention saw them: layer by layer, one matrix a query head.
using captured_queries = std::vector<std::vector<matrix>>;

/// Reads `tokens` behind what `live` holds, appends their keys and values to it and returns their
/// hidden states, n × hidden, for `model::logits`. Attention is `kvfit::attend`, causal, over two
/// blocks a head: `past`, which may be empty, compact, or a full cache, and `live`.
///
///     llama::live_cache document(model);
///     auto read = llama::forward(model, tokens, {}, document);        // a full cache
///     llama::live_cache answer(model, document.next_position());
///     auto said = llama::forward(model, question, past_of(compact), answer);
///
/// Every row of `past` must stand before `live.first_position()`, and none may be in `live` itself,
/// whose rows move as it grows. `captured`, where given, receives
/// the queries.
///
/// Errors: `empty_input`, `invalid_option` for tokens outside the vocabulary or beyond the trained
/// length, `shape_mismatch` where `past` is neither empty nor of the model's layers and heads;
/// those of `attend`. `live` holds what it held before then.
result<matrix> forward(const model& engine, std::span<const token> tokens,
                       const kvfit::cache_view& past, live_cache& live,
                       captured_queries* captured = nullptr);

/// A compact cache to read over, by reference: every layer of the engine must be in it.
kvfit::cache_view past_of(const kvfit::compacted_cache& compact);

}  // namespace llama
