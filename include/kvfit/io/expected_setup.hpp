// SPDX-License-Identifier: MIT
/// What the reader of a state or a result asks of it: the rule and the model that it was made for.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/attention/rope.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/attention_rule_check.hpp"
#include "kvfit/io/shown_name.hpp"

namespace kvfit {

/// Most bytes of a model's fingerprint: the 64 digits of a SHA-256 fit.
inline constexpr std::size_t max_fingerprint = 64;

/// What is asked of one layer, or of every one. What is not given is not asked.
struct expected_attention {
  std::optional<index_t> layer = {};  ///< its number; none: every layer of the file
  /// All of scale (by default 1/√d_k), soft cap, causality and window.
  std::optional<logit_rule> logits = {};
  std::optional<std::vector<float>> sink_logits = {};   ///< empty: there must be no sinks
  std::optional<std::vector<float>> alibi_slopes = {};  ///< empty: there must be no ALiBi
  std::optional<rope> rotation = {};
};

/// What a file is compared with as it is read; by default nothing.
struct expected_setup {
  std::optional<std::string> fingerprint = {};  ///< of the model
  std::vector<expected_attention> layers = {};
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// `invalid_option` for a fingerprint that is longer than `max_fingerprint`, or no printable ASCII.
inline result<void> check_fingerprint(std::string_view text) {
  if (text.size() > max_fingerprint) {
    return error{errc::invalid_option, "fingerprint", static_cast<index_t>(text.size()),
                 static_cast<index_t>(max_fingerprint), "bytes"};
  }
  const auto bad =
      std::find_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; });
  if (bad == text.end()) return {};
  return error{errc::invalid_option, "fingerprint", bad - text.begin(), error::none,
               "no printable ASCII at this byte"};
}

/// What a file says of one layer.
struct said_of_layer {
  index_t number = 0;
  index_t depth = 0;                     ///< numbers of a key
  const attention_rule* rule = nullptr;  ///< null: the file says nothing
};

/// Numbers that went through other types or another order of operations are the same.
inline bool is_same(double a, double b) noexcept {
  const double largest = (std::max)(std::abs(a), std::abs(b));
  return a == b || (std::isfinite(largest) && std::abs(a - b) <= 1e-6 * largest);
}

/// Compares what a file says of one layer with what is asked; the first difference is kept.
class rule_comparison {
 public:
  explicit rule_comparison(index_t layer) : layer_(layer) {}

  [[nodiscard]] const std::optional<error>& difference() const noexcept { return difference_; }

  void compare(const char* field, const std::string& is, const std::string& expected) {
    if (difference_ || is == expected) return;
    difference_ = error{errc::unsupported_file, name_of(field), error::none, error::none,
                        "is " + is + ", expected " + expected};
  }
  void compare(const char* field, double is, double expected) {
    if (is_same(is, expected)) return;
    compare(field, print(is), print(expected));
  }
  void compare(const char* field, index_t is, index_t expected) {
    compare(field, std::to_string(is), std::to_string(expected));
  }
  void compare(const char* field, bool is, bool expected) {
    compare(field, std::string(is ? "true" : "false"), std::string(expected ? "true" : "false"));
  }
  void compare(const char* field, const std::vector<float>& is,
               const std::vector<float>& expected) {
    const auto heads = [](std::size_t count) { return std::to_string(count) + " query heads'"; };
    if (is.size() != expected.size())
      return compare(field, heads(is.size()), heads(expected.size()));
    for (std::size_t h = 0; h < is.size(); ++h) {
      const std::string of = std::string(field) + " of query head " + std::to_string(h);
      compare(of.c_str(), static_cast<double>(is[h]), static_cast<double>(expected[h]));
    }
  }
  void compare(const std::vector<double>& is, const std::vector<double>& expected) {
    constexpr const char* field = "rope.scaling.frequencies";
    if (is.size() != expected.size()) {
      return compare(field, std::to_string(is.size()), std::to_string(expected.size()));
    }
    for (std::size_t i = 0; i < is.size(); ++i) compare(field, is[i], expected[i]);
  }
  void refuse_silence(const char* field) {
    if (difference_) return;
    difference_ = error{errc::missing_entry, name_of(field), error::none, error::none,
                        "was asked for, and the file does not say"};
  }

 private:
  [[nodiscard]] std::string name_of(const char* field) const {
    return "layer " + std::to_string(layer_) + " " + field;
  }
  static std::string print(double x) {
    if (std::isnan(x)) return "nan";
    if (!std::isfinite(x)) return x > 0 ? "infinity" : "-infinity";
    std::array<char, 32> text{};
    const int length = std::snprintf(text.data(), text.size(), "%.9g", x);
    return {text.data(), static_cast<std::size_t>(length)};
  }

  index_t layer_;
  std::optional<error> difference_;
};

inline void compare_scaling(const any_rope_scaling& is, const any_rope_scaling& expected,
                            rule_comparison& by) {
  constexpr std::array<const char*, 5> names = {"none", "linear", "yarn", "llama3", "given"};
  by.compare("rope.scaling", std::string(names[is.index()]), std::string(names[expected.index()]));
  if (is.index() != expected.index()) return;
  if (const auto* a = std::get_if<rope_scaling::linear>(&is)) {
    by.compare("rope.scaling.factor", a->factor, std::get<rope_scaling::linear>(expected).factor);
  } else if (const auto* c = std::get_if<rope_scaling::yarn>(&is)) {
    const auto& d = std::get<rope_scaling::yarn>(expected);
    by.compare("rope.scaling.factor", c->factor, d.factor);
    by.compare("rope.scaling.original_positions", c->original_positions, d.original_positions);
    by.compare("rope.scaling.fast", c->fast, d.fast);
    by.compare("rope.scaling.slow", c->slow, d.slow);
    by.compare("rope.scaling.rounds", c->rounds, d.rounds);
  } else if (const auto* e = std::get_if<rope_scaling::llama3>(&is)) {
    const auto& f = std::get<rope_scaling::llama3>(expected);
    by.compare("rope.scaling.factor", e->factor, f.factor);
    by.compare("rope.scaling.original_positions", e->original_positions, f.original_positions);
    by.compare("rope.scaling.low", e->low, f.low);
    by.compare("rope.scaling.high", e->high, f.high);
  } else if (const auto* g = std::get_if<rope_scaling::given>(&is)) {
    by.compare(g->frequencies, std::get<rope_scaling::given>(expected).frequencies);
  }
}

inline void compare_rotation(const rope& is, const rope& expected, index_t depth,
                             rule_comparison& by) {
  const auto pairing = [](const rope& of) {
    return std::string(of.pairing == rope_pairing::half_split ? "half-split" : "interleaved");
  };
  const auto dims = [depth](const rope& of) { return of.dims == 0 ? depth : of.dims; };
  by.compare("rope.base", is.base, expected.base);
  by.compare("rope.dims", dims(is), dims(expected));
  by.compare("rope.pairing", pairing(is), pairing(expected));
  compare_scaling(is.scaling, expected.scaling, by);
}

/// One layer against what is asked of it.
inline result<void> hold_layer(const said_of_layer& said, const expected_attention& asked) {
  rule_comparison by(said.number);
  const attention_rule* const rule = said.rule;
  if (asked.logits) {
    if (rule == nullptr) {
      by.refuse_silence("scale");
    } else {
      by.compare("scale", static_cast<double>(scale_of(rule->logits, said.depth)),
                 static_cast<double>(scale_of(*asked.logits, said.depth)));
      by.compare("soft_cap", static_cast<double>(rule->logits.soft_cap),
                 static_cast<double>(asked.logits->soft_cap));
      by.compare("causal", rule->logits.causal, asked.logits->causal);
      by.compare("window", rule->logits.window, asked.logits->window);
    }
  }
  if (asked.sink_logits) {
    if (rule == nullptr) {
      by.refuse_silence("sink_logits");
    } else {
      by.compare("sink_logits", rule->sink_logits, *asked.sink_logits);
    }
  }
  if (asked.alibi_slopes) {
    if (rule == nullptr) {
      by.refuse_silence("alibi_slopes");
    } else {
      by.compare("alibi_slopes", rule->alibi_slopes, *asked.alibi_slopes);
    }
  }
  if (asked.rotation) {
    if (rule == nullptr || !rule->rotation) {
      by.refuse_silence("rope");
    } else {
      compare_rotation(*rule->rotation, *asked.rotation, said.depth, by);
    }
  }
  if (by.difference()) return *by.difference();
  return {};
}

/// What a file says against what is asked of it. `unsupported_file` naming the field that differs,
/// with both values; `missing_entry` for what the file does not say, or a layer that it lacks.
inline result<void> check_against(std::string_view fingerprint, std::span<const said_of_layer> said,
                                  const expected_setup& expected) {
  if (expected.fingerprint && *expected.fingerprint != fingerprint) {
    if (fingerprint.empty()) {
      return error{errc::missing_entry, "fingerprint", error::none, error::none,
                   "the file has none, expected " + shown_name(*expected.fingerprint)};
    }
    return error{
        errc::unsupported_file, "fingerprint", error::none, error::none,
        "is " + shown_name(fingerprint) + ", expected " + shown_name(*expected.fingerprint)};
  }
  for (const expected_attention& asked : expected.layers) {
    bool is_there = !asked.layer;
    for (const said_of_layer& layer : said) {
      if (asked.layer && *asked.layer != layer.number) continue;
      is_there = true;
      if (auto ok = hold_layer(layer, asked); !ok) return ok;
    }
    if (is_there) continue;
    return error{errc::missing_entry, "layer " + std::to_string(*asked.layer), error::none,
                 error::none, "was asked for, and the file has no such layer"};
  }
  return {};
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
