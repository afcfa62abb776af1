// SPDX-License-Identifier: MIT
#include "llama_cpp/documents.hpp"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "engine/files.hpp"
#include "engine/json.hpp"

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;
using nlohmann::json;

const std::string* text_in(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get_ptr<const std::string*>()
                                                     : nullptr;
}

/// Whether the object has entries of these names alone.
bool has_only(const json& object, std::initializer_list<std::string_view> names) {
  const auto items = object.items();
  return std::all_of(items.begin(), items.end(), [&](const auto& each) {
    return std::find(names.begin(), names.end(), each.key()) != names.end();
  });
}

/// Question and answer as one passage; no tokens where either is not there, or more is.
result<passage> passage_of(const session& model, const json& object) {
  passage made;
  const std::string* const question = text_in(object, "q");
  const std::string* const answer = text_in(object, "a");
  if (question == nullptr || answer == nullptr || !has_only(object, {"q", "a"})) return made;
  auto asked = model.tokens_of(*question, false);
  if (!asked) return asked.error();
  auto said = model.tokens_of(*answer, false);
  if (!said) return said.error();
  if (asked->empty() || said->empty()) return made;
  made.tokens = std::move(*asked);
  made.first_row = static_cast<index_t>(made.tokens.size()) - 1;
  made.tokens.insert(made.tokens.end(), said->begin(), said->end() - 1);
  made.targets = std::move(*said);
  return made;
}

}  // namespace

result<document> read_text_document(const session& model, const std::filesystem::path& path,
                                    index_t prefix, index_t continuation) {
  const auto text = llama::read_text(path);
  if (!text) return text.error();
  const auto tokens = model.tokens_of(*text, true);
  if (!tokens) return tokens.error();
  const auto count = static_cast<index_t>(tokens->size());
  if (prefix < 1 || continuation < 1 || count < prefix + continuation) {
    return error{errc::empty_input, path.string(), count, prefix + continuation, "tokens"};
  }
  const auto middle = tokens->begin() + static_cast<std::ptrdiff_t>(prefix);
  const auto end = middle + static_cast<std::ptrdiff_t>(continuation);
  document made{
      .name = path.filename().string(), .prefix = {tokens->begin(), middle}, .passages = {}};
  made.passages.push_back({.tokens = {middle, end - 1}, .targets = {middle + 1, end}});
  return made;
}

result<std::vector<document>> read_recall_documents(const session& model,
                                                    const std::filesystem::path& path,
                                                    index_t most) {
  const auto text = llama::read_text(path);
  if (!text) return text.error();
  std::vector<document> made;
  std::string_view rest = *text;
  for (index_t number = 1; !rest.empty() && static_cast<index_t>(made.size()) < most; ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.empty()) continue;
    const error malformed{errc::malformed_file, path.string(), number, error::none,
                          "a line must be an object of a prefix and questions, and may have ids"};
    const auto parsed = llama::parse_json(line, path.string());
    if (!parsed) return malformed;
    const json& object = *parsed;
    const std::string* const prefix = text_in(object, "prefix");
    // `ids` are tokens of the model that the file was made for, which this one need not be.
    if (prefix == nullptr || !object.contains("questions") || !object["questions"].is_array() ||
        !has_only(object, {"prefix", "ids", "questions"})) {
      return malformed;
    }
    auto read = model.tokens_of(*prefix, true);
    if (!read) return read.error();
    document one{.name = path.filename().string() + " " + std::to_string(number),
                 .prefix = std::move(*read),
                 .passages = {},
                 .is_recall = true};
    for (const json& each : object["questions"]) {
      auto asked = passage_of(model, each);
      if (!asked) return asked.error();
      if (asked->tokens.empty()) return malformed;
      one.passages.push_back(std::move(*asked));
    }
    if (one.prefix.empty() || one.passages.empty()) return malformed;
    made.push_back(std::move(one));
  }
  return made;
}

}  // namespace llama_cpp
