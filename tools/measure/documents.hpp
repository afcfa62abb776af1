// SPDX-License-Identifier: MIT
/// What `kvfit eval --engine` reads to a model: prefixes to compact, and what comes after them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit_tool {

/// What is read behind a prefix.
enum class passage_kind : std::uint8_t {
  continuation,  ///< how the text goes on
  answer,        ///< a question about it, with its answer
  off_context,   ///< a text that has nothing to do with it
};

/// Tokens read behind a prefix, and those that the model should say meanwhile: targets[i] after
/// tokens[first_row + i].
struct passage {
  std::vector<llama::token> tokens;
  kvfit::index_t first_row = 0;
  std::vector<llama::token> targets;
  passage_kind kind = passage_kind::continuation;
  /// Of an answer: where its tokens stand first in the prefix, as a share of its length, in [0, 1);
  /// none where they do not stand there.
  std::optional<double> depth = {};
};

/// One prefix and its passages, each read by itself.
struct document {
  std::string name;
  std::string source;                ///< the file it is cut from
  std::vector<llama::token> prefix;  ///< BOS first
  std::vector<passage> passages;
  bool is_recall = false;  ///< passages are questions with their answers alone
};

/// How texts are cut, and how much of all is taken.
struct reading_plan {
  kvfit::index_t prefix = 1024;       ///< tokens, BOS included
  kvfit::index_t continuation = 512;  ///< tokens behind it
  kvfit::index_t off_context = 256;   ///< tokens of another text's continuation, read besides
  kvfit::index_t most = 0;            ///< so many texts and so many recall documents; 0: all
};

/// The documents of a model's folder: texts held-*.txt, cut into stretches of prefix and true
/// continuation, taken from one after the other in turn; then recall.jsonl, a line a document,
/// whose questions are followed by their answers.
///
/// What has nothing to do with stretch i of a text is the beginning of the true continuation of
/// stretch i of the next text, in the order of names and counted round, as are stretches where that
/// text has fewer. No reference queries are made of continuations. Where there is but one text,
/// there is none.
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
