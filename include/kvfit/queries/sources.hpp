// SPDX-License-Identifier: MIT
/// Where reference queries come from: the sources of the method, and how they are mixed.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "kvfit/core/index.hpp"
#include "kvfit/queries/engine.hpp"
#include "kvfit/queries/generate.hpp"
#include "kvfit/queries/sampler.hpp"

namespace kvfit::sources {

/// The queries with which the context itself was read (context-prefill): one prefill.
struct context {
  index_t first = 0;  ///< tokens before this one are read but not sampled
  /// True: each query stands where its token stands, so that under a causal rule it sees
  /// the keys before it. False, as published: all of them are moved behind the context, by one
  /// distance, and see every key.
  bool is_causal = true;
};

/// A verbatim repeat of the context after it, as if someone had asked for it (repeat-prefill): one
/// prefill, nothing is generated.
struct repeat {
  std::vector<token> prompt = {};  ///< read before the repeat; its queries count
};

/// Texts read after the context, each by itself: questions, or conversations with their answers.
struct texts {
  std::vector<std::vector<token>> tokens;
};

/// Conversations about the context that the engine itself goes on with (self-study): each prompt is
/// read over the cache and answered, `rounds` times from the same logits, each time with a seed of
/// its own. Prompt and answer are then read as `texts` are.
struct self_study {
  std::vector<std::vector<token>> prompts;  ///< with the turns' markers of the engine's template
  index_t rounds = 1;                       ///< ≥ 1 answers to every prompt
  generation_limits limits = {};            ///< of each answer
  sampler draw = {};                        ///< none: `nucleus{}`
  std::uint64_t seed = 0;
};

/// The keys of the cache, as they are: never rescaled, for the length of a query is the temperature
/// of its softmax. They stand behind the context.
struct cache_keys {};

/// Gaussian numbers (sums of twelve uniform ones, the same on every machine), each of standard
/// deviation `spread`, in no rotation. They stand behind the context.
struct random_vectors {
  double spread = 1;  ///< above 0, finite
  std::uint64_t seed = 0;
};

}  // namespace kvfit::sources

namespace kvfit {

/// Any of the sources.
using query_source =
    std::variant<sources::context, sources::repeat, sources::texts, sources::self_study,
                 sources::cache_keys, sources::random_vectors>;

/// A source's name, as above.
constexpr std::string_view name(const query_source& source) noexcept {
  constexpr std::string_view names[] = {"context",    "repeat",     "texts",
                                        "self_study", "cache_keys", "random_vectors"};
  return source.valueless_by_exception() ? "none" : names[source.index()];
}

/// A source and its part of the budget.
struct weighted_source {
  query_source source;
  double fraction = 1;  ///< (0, 1]; those of all sources add up to 1 at most
};

/// One after the other; each is cut to the same relative size where one of them has too few rows.
using query_mixture = std::vector<weighted_source>;

}  // namespace kvfit
