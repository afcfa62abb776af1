// SPDX-License-Identifier: MIT
#include "measure/documents.hpp"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "engine/files.hpp"
#include "engine/json.hpp"

namespace kvfit_tool {

namespace {

using kvfit::errc;
using kvfit::error;
using llama::token;
using nlohmann::json;

std::vector<std::filesystem::path> texts_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> texts;
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("held-") && name.ends_with(".txt")) texts.push_back(entry.path());
  }
  std::sort(texts.begin(), texts.end());
  return texts;
}

/// Stretches of a text, without overlap.
std::vector<document> stretches_of(const std::string& name, const std::vector<token>& tokens,
                                   token bos, const reading_plan& plan) {
  std::vector<document> made;
  const auto prefix = static_cast<std::size_t>(plan.prefix - 1);
  const auto continuation = static_cast<std::size_t>(plan.continuation);
  for (std::size_t at = 0; at + prefix + continuation <= tokens.size();
       at += prefix + continuation) {
    const auto start = tokens.begin() + static_cast<std::ptrdiff_t>(at);
    const auto middle = start + static_cast<std::ptrdiff_t>(prefix);
    const auto end = middle + static_cast<std::ptrdiff_t>(continuation);
    document& one = made.emplace_back();
    one.name = name + " " + std::to_string(made.size());
    one.source = name;
    one.prefix.push_back(bos);
    one.prefix.insert(one.prefix.end(), start, middle);
    one.passages.push_back({.tokens = {middle, end - 1}, .targets = {middle + 1, end}});
  }
  return made;
}

/// The beginning of a continuation, to be read behind the prefix of another text.
passage beginning_of(const passage& continuation, kvfit::index_t tokens) {
  const std::size_t count = std::min(static_cast<std::size_t>(tokens), continuation.tokens.size());
  passage made = continuation;
  made.tokens.resize(count);
  made.targets.resize(count);
  made.kind = passage_kind::off_context;
  return made;
}

/// Gives every stretch a passage of the next text that has stretches.
void add_off_context(std::vector<std::vector<document>>& books, kvfit::index_t tokens) {
  for (std::size_t b = 0; b < books.size(); ++b) {
    for (std::size_t step = 1; step < books.size(); ++step) {
      const std::vector<document>& next = books[(b + step) % books.size()];
      if (next.empty()) continue;
      for (std::size_t i = 0; i < books[b].size(); ++i) {
        books[b][i].passages.push_back(
            beginning_of(next[i % next.size()].passages.front(), tokens));
      }
      break;
    }
  }
}

/// Question and answer as one passage: the answer's tokens are predicted from the question's last.
passage passage_of(const std::vector<token>& question, const std::vector<token>& answer) {
  passage made{.tokens = question,
               .first_row = static_cast<kvfit::index_t>(question.size()) - 1,
               .targets = answer,
               .kind = passage_kind::answer};
  made.tokens.insert(made.tokens.end(), answer.begin(), answer.end() - 1);
  return made;
}

/// Where `answer` stands first in `prefix`, as a share of its length.
std::optional<double> depth_of(const std::vector<token>& answer, const std::vector<token>& prefix) {
  const auto found = std::search(prefix.begin(), prefix.end(), answer.begin(), answer.end());
  if (found == prefix.end()) return std::nullopt;
  return static_cast<double>(found - prefix.begin()) / static_cast<double>(prefix.size());
}

const json* field(const json& from, const char* key) {
  if (!from.is_object()) return nullptr;
  const auto found = from.find(key);
  return found == from.end() ? nullptr : &*found;
}

/// The name of an entry that is none of `known`.
std::optional<std::string> other_entry(const json& object,
                                       std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) return name;
  }
  return std::nullopt;
}

error unsupported(const std::filesystem::path& path, const std::string& where,
                  const std::string& entry) {
  return {errc::unsupported_file, path.string(), error::none, error::none,
          where + ": '" + entry + "' is no entry that is handled"};
}

kvfit::result<std::vector<document>> read_recall(const std::filesystem::path& path,
                                                 const llama::tokenizer& tokenizer, token bos,
                                                 kvfit::index_t most) {
  const auto text = llama::read_text(path);
  if (!text) return text.error();
  std::vector<document> made;
  std::string_view rest = *text;
  while (!rest.empty() && (most == 0 || static_cast<kvfit::index_t>(made.size()) < most)) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.empty()) continue;
    const std::string name = path.filename().string() + " " + std::to_string(made.size() + 1);
    const auto malformed = [&](const std::string& why) {
      return error{errc::malformed_file, path.string(), error::none, error::none,
                   name + ": " + why};
    };
    const auto parsed = llama::parse_json(line, path.string());
    if (!parsed) return malformed(parsed.error().detail);
    const json& object = *parsed;
    const json* const prefix = field(object, "prefix");
    const json* const questions = field(object, "questions");
    if (prefix == nullptr || !prefix->is_string() || questions == nullptr ||
        !questions->is_array()) {
      return malformed("is no document of a prefix and questions");
    }
    if (const auto other = other_entry(object, {"prefix", "ids", "questions"})) {
      return unsupported(path, name, *other);
    }
    document one{.name = name,
                 .source = path.filename().string(),
                 .prefix = {bos},
                 .passages = {},
                 .is_recall = true};
    const auto read = tokenizer.encode(prefix->get_ref<const std::string&>());
    one.prefix.insert(one.prefix.end(), read.begin(), read.end());
    if (const json* const ids = field(object, "ids"); ids != nullptr && *ids != json(one.prefix)) {
      return malformed("its ids are not the tokens of its prefix");
    }
    for (const json& each : *questions) {
      const json* const q = field(each, "q");
      const json* const a = field(each, "a");
      if (q == nullptr || a == nullptr || !q->is_string() || !a->is_string()) {
        return malformed("a question is no object of q and a");
      }
      if (const auto other = other_entry(each, {"q", "a"})) return unsupported(path, name, *other);
      const auto question = tokenizer.encode(q->get_ref<const std::string&>());
      const auto answer = tokenizer.encode(a->get_ref<const std::string&>());
      if (question.empty() || answer.empty()) return malformed("a question or answer is empty");
      one.passages.push_back(passage_of(question, answer));
      one.passages.back().depth = depth_of(answer, one.prefix);
    }
    made.push_back(std::move(one));
  }
  return made;
}

}  // namespace

kvfit::result<std::vector<document>> read_documents(const std::filesystem::path& folder,
                                                    const llama::tokenizer& tokenizer,
                                                    llama::token bos, const reading_plan& plan) {
  std::vector<std::vector<document>> books;
  std::size_t longest = 0;
  for (const std::filesystem::path& path : texts_in(folder)) {
    const auto text = llama::read_text(path);
    if (!text) return text.error();
    books.push_back(stretches_of(path.stem().string(), tokenizer.encode(*text), bos, plan));
    longest = std::max(longest, books.back().size());
  }
  add_off_context(books, plan.off_context);
  std::vector<document> all;
  for (std::size_t i = 0; i < longest; ++i) {
    for (std::vector<document>& book : books) {
      if (plan.most != 0 && static_cast<kvfit::index_t>(all.size()) == plan.most) break;
      if (i < book.size()) all.push_back(std::move(book[i]));
    }
  }
  const std::filesystem::path recall = folder / "recall.jsonl";
  std::error_code unreadable;
  if (std::filesystem::exists(recall, unreadable)) {
    auto asked = read_recall(recall, tokenizer, bos, plan.most);
    if (!asked) return asked.error();
    for (document& one : *asked) all.push_back(std::move(one));
  } else if (books.empty()) {
    return error{errc::file_unreadable, folder.string(), error::none, error::none,
                 "neither held-*.txt nor recall.jsonl"};
  }
  if (all.empty()) {
    return error{errc::empty_input, folder.string(), 0, error::none, "texts too short to be cut"};
  }
  return all;
}

}  // namespace kvfit_tool
