// SPDX-License-Identifier: MIT
/// Byte-level BPE as GPT-2 has it: text to tokens and back.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvfit/core/result.hpp"
#include "kvfit/queries/engine.hpp"

namespace llama {

using kvfit::result;
using kvfit::token;

/// A vocabulary and its merges (Sennrich et al. 2016, arXiv:1508.07909, over bytes).
///
/// Text is cut by GPT-2's pattern, with digits one by one and ASCII letters alone,
///
///     's|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+
///
/// and within each piece the pair of lowest rank in merges.txt is merged until none is left. Every
/// text has tokens, for each byte is one.
class tokenizer {
 public:
  /// Reads vocab.json and merges.txt in GPT-2's form. A line "#version: 0.2" may begin the latter.
  ///
  /// Errors: `file_unreadable`; `malformed_file` for what is no object of texts to numbers 0 … n −
  /// 1, for a merge that is not two tokens of the vocabulary, whose result is none or that is there
  /// twice; `unsupported_file` for merges of another version; `missing_entry` for a byte without a
  /// token.
  static result<tokenizer> load(const std::filesystem::path& vocab,
                                const std::filesystem::path& merges);

  /// The tokens of a text, without BOS. Any bytes will do. Cost: merges · the longest piece at
  /// worst.
  [[nodiscard]] std::vector<token> encode(std::string_view text) const;

  /// The bytes of tokens. `invalid_option` for a token that is not in the vocabulary.
  [[nodiscard]] result<std::string> decode(std::span<const token> tokens) const;

  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }

 private:
  struct merge {
    std::int32_t rank = 0;
    token made = 0;
  };

  void encode_piece(std::string_view piece, std::vector<token>& to) const;

  std::vector<std::string> bytes_;  ///< of each token
  std::array<token, 256> token_of_byte_ = {};
  std::unordered_map<std::uint64_t, merge> merges_;  ///< by the two tokens
};

}  // namespace llama
