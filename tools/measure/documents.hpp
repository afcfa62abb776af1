// SPDX-License-Identifier: MIT
/// What `kvfit eval --engine` reads to a model: prefixes to compact, and what comes after them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/tokenizer.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit_tool {

/// Tokens read behind a prefix, and those that the model should say meanwhile: targets[i] after
/// tokens[first_row + i].
struct passage {
  std::vector<llama::token> tokens;
  kvfit::index_t first_row = 0;
  std::vector<llama::token> targets;
};

/// One prefix and its passages, each read by itself.
struct document {
  std::string name;
  std::string source;                ///< the file it is cut from
  std::vector<llama::token> prefix;  ///< BOS first
  std::vector<passage> passages;
  bool is_recall = false;  ///< passages are questions with their answers, not the continuation
};

/// How texts are cut, and how much of all is taken.
struct reading_plan {
  kvfit::index_t prefix = 1024;       ///< tokens, BOS included
  kvfit::index_t continuation = 512;  ///< tokens behind it
  kvfit::index_t most = 0;            ///< so many texts and so many recall documents; 0: all
};

/// The documents of a model's folder: texts held-*.txt, cut into stretches of prefix and true
/// continuation, taken from one after the other in turn; then recall.jsonl, a line a document,
/// whose questions are followed by their answers.
///
/// A model that is fed the right answer so far chooses the rest of it exactly where it would have
/// said it all by itself, so one pass over question and answer tells whether greedy decoding
/// answers right.
///
/// Errors: `file_unreadable` where there is neither; `malformed_file` for a line that is no such
/// document, or whose `ids` are not the tokens of its prefix; `unsupported_file` for any other
/// entry; `empty_input` where the texts are too short for one stretch.
kvfit::result<std::vector<document>> read_documents(const std::filesystem::path& folder,
                                                    const llama::tokenizer& tokenizer,
                                                    llama::token bos, const reading_plan& plan);

}  // namespace kvfit_tool
