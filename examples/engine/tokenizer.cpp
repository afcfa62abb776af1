// SPDX-License-Identifier: MIT
#include "engine/tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/files.hpp"
#include "engine/json.hpp"

namespace llama {

namespace {

using kvfit::errc;
using kvfit::error;

error malformed(const std::filesystem::path& path, std::string what) {
  return {errc::malformed_file, path.string(), error::none, error::none, std::move(what)};
}

/// GPT-2's vocabulary writes bytes as characters: those that print as themselves, the others as
/// U+0100, U+0101, … in their order. The reverse of that table: the byte of each character.
std::array<int, 324> bytes_of_characters() {
  std::array<int, 324> byte_of{};
  byte_of.fill(-1);
  std::size_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_printed = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    byte_of[is_printed ? static_cast<std::size_t>(byte) : next++] = byte;
  }
  return byte_of;
}

/// The bytes that a token's name in the files stands for; nothing where it is not so written.
std::optional<std::string> bytes_named(std::string_view name) {
  static const std::array<int, 324> byte_of = bytes_of_characters();
  std::string bytes;
  for (std::size_t i = 0; i < name.size(); ++i) {
    std::size_t character = static_cast<unsigned char>(name[i]);
    if (character >= 0x80) {  // two bytes of UTF-8: all of the table's are
      if ((character & 0xE0U) != 0xC0U || i + 1 == name.size()) return std::nullopt;
      const std::size_t next = static_cast<unsigned char>(name[++i]);
      if ((next & 0xC0U) != 0x80U) return std::nullopt;
      character = (character & 0x1FU) << 6U | (next & 0x3FU);
      if (character < 0x80) return std::nullopt;  // overlong: another spelling of one byte
    }
    if (character >= byte_of.size() || byte_of[character] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_of[character]);
  }
  return bytes;
}

std::uint64_t pair_of(token left, token right) {
  return static_cast<std::uint64_t>(left) << 32U | static_cast<std::uint64_t>(right);
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_other(char c) {
  return !is_letter(c) && !is_digit(c) && !is_space(c);
}

/// How long the first piece of a text is, which must not be empty.
std::size_t piece_length(std::string_view text) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(ending)) return ending.size();
  }
  const auto run = [&](std::size_t from, auto&& belongs) {
    std::size_t end = from;
    while (end < text.size() && belongs(text[end])) ++end;
    return end;
  };
  const std::size_t start = text[0] == ' ' ? 1 : 0;
  if (start < text.size() && !is_space(text[start])) {
    if (is_digit(text[start])) return start + 1;
    return is_letter(text[start]) ? run(start, is_letter) : run(start, is_other);
  }
  const std::size_t spaces = run(0, is_space);
  // The last of several goes with the word behind it.
  return spaces < text.size() && spaces > 1 ? spaces - 1 : spaces;
}

}  // namespace

result<tokenizer> tokenizer::load(const std::filesystem::path& vocab,
                                  const std::filesystem::path& merges) {
  const auto vocab_text = read_text(vocab);
  if (!vocab_text) return vocab_text.error();
  const auto merges_text = read_text(merges);
  if (!merges_text) return merges_text.error();

  const auto parsed = parse_json(*vocab_text, vocab.string());
  if (!parsed) return parsed.error();
  const nlohmann::json& object = *parsed;
  if (!object.is_object() || object.empty()) return malformed(vocab, "no JSON object of tokens");
  tokenizer made;
  made.bytes_.resize(object.size());
  std::vector<char> is_there(object.size(), 0);
  std::unordered_map<std::string, token> token_of;
  for (const auto& [name, number] : object.items()) {
    const auto bytes = bytes_named(name);
    if (!bytes || bytes->empty()) {
      return malformed(vocab, "token '" + name + "' is not written in bytes");
    }
    if (!number.is_number_unsigned() || number.get<std::uint64_t>() >= object.size() ||
        is_there[number.get<std::size_t>()] != 0) {
      return malformed(vocab, "token '" + name + "' has the number " + number.dump() + "; " +
                                  std::to_string(object.size()) +
                                  " tokens must be numbered 0, 1, ... without gaps");
    }
    const auto id = number.get<std::size_t>();
    is_there[id] = 1;
    made.bytes_[id] = *bytes;
    token_of.emplace(*bytes, static_cast<token>(id));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = token_of.find(std::string(1, static_cast<char>(byte)));
    if (found == token_of.end()) {
      return error{errc::missing_entry, vocab.string(), byte, error::none,
                   "a byte that has no token"};
    }
    made.token_of_byte_[static_cast<std::size_t>(byte)] = found->second;
  }

  std::string_view rest = *merges_text;
  std::int32_t rank = 0;
  bool is_first = true;
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version") && !is_first) {
      return malformed(merges, "'" + std::string(line) + "' is not the first line");
    }
    if (line.starts_with("#version") && line != "#version: 0.2") {
      return error{errc::unsupported_file, merges.string(), error::none, error::none,
                   "'" + std::string(line) + "'; only version 0.2 is handled"};
    }
    const bool is_pair = !line.empty() && !line.starts_with("#version");
    is_first = false;
    if (!is_pair) continue;
    const std::size_t space = line.find(' ');
    const auto place = "merge " + std::to_string(rank);
    if (space == std::string_view::npos) return malformed(merges, place + " is not a pair");
    const auto left = bytes_named(line.substr(0, space));
    const auto right = bytes_named(line.substr(space + 1));
    if (!left || !right) return malformed(merges, place + " is not written in bytes");
    const auto a = token_of.find(*left);
    const auto b = token_of.find(*right);
    const auto both = token_of.find(*left + *right);
    if (a == token_of.end() || b == token_of.end() || both == token_of.end()) {
      return malformed(merges, place + " is of tokens that the vocabulary lacks");
    }
    if (!made.merges_.emplace(pair_of(a->second, b->second), merge{rank, both->second}).second) {
      return malformed(merges, place + " is there twice");
    }
    ++rank;
  }
  return made;
}

void tokenizer::encode_piece(std::string_view piece, std::vector<token>& to) const {
  std::vector<token> parts;
  for (const char c : piece) parts.push_back(token_of_byte_[static_cast<unsigned char>(c)]);
  while (parts.size() > 1) {
    constexpr auto none = std::numeric_limits<std::int32_t>::max();
    merge best{none, 0};
    std::uint64_t wanted = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = merges_.find(pair_of(parts[i], parts[i + 1]));
      if (found == merges_.end() || found->second.rank >= best.rank) continue;
      best = found->second;
      wanted = found->first;
    }
    if (best.rank == none) break;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < parts.size(); ++kept) {  // every such pair, from left to right
      const bool is_pair = i + 1 < parts.size() && pair_of(parts[i], parts[i + 1]) == wanted;
      parts[kept] = is_pair ? best.made : parts[i];
      i += is_pair ? 2 : 1;
    }
    parts.resize(kept);
  }
  to.insert(to.end(), parts.begin(), parts.end());
}

std::vector<token> tokenizer::encode(std::string_view text) const {
  std::vector<token> tokens;
  while (!text.empty()) {
    const std::size_t length = piece_length(text);
    encode_piece(text.substr(0, length), tokens);
    text.remove_prefix(length);
  }
  return tokens;
}

result<std::string> tokenizer::decode(std::span<const token> tokens) const {
  std::string text;
  for (const token each : tokens) {
    if (each < 0 || static_cast<std::size_t>(each) >= bytes_.size()) {
      return error{errc::invalid_option, "tokens", each, static_cast<kvfit::index_t>(bytes_.size()),
                   "not in the vocabulary"};
    }
    text += bytes_[static_cast<std::size_t>(each)];
  }
  return text;
}

}  // namespace llama
