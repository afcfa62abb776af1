// SPDX-License-Identifier: MIT
#include "llama_cpp/mixture.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <random>
#include <set>
#include <utility>

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}
bool is_capital(char c) {
  return std::isupper(static_cast<unsigned char>(c)) != 0;
}

/// Words that begin with a capital and have no other, each once, in the order of the alphabet.
std::set<std::string> capitalised_words(const std::string& text) {
  std::set<std::string> words;
  for (auto at = text.begin(); at != text.end();) {
    at = std::find_if(at, text.end(), is_letter);
    const auto end = std::find_if_not(at, text.end(), is_letter);
    if (end - at > 1 && is_capital(*at) && std::none_of(at + 1, end, is_capital)) {
      words.emplace(at, end);
    }
    at = end;
  }
  return words;
}

token likeliest(const matrix& logits) {
  index_t chosen = 0;
  logits.row(logits.rows() - 1).maxCoeff(&chosen);
  return static_cast<token>(chosen);
}

/// By probability, at temperature 1.
token drawn(const matrix& logits, std::mt19937_64& random) {
  const Eigen::RowVectorXd wide = logits.row(logits.rows() - 1).cast<double>();
  const Eigen::RowVectorXd weight = (wide.array() - wide.maxCoeff()).exp();
  double left = weight.sum() * (static_cast<double>(random() >> 11U) * 0x1p-53);
  for (index_t i = 0; i < weight.size(); ++i) {
    left -= weight[i];
    if (left < 0) return static_cast<token>(i);
  }
  return static_cast<token>(weight.size() - 1);
}

/// Reads texts behind the prefix, each by itself, and notes where their queries stand.
class asker {
 public:
  asker(session& model, index_t length, asked_queries& to)
      : model_(model), length_(length), positions_(to.positions) {}

  /// Reads a text and says up to `most` tokens after it, chosen by `choose` from logits.
  template <class Choose>
  result<void> ask(std::vector<token> text, index_t most, Choose choose) {
    index_t at = length_;
    const index_t end = model_.trained_length();
    text.resize(std::min(text.size(), static_cast<std::size_t>(std::max<index_t>(0, end - at))));
    if (text.empty()) return {};
    for (index_t said = 0; !text.empty(); ++said) {
      const auto count = static_cast<index_t>(text.size());
      const auto logits = model_.read(text, at, count - 1);
      if (!logits) return logits.error();
      for (index_t i = 0; i < count; ++i) positions_.push_back(at + i);
      at += count;
      text.clear();
      if (said == most || at >= end) break;
      const token next = choose(*logits);
      if (!model_.ends(next)) text.push_back(next);
    }
    return model_.rewind();
  }

 private:
  session& model_;
  index_t length_;
  std::vector<index_t>& positions_;
};

/// Rows of `more` behind those of `to`, layer by layer and head by head.
result<void> append(layer_captures& to, const layer_captures& more) {
  if (to.size() != more.size()) {
    return error{errc::shape_mismatch, "layers", static_cast<index_t>(to.size()),
                 static_cast<index_t>(more.size()), "that were asked"};
  }
  for (std::size_t c = 0; c < to.size(); ++c) {
    for (std::size_t h = 0; h < to[c].heads.size(); ++h) {
      matrix& first = to[c].heads[h];
      const matrix& second = more[c].heads[h];
      matrix both(first.rows() + second.rows(), first.cols());
      both << first, second;
      first = std::move(both);
    }
  }
  return {};
}

}  // namespace

result<asked_queries> ask_mixture(session& model, std::span<const token> prefix,
                                  layer_captures context,
                                  const std::vector<std::vector<token>>& others,
                                  const mixture_plan& plan) {
  const auto length = static_cast<index_t>(prefix.size());
  asked_queries made;
  // Read from behind, a query of the prefix sees all of it.
  for (layer_capture& capture : context) {
    const auto& rotation = model.tap().layers()[static_cast<std::size_t>(capture.layer)].rotation;
    if (!rotation) continue;
    const std::vector<index_t> by(static_cast<std::size_t>(length), length);
    for (matrix& head : capture.heads) {
      if (const auto ok = kvfit::turn_rows(head, *rotation, by); !ok) return ok.error();
    }
  }
  for (index_t i = 0; i < length; ++i) made.positions.push_back(length + i);

  asker asks(model, length, made);
  model.tap().start_capture(1);
  std::mt19937_64 random(plan.seed);
  for (const char* opening : {" ", "\n\n", " The", " \"", " He", " It", " And", " But"}) {
    auto text = model.tokens_of(opening, false);
    if (!text) return text.error();
    const auto ok = asks.ask(std::move(*text), plan.said,
                             [&](const matrix& logits) { return drawn(logits, random); });
    if (!ok) return ok.error();
  }
  for (const std::string& word : capitalised_words(model.text_of(prefix))) {
    const std::size_t place = plan.question.find("{}");
    if (place == std::string::npos) break;
    auto text = model.tokens_of(std::string(plan.question).replace(place, 2, word), false);
    if (!text) return text.error();
    if (const auto ok = asks.ask(std::move(*text), plan.answer, likeliest); !ok) return ok.error();
  }
  for (const std::vector<token>& other : others) {
    const auto count = std::min(other.size(), static_cast<std::size_t>(plan.other));
    std::vector<token> text(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(count));
    if (const auto ok = asks.ask(std::move(text), 0, likeliest); !ok) return ok.error();
  }
  made.captures = std::move(context);
  if (const auto ok = append(made.captures, model.tap().take_queries()); !ok) return ok.error();
  for (const layer_capture& capture : made.captures) {
    for (const matrix& head : capture.heads) {
      if (head.rows() == static_cast<index_t>(made.positions.size())) continue;
      return error{errc::shape_mismatch, "layer " + std::to_string(capture.layer), head.rows(),
                   static_cast<index_t>(made.positions.size()), "queries"};
    }
  }
  return made;
}

}  // namespace llama_cpp
