// SPDX-License-Identifier: MIT
/// Reference queries of several kinds, taken while llama.cpp reads and says texts behind a prefix.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "llama_cpp/session.hpp"

namespace llama_cpp {

/// What is read and said behind a prefix for its queries, beside the queries that read it.
struct mixture_plan {
  /// Asked of every word of the prefix that begins with a capital, "{}" in its place, and answered
  /// by the model; empty: no questions.
  std::string question;
  index_t answer = 6;      ///< tokens of an answer
  index_t said = 96;       ///< tokens that the model goes on with after each of some openings
  index_t other = 1024;    ///< tokens of each other text at most
  std::uint64_t seed = 1;  ///< of what it goes on with
};

/// Queries of one layer and reader, one matrix a head, and where they stand, in all layers alike.
struct asked_queries {
  layer_captures captures;
  std::vector<index_t> positions;
};

/// The session must stand right behind the prefix, put there by `load`; so it does afterwards.
/// `context`: the queries that read the prefix, every one; they are moved behind it, as far as
/// their rotation is known.
///
/// Errors: the session's; `shape_mismatch` where layers gave different numbers of queries.
result<asked_queries> ask_mixture(session& model, std::span<const token> prefix,
                                  layer_captures context,
                                  const std::vector<std::vector<token>>& others,
                                  const mixture_plan& plan);

}  // namespace llama_cpp
