// SPDX-License-Identifier: MIT
/// Where `kvfit eval --engine` takes reference queries from: mixtures of the library's sources.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/sources.hpp"

namespace kvfit_tool {

/// A text that queries are made for, and what may be read after it.
struct asked_text {
  const llama::tokenizer* tokenizer = nullptr;
  std::span<const llama::token> tokens;                ///< of the prefix, BOS first
  std::vector<llama::token> stops;                     ///< tokens that end an answer
  std::vector<std::vector<llama::token>> others = {};  ///< texts of other documents
};

/// How a question of `self_study` ends; the model's answer follows.
inline constexpr const char* end_of_question = "? Answer:";

/// One way to make reference queries of a prefix.
struct query_source {
  std::string_view name;
  std::string_view summary;
  /// How they are made of `text`.
  kvfit::result<kvfit::query_mixture> (*make)(const asked_text& text);
};

/// All of them, the default first.
const std::vector<query_source>& query_sources();

/// The source of that name, or none.
const query_source* find_query_source(std::string_view name);

}  // namespace kvfit_tool
