// SPDX-License-Identifier: MIT
/// The next token by greedy choice, and a text continued by it.
#pragma once

#include <span>
#include <vector>

#include "engine/forward.hpp"

namespace llama {

/// The token of the largest logit; of several, the first. `logits` must not be empty.
token greedy(std::span<const float> logits);

/// Reads `prompt` over `past` and `live`, then says up to `most` tokens, each the greedy choice
/// after those before it; EOS ends it and is not among them. Errors: `forward`'s; saying stops
/// without an error where the trained length is reached.
result<std::vector<token>> generate(const model& engine, std::span<const token> prompt,
                                    index_t most, const kvfit::cache_view& past, live_cache& live);

}  // namespace llama
