// SPDX-License-Identifier: MIT
/// What is read to a model: a prefix to compact, and passages that come after it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "llama_cpp/session.hpp"

namespace llama_cpp {

/// Tokens read behind a prefix, and those that the model should say meanwhile: targets[i] after
/// tokens[first_row + i].
struct passage {
  std::vector<token> tokens;
  index_t first_row = 0;
  std::vector<token> targets;
};

/// One prefix and its passages, each read by itself.
struct document {
  std::string name;
  std::vector<token> prefix;
  std::vector<passage> passages;
  bool is_recall = false;  ///< passages are questions with their answers
};

/// The first `prefix` tokens of a text, BOS included, and the `continuation` tokens behind them.
///
/// Errors: `file_unreadable`; `empty_input` (tokens, of those needed) for a text that is too short.
result<document> read_text_document(const session& model, const std::filesystem::path& path,
                                    index_t prefix, index_t continuation);

/// The first `most` lines of a file of {"prefix": text, "questions": [{"q": text, "a": text}]}.
/// Each answer follows its question: fed the right answer so far, a model chooses the rest of it
/// just where it would have said it all by itself.
///
/// Errors: `file_unreadable`; `malformed_file` (line).
result<std::vector<document>> read_recall_documents(const session& model,
                                                    const std::filesystem::path& path,
                                                    index_t most);

}  // namespace llama_cpp
