// SPDX-License-Identifier: MIT
/// `prefill()`: the full cache of a text, and the hidden states that it leaves.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/live_cache.hpp"
#include "kvfit/queries/reader.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// What a text leaves when it has been read.
struct prefilled {
  live_cache cache;  ///< its rows, every layer; `cache.view()` is what `compact_cache` takes
  matrix hidden;  ///< n × width, after the last layer: `model.logits(hidden)` are the next tokens'
};

/// Reads a text from position 0 on, or over a prefix.
///
///     auto text = kvfit::prefill(*read, tokens);
///     auto small = kvfit::compact_cache(text->cache.view(), queries, options, how);
///
/// Errors: those of `reader::read`. Memory: the rows, n × width, and those of one chunk.
template <engine E, executor X>
[[nodiscard]] result<prefilled> prefill(const reader<E, X>& read, std::span<const token> tokens,
                                        const cache_prefix& before = {}) {
  return detail::catch_bad_alloc("prefill", [&]() -> result<prefilled> {
    prefilled text{live_cache(read.shapes(), before.positions), {}};
    auto hidden = read.read(before, text.cache, tokens);
    if (!hidden) return hidden.error();
    text.hidden = std::move(*hidden);
    return text;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
