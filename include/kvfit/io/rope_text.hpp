// SPDX-License-Identifier: MIT
/// The rotation of rows as text, as the metadata of captures and results has it (docs/formats.md).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/attention/rope.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/io/layer_tensors.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Takes a text apart from its front. After the first mistake everything fails.
class rope_words {
 public:
  explicit rope_words(std::string_view text) : rest_(text) {}

  [[nodiscard]] bool is_at_end() const noexcept { return rest_.empty(); }
  [[nodiscard]] bool skip(std::string_view part) noexcept {
    if (!rest_.starts_with(part)) return false;
    rest_.remove_prefix(part.size());
    return true;
  }
  /// `part`, then a number up to the next comma, space or the end.
  [[nodiscard]] bool number(std::string_view part, double& to) {
    if (!skip(part)) return false;
    const std::string_view word = rest_.substr(0, rest_.find_first_of(", "));
    const auto parsed = parse_number(word);
    if (!parsed) return false;
    rest_.remove_prefix(word.size());
    to = *parsed;
    return true;
  }

 private:
  std::string_view rest_;
};

inline bool parse_rope_scaling(rope_words& words, any_rope_scaling& to) {
  if (words.skip(", linear")) {
    rope_scaling::linear by;
    if (!words.number(" ", by.factor)) return false;
    to = by;
  } else if (words.skip(", yarn")) {
    rope_scaling::yarn by;
    if (!words.number(" ", by.factor) || !words.number(" of ", by.original_positions) ||
        !words.number(", fast ", by.fast) || !words.number(", slow ", by.slow)) {
      return false;
    }
    by.rounds = !words.skip(", unrounded");
    to = by;
  } else if (words.skip(", llama3")) {
    rope_scaling::llama3 by;
    if (!words.number(" ", by.factor) || !words.number(" of ", by.original_positions) ||
        !words.number(", low ", by.low) || !words.number(", high ", by.high)) {
      return false;
    }
    to = by;
  } else if (words.skip(", frequencies")) {
    rope_scaling::given by;
    for (double next = 0; words.number(" ", next);) by.frequencies.push_back(next);
    to = std::move(by);
  }
  return true;
}

/// "post, interleaved, theta BASE" or "post, half-split, theta BASE", with what else a rotation has
/// behind it; nothing for any other text.
inline std::optional<rope> parse_rope(std::string_view text) {
  rope rotation;
  rope_words words(text);
  if (words.skip("post, interleaved")) {
    rotation.pairing = rope_pairing::interleaved;
  } else if (!words.skip("post, half-split")) {
    return {};
  }
  if (!words.number(", theta ", rotation.base) || !(rotation.base > 0)) return {};
  double dims = 0;
  if (words.number(", dims ", dims)) {
    if (!(dims >= 1 && dims <= 0x7FFFFFFF)) return {};
    rotation.dims = static_cast<index_t>(dims);
    if (static_cast<double>(rotation.dims) != dims) return {};
  }
  if (!parse_rope_scaling(words, rotation.scaling) || !words.is_at_end()) return {};
  return rotation;
}

/// `rotation` so that `parse_rope` gives it back.
inline std::string print_rope(const rope& rotation) {
  const bool is_split = rotation.pairing == rope_pairing::half_split;
  std::string text = is_split ? "post, half-split" : "post, interleaved";
  text += ", theta " + print_number(rotation.base);
  if (rotation.dims != 0) text += ", dims " + std::to_string(rotation.dims);
  if (const auto* by = std::get_if<rope_scaling::linear>(&rotation.scaling)) {
    text += ", linear " + print_number(by->factor);
  } else if (const auto* parts = std::get_if<rope_scaling::yarn>(&rotation.scaling)) {
    text += ", yarn " + print_number(parts->factor) + " of " +
            print_number(parts->original_positions) + ", fast " + print_number(parts->fast) +
            ", slow " + print_number(parts->slow) + (parts->rounds ? "" : ", unrounded");
  } else if (const auto* llama = std::get_if<rope_scaling::llama3>(&rotation.scaling)) {
    text += ", llama3 " + print_number(llama->factor) + " of " +
            print_number(llama->original_positions) + ", low " + print_number(llama->low) +
            ", high " + print_number(llama->high);
  } else if (const auto* own = std::get_if<rope_scaling::given>(&rotation.scaling)) {
    text += ", frequencies";
    for (const double frequency : own->frequencies) text += " " + print_number(frequency);
  }
  return text;
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
