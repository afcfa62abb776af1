// SPDX-License-Identifier: MIT
/// The rule of attention in captures and results: entries of the metadata, which hold for all
/// layers or for one, and tensors with a number a query head (docs/formats.md).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/attention_rule_check.hpp"
#include "kvfit/io/expected_setup.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/rope_text.hpp"
#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Entries that may be said once for all layers, or of one: `layers.3.window`.
inline constexpr std::array<std::string_view, 5> layer_entries = {"scale", "soft_cap", "causal",
                                                                  "window", "rope"};

/// Entries that mean something in one version and nothing in another.
inline constexpr std::array<std::string_view, 3> later_entries = {"next_position", "logical_length",
                                                                  "fingerprint"};

/// Whether the name of an entry or tensor that no schema knows tells of what makes logits. "cap" is
/// searched for as a word or the end of one, or every "capture" would be refused.
inline bool tells_of_attention(std::string_view full) {
  std::string text;
  for (const char c : full) text += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const std::string_view word :
       {"sink", "alibi", "window", "slope", "scale", "scaling", "scalar", "causal", "mask", "bias",
        "attn", "attention", "softcap", "logitcap", "rope_", "_rope", "mrope", "rotary"}) {
    if (text.find(word) != std::string::npos) return true;
  }
  constexpr std::string_view other_words = "taeiro";  // capture, capacity, escape, ...
  for (std::size_t at = text.find("cap"); at != std::string::npos; at = text.find("cap", at + 1)) {
    // The next capital begins a word behind a small letter alone: softCapValue, not CAPTURE.
    const bool is_end =
        at + 3 == text.size() || (text[at + 3] != full[at + 3] && text[at + 2] == full[at + 2]);
    if (is_end || other_words.find(text[at + 3]) == std::string_view::npos) return true;
  }
  return false;
}

/// Refuses metadata and tensors that neither the schema knows nor may be passed over: whatever
/// tells of attention, and from version 2 on whatever else is said of a layer.
inline result<void> refuse_unknown(const safetensors_file& file, index_t version,
                                   std::span<const std::string_view> known,
                                   const std::map<index_t, layer_parts>& layers) {
  constexpr std::string_view prefix = "layers.";
  const auto refuse = [](const std::string& what, const char* why) {
    return error{errc::unsupported_file, what, error::none, error::none, why};
  };
  constexpr const char* tells =
      "its name tells of attention, and this version knows no such entry; nothing that may change "
      "logits is passed over";
  for (const auto& [key, value] : file.metadata) {
    const std::string_view full = key;
    if (full.starts_with(prefix)) {
      const std::string_view rest = full.substr(prefix.size());
      const std::size_t point = rest.find('.');
      const auto number = parse_index(rest.substr(0, point));
      const std::string_view part =
          point == std::string_view::npos ? std::string_view() : rest.substr(point + 1);
      if (std::find(layer_entries.begin(), layer_entries.end(), part) != layer_entries.end()) {
        if (std::find(known.begin(), known.end(), "soft_cap") == known.end()) {
          return refuse(key, "this version knows no rule of a layer");
        }
        if (number && layers.contains(*number)) continue;
        return refuse(key, "the file has no such layer");
      }
      if (version > 1) return refuse(key, "this version knows no such entry of a layer");
    } else if (std::find(known.begin(), known.end(), full) != known.end()) {
      continue;
    }
    if (std::find(later_entries.begin(), later_entries.end(), full) != later_entries.end()) {
      return refuse(key, "is an entry of another version");
    }
    if (tells_of_attention(full)) return refuse(key, tells);
  }
  for (const tensor_view& tensor : file.tensors) {
    if (tensor.name.starts_with(prefix) || !tells_of_attention(tensor.name)) continue;
    return refuse(tensor.name, tells);
  }
  return {};
}

/// An entry of the metadata, with the name under which it stands.
struct found_entry {
  std::string name;
  const std::string* text = nullptr;  ///< null: none
};

/// What is said of the layer itself, or else of all.
inline found_entry find_entry(const safetensors_file& file, index_t layer, std::string_view key) {
  const std::string own = part_name(layer, key);
  if (const auto found = file.metadata.find(own); found != file.metadata.end()) {
    return {own, &found->second};
  }
  const auto found = file.metadata.find(key);
  if (found == file.metadata.end()) return {std::string(key), nullptr};
  return {std::string(key), &found->second};
}

inline error malformed_entry(const found_entry& entry, const char* expected) {
  return {errc::malformed_file, entry.name, error::none, error::none,
          "metadata must be " + std::string(expected) + ", is " + shown_name(*entry.text)};
}

inline error malformed_rope(const found_entry& entry) {
  return malformed_entry(entry, "a rotation in the words of docs/formats.md");
}

/// Scale, soft cap, causality and window of a layer.
inline result<logit_rule> read_logit_rule(const safetensors_file& file, index_t layer) {
  logit_rule rule;
  const found_entry scale = find_entry(file, layer, "scale");
  if (scale.text == nullptr) return missing_metadata("scale");
  rule.scale = parse_positive_float(*scale.text);
  if (!rule.scale)
    return malformed_entry(scale, "a JSON number that is positive and normal in fp32");
  if (const found_entry cap = find_entry(file, layer, "soft_cap"); cap.text != nullptr) {
    const auto number = *cap.text == "0" ? std::optional(0.0F) : parse_positive_float(*cap.text);
    if (!number)
      return malformed_entry(cap,
                             "a JSON number that is positive and normal in fp32, or 0 for none");
    rule.soft_cap = *number;
  }
  if (const found_entry causal = find_entry(file, layer, "causal"); causal.text != nullptr) {
    rule.causal = *causal.text == "true";
    if (!rule.causal && *causal.text != "false") return malformed_entry(causal, "true or false");
  }
  if (const found_entry window = find_entry(file, layer, "window"); window.text != nullptr) {
    const auto number = parse_index(*window.text);
    if (!number) return malformed_entry(window, "a number of positions, or 0 for none");
    rule.window = *number;
  }
  return rule;
}

/// What is said of all layers must be readable even where each layer says something else.
inline result<void> check_common_rule(const safetensors_file& file, index_t version) {
  constexpr index_t no_layer = -1;
  if (auto ok = read_logit_rule(file, no_layer); !ok) return ok.error();
  const found_entry text = find_entry(file, no_layer, "rope");
  if (version == 1 || text.text == nullptr || parse_rope(*text.text)) return {};
  return malformed_rope(text);
}

/// A tensor of a number a query head, or nothing where the layer has none.
inline result<std::vector<float>> read_head_numbers(index_t layer, const layer_parts& parts,
                                                    std::string_view part) {
  std::vector<float> numbers;
  if (!parts.contains(part)) return numbers;
  const auto found = need_part(layer, parts, part, 1);
  if (!found) return found.error();
  const tensor_view& tensor = **found;
  if (auto ok = check_numbers(tensor); !ok) return ok.error();
  if (auto ok = check_not_empty(tensor); !ok) return ok.error();
  numbers.resize(static_cast<std::size_t>(tensor.shape[0]));
  load_row(rows_of(tensor, 0, 1), 0, numbers.data());
  return numbers;
}

/// The rule of a layer of `kv_heads` heads whose keys have `depth` numbers. What is out of range is
/// named by its entry or tensor.
inline result<attention_rule> read_attention(const safetensors_file& file, index_t version,
                                             index_t layer, const layer_parts& parts,
                                             index_t kv_heads, index_t depth) {
  attention_rule rule;
  auto logits = read_logit_rule(file, layer);
  if (!logits) return logits.error();
  rule.logits = *logits;
  auto sinks = read_head_numbers(layer, parts, "sinks");
  if (!sinks) return sinks.error();
  rule.sink_logits = std::move(*sinks);
  auto slopes = read_head_numbers(layer, parts, "alibi_slopes");
  if (!slopes) return slopes.error();
  rule.alibi_slopes = std::move(*slopes);
  if (const found_entry text = find_entry(file, layer, "rope"); text.text != nullptr) {
    rule.rotation = parse_rope(*text.text);
    if (version > 1 && !rule.rotation) return malformed_rope(text);
  }
  if (auto ok = check_attention_rule(rule, kv_heads, depth); !ok) {
    error cause = ok.error();
    if (cause.argument == "sink_logits") cause.argument = part_name(layer, "sinks");
    if (cause.argument == "alibi_slopes") cause.argument = part_name(layer, "alibi_slopes");
    if (cause.code == errc::non_finite) {
      cause.detail = "not finite at head " + std::to_string(cause.actual);
      cause = {errc::malformed_file, cause.argument, error::none, error::none, cause.detail};
    }
    if (cause.argument.starts_with("rope.")) {
      if (version == 1) return rule;  // read as ever: `compact` refuses it where it is used
      cause.detail = find_entry(file, layer, "rope").name + ": " + cause.detail;
    }
    return cause;
  }
  return rule;
}

/// A tensor of whole numbers, I32 or I64, or nothing where the layer has none: one number a row of
/// what `meaning` says, each within ±2⁵³.
inline result<std::vector<index_t>> read_positions(index_t layer, const layer_parts& parts,
                                                   std::string_view part, index_t rows,
                                                   const char* meaning) {
  std::vector<index_t> numbers;
  if (!parts.contains(part)) return numbers;
  const auto found = need_part(layer, parts, part, 1);
  if (!found) return found.error();
  const tensor_view& tensor = **found;
  if (tensor.type != tensor_type::i32 && tensor.type != tensor_type::i64) {
    return error{errc::unsupported_file, tensor.name, error::none, error::none,
                 "is " + std::string(name(tensor.type)) + ", expected I32 or I64"};
  }
  if (auto ok = check_size(tensor, 0, rows, meaning); !ok) return ok.error();
  numbers.resize(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    constexpr std::int64_t largest = std::int64_t{1} << 53U;
    const std::int64_t at =
        tensor.type == tensor_type::i32
            ? std::int64_t{reinterpret_cast<const std::int32_t*>(tensor.bytes.data())[i]}
            : reinterpret_cast<const std::int64_t*>(tensor.bytes.data())[i];
    if (at < -largest || at > largest) {
      return error{errc::malformed_file, tensor.name, error::none, error::none,
                   "row " + std::to_string(i) + " is " + std::to_string(at) +
                       ": positions are within 53 bits"};
    }
    numbers[i] = static_cast<index_t>(at);
  }
  return numbers;
}

/// The entry `next_position`, or what earlier files call `logical_length`; nothing where neither is
/// there. `malformed_file` where they differ.
inline result<std::optional<index_t>> read_next_position(const safetensors_file& file) {
  std::optional<index_t> next;
  for (const char* const key : {"next_position", "logical_length"}) {
    if (file.metadata.find(key) == file.metadata.end()) continue;
    const auto number = need_index(file, key);
    if (!number) return number.error();
    constexpr index_t largest = index_t{1} << 53U;
    if (*number > largest) {
      return error{errc::malformed_file, key, *number, largest, "positions are within 53 bits"};
    }
    if (next && *next != *number) {
      return error{errc::malformed_file, key, *number, *next, "differs from next_position"};
    }
    next = *number;
  }
  return next;
}

/// The entry `fingerprint`, or nothing.
inline result<std::string> read_fingerprint(const safetensors_file& file) {
  const auto found = file.metadata.find("fingerprint");
  if (found == file.metadata.end()) return std::string();
  if (auto ok = check_fingerprint(found->second); !ok) {
    return error{errc::malformed_file, "fingerprint", error::none, error::none,
                 "must be printable ASCII of at most " + std::to_string(max_fingerprint) +
                     " bytes, is " + shown_name(found->second)};
  }
  return found->second;
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
