// SPDX-License-Identifier: MIT
#include "measure/query_source.hpp"

#include <algorithm>
#include <cctype>
#include <set>

namespace kvfit_tool {

namespace {

using kvfit::query_mixture;

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}
bool is_capital(char c) {
  return std::isupper(static_cast<unsigned char>(c)) != 0;
}

/// The words of a text that begin with a capital and have no other, each once, in the order of the
/// alphabet: its names, and what begins its sentences.
std::set<std::string> capitalised_words(const std::string& text) {
  std::set<std::string> words;
  for (std::size_t at = 0; at < text.size();) {
    if (!is_letter(text[at])) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < text.size() && is_letter(text[end])) ++end;
    const bool is_name = end - at > 1 && is_capital(text[at]) &&
                         std::none_of(text.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                                      text.begin() + static_cast<std::ptrdiff_t>(end), is_capital);
    if (is_name) words.insert(text.substr(at, end - at));
    at = end;
  }
  return words;
}

/// The question that the model was trained to answer, asked of every capitalised word: whichever of
/// them are names with a number, the model knows.
kvfit::result<kvfit::sources::self_study> questions(const asked_text& text) {
  const auto words = text.tokenizer->decode(text.tokens.subspan(1));  // BOS is no text
  if (!words) return words.error();
  kvfit::sources::self_study asked{.prompts = {},
                                   .limits = {.tokens = 6, .stop = text.stops},
                                   .draw = kvfit::make_sampler(kvfit::greedy{})};
  for (const std::string& word : capitalised_words(*words)) {
    asked.prompts.push_back(text.tokenizer->encode(" Question: What is the secret number of " +
                                                   word + end_of_question));
  }
  return asked;
}

/// The model goes on from some openings, as it likes: queries of text that the prefix may lead to.
kvfit::sources::self_study continuations(const asked_text& text) {
  kvfit::sources::self_study told{
      .prompts = {},
      .rounds = 1,
      .limits = {.tokens = 128, .stop = text.stops},
      .draw = kvfit::make_sampler(kvfit::nucleus{.temperature = 1, .top_p = 1, .top_k = 0})};
  for (const char* opening : {" ", "\n\n", " The", " \"", " He", " It", " And", " But"}) {
    told.prompts.push_back(text.tokenizer->encode(opening));
  }
  return told;
}

kvfit::sources::context context_behind() {
  return {.first = 0, .is_causal = false};
}

kvfit::result<query_mixture> repeat(const asked_text&) {
  return query_mixture{{kvfit::sources::repeat{}, 1}};
}

kvfit::result<query_mixture> context(const asked_text&) {
  return query_mixture{{context_behind(), 1}};
}

kvfit::result<query_mixture> self_study(const asked_text& text) {
  auto asked = questions(text);
  if (!asked) return asked.error();
  if (asked->prompts.empty()) {
    return kvfit::error{kvfit::errc::empty_input, "self_study", 0, kvfit::error::none,
                        "no capitalised word to ask for"};
  }
  return query_mixture{{std::move(*asked), 1}};
}

/// No repeat: it asks every token for its own copy, where what is asked later wants a few of them.
kvfit::result<query_mixture> mixture(const asked_text& text) {
  auto asked = questions(text);
  if (!asked) return asked.error();
  query_mixture all = {{context_behind(), 0}, {continuations(text), 0}};
  if (!asked->prompts.empty()) all.push_back({std::move(*asked), 0});
  if (!text.others.empty()) all.push_back({kvfit::sources::texts{text.others}, 0});
  for (kvfit::weighted_source& each : all) each.fraction = 1.0 / static_cast<double>(all.size());
  return all;
}

}  // namespace

const std::vector<query_source>& query_sources() {
  static const std::vector<query_source> all = {
      {"repeat", "the model reads the prefix once more, word for word", repeat},
      {"context", "the queries that read the prefix, moved behind it", context},
      {"self_study", "the model is asked for the number of every capitalised word, and answers",
       self_study},
      {"mixture",
       "context and self_study, what the model goes on with by itself, and texts of other "
       "documents "
       "read behind the prefix",
       mixture}};
  return all;
}

const query_source* find_query_source(std::string_view name) {
  const auto& all = query_sources();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const query_source& each) { return each.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace kvfit_tool
