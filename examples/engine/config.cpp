// SPDX-License-Identifier: MIT
#include "engine/config.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "engine/files.hpp"
#include "engine/json.hpp"

namespace llama {

namespace {

using kvfit::errc;
using kvfit::error;
using nlohmann::json;

/// Rotations are held for every position, a cosine and a sine for each pair: 1 GB at most.
constexpr index_t most_rotated = index_t{1} << 28;

bool is_fp32_normal(double x) {
  return std::isnormal(static_cast<float>(x));
}

bool is_text_among(const json& value, std::initializer_list<const char*> texts) {
  return std::any_of(texts.begin(), texts.end(), [&](const char* text) { return value == text; });
}

/// An entry that has no part in what the model computes, as long as its value is allowed.
struct idle_entry {
  const char* name;
  const char* allowed;  ///< for the error
  bool (*is_allowed)(const json& value);
};

/// The entries of a Llama's config.json beside those that are read. docs/formats.md lists them.
constexpr idle_entry idle_entries[] = {
    {"architectures", "[\"LlamaForCausalLM\"]",
     [](const json& value) { return value == json::array({"LlamaForCausalLM"}); }},
    {"hidden_act", "\"silu\"", [](const json& value) { return value == "silu"; }},
    {"attention_bias", "false", [](const json& value) { return value == false; }},
    {"mlp_bias", "false", [](const json& value) { return value == false; }},
    {"sliding_window", "null", [](const json& value) { return value.is_null(); }},
    {"quantization_config", "null", [](const json& value) { return value.is_null(); }},
    {"partial_rotary_factor", "1", [](const json& value) { return value == 1; }},
    {"pretraining_tp", "1", [](const json& value) { return value == 1; }},
    // Of training alone.
    {"attention_dropout", "a number from 0 to 1",
     [](const json& value) { return value.is_number() && value >= 0 && value <= 1; }},
    {"initializer_range", "a number of at least 0",
     [](const json& value) { return value.is_number() && value >= 0; }},
    // Tensors say their types themselves.
    {"torch_dtype", "\"float32\", \"float16\" or \"bfloat16\"",
     [](const json& value) {
       return is_text_among(value, {"float32", "float16", "bfloat16"});
     }},
    {"dtype", "\"float32\", \"float16\" or \"bfloat16\"",
     [](const json& value) {
       return is_text_among(value, {"float32", "float16", "bfloat16"});
     }},
    // Nothing is padded, and a cache is always used.
    {"pad_token_id", "null or an integer",
     [](const json& value) { return value.is_null() || value.is_number_integer(); }},
    {"use_cache", "true or false", [](const json& value) { return value.is_boolean(); }},
    {"transformers_version", "a text", [](const json& value) { return value.is_string(); }},
    {"_name_or_path", "a text", [](const json& value) { return value.is_string(); }},
};

/// The fields of one JSON object, read one after the other; the first mistake is kept.
class field_reader {
 public:
  field_reader(const json& object, std::string file) : object_(object), file_(std::move(file)) {}

  void size(const char* name, index_t& to, index_t least, index_t most) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_number_integer()) return refuse_value(errc::missing_entry, name, "an integer");
    // An unsigned number beyond 63 bits would wrap.
    if (field->is_number_unsigned() && field->get<std::uint64_t>() > std::uint64_t{1} << 62U) {
      return refuse_value(errc::invalid_option, name, "at most " + std::to_string(most));
    }
    to = field->get<index_t>();
    if (to < least || to > most) {
      if (!cause_) cause_ = error{errc::invalid_option, name, to, to < least ? least : most, file_};
    }
  }

  void positive(const char* name, double& to) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_number()) return refuse_value(errc::missing_entry, name, "a number");
    to = field->get<double>();
    if (!(to > 0)) return refuse_value(errc::invalid_option, name, "above 0");
    if (!is_fp32_normal(to)) refuse_value(errc::invalid_option, name, "a normal number in fp32");
  }

  void flag(const char* name, bool& to) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_boolean()) return refuse_value(errc::missing_entry, name, "true or false");
    to = field->get<bool>();
  }

  void text(const char* name, std::string& to) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_string()) return refuse_value(errc::missing_entry, name, "a text");
    to = field->get<std::string>();
  }

  /// null, or the type that changes nothing and no more.
  void no_scaling(const char* name) {
    const auto found = object_.find(name);
    if (found == object_.end()) return;
    seen_.insert(name);
    if (found->is_null()) return;
    if (!found->is_object() || found->empty()) {
      return refuse_value(errc::unsupported_file, name, "null or of rope_type \"default\"");
    }
    const auto is_type = [](const std::string& key) { return key == "rope_type" || key == "type"; };
    for (const bool of_types : {true, false}) {  // the type first: the rest depends on it
      for (const auto& [key, value] : found->items()) {
        if (is_type(key) != of_types || (of_types && value == "default")) continue;
        const std::string place = std::string(name) + "." + key;
        refuse(errc::unsupported_file, place,
               "is " + shown(value) + "; " +
                   (of_types ? "only \"default\" is handled" : "\"default\" has no such entry"));
      }
    }
  }

  /// Whatever has not been read by now must mean nothing.
  void refuse_rest() {
    for (const auto& [name, value] : object_.items()) {
      if (seen_.count(name) != 0) continue;
      const auto* const known =
          std::find_if(std::begin(idle_entries), std::end(idle_entries),
                       [&, &key = name](const idle_entry& entry) { return entry.name == key; });
      if (known == std::end(idle_entries)) {
        refuse(errc::unsupported_file, name, "no entry that is handled");
      } else if (!known->is_allowed(value)) {
        refuse_value(errc::unsupported_file, known->name, known->allowed);
      }
    }
  }

  void refuse(errc code, const std::string& name, const std::string& why) {
    if (!cause_) cause_ = error{code, name, error::none, error::none, why + "; " + file_};
  }

  [[nodiscard]] const std::optional<error>& cause() const { return cause_; }

 private:
  /// A value for an error, not all of it where it is long.
  static std::string shown(const json& value) {
    constexpr std::size_t most = 60;
    std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    if (text.size() > most) text = text.substr(0, most) + "…";
    return text;
  }

  void refuse_value(errc code, const char* name, const std::string& allowed) {
    refuse(code, name, "is " + shown(object_.at(name)) + ", must be " + allowed);
  }

  const json* find(const char* name) {
    seen_.insert(name);
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    refuse(errc::missing_entry, name, "is not there");
    return nullptr;
  }

  const json& object_;
  std::string file_;
  std::set<std::string> seen_;
  std::optional<error> cause_;
};

}  // namespace

result<config> read_config(const std::filesystem::path& path) {
  const auto text = read_text(path);
  if (!text) return text.error();
  const auto parsed = parse_json(*text, path.string());
  if (!parsed) return parsed.error();
  const json& object = *parsed;
  if (!object.is_object()) {
    return error{errc::malformed_file, path.string(), error::none, error::none, "no JSON object"};
  }
  constexpr index_t most = index_t{1} << 16;
  constexpr index_t most_tokens = index_t{1} << 20;
  config made;
  std::string type;
  bool is_tied = false;
  field_reader read(object, path.string());
  read.text("model_type", type);
  read.size("vocab_size", made.vocab_size, 1, most_tokens);
  read.size("hidden_size", made.hidden_size, 1, most);
  read.size("intermediate_size", made.intermediate_size, 1, most);
  read.size("num_hidden_layers", made.num_hidden_layers, 1, most);
  read.size("num_attention_heads", made.num_attention_heads, 1, most);
  read.size("num_key_value_heads", made.num_key_value_heads, 1, most);
  read.size("head_dim", made.head_dim, 2, most);
  read.size("max_position_embeddings", made.max_position_embeddings, 1, most_tokens);
  read.positive("rope_theta", made.rope_theta);
  read.flag("rope_interleaved", made.rope_interleaved);
  read.positive("rms_norm_eps", made.rms_norm_eps);
  read.size("bos_token_id", made.bos_token_id, 0, made.vocab_size - 1);
  read.size("eos_token_id", made.eos_token_id, 0, made.vocab_size - 1);
  read.flag("tie_word_embeddings", is_tied);
  if (read.cause()) return *read.cause();
  if (type != "llama") {
    read.refuse(errc::unsupported_file, "model_type", "is \"" + type + "\"; only llama is handled");
  }
  if (!is_tied) {
    read.refuse(errc::unsupported_file, "tie_word_embeddings", "only tied embeddings are handled");
  }
  read.no_scaling("rope_scaling");
  read.refuse_rest();
  if (read.cause()) return *read.cause();
  if (made.head_dim % 2 != 0) {
    return error{errc::invalid_option, "head_dim", made.head_dim, error::none,
                 "must be even; " + path.string()};
  }
  if (made.num_attention_heads % made.num_key_value_heads != 0) {
    return error{errc::invalid_option, "num_key_value_heads", made.num_key_value_heads, error::none,
                 "must divide num_attention_heads, " + std::to_string(made.num_attention_heads) +
                     "; " + path.string()};
  }
  if (made.max_position_embeddings > most_rotated / made.head_dim) {
    return error{errc::invalid_option, "max_position_embeddings", made.max_position_embeddings,
                 most_rotated / made.head_dim, "for heads of this size; " + path.string()};
  }
  return made;
}

}  // namespace llama
