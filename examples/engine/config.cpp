// SPDX-License-Identifier: MIT
#include "engine/config.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "engine/files.hpp"

namespace llama {

namespace {

using kvfit::errc;
using kvfit::error;
using nlohmann::json;

/// The fields of one JSON object, read one after the other; the first mistake is kept.
class field_reader {
 public:
  field_reader(const json& object, std::string file) : object_(object), file_(std::move(file)) {}

  void size(const char* name, index_t& to, index_t least, index_t most) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_number_integer()) return refuse(errc::missing_entry, name, "must be an integer");
    // Unsigned numbers beyond 63 bits would wrap.
    to = field->is_number_unsigned() && field->get<std::uint64_t>() > std::uint64_t{1} << 62
             ? index_t{1} << 62
             : field->get<index_t>();
    if (to < least || to > most) {
      if (!cause_) cause_ = error{errc::invalid_option, name, to, to < least ? least : most, file_};
    }
  }

  void positive(const char* name, double& to) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_number()) return refuse(errc::missing_entry, name, "must be a number");
    to = field->get<double>();
    if (!(to > 0 && std::isfinite(to))) refuse(errc::invalid_option, name, "must be above 0");
  }

  void flag(const char* name, bool& to) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_boolean()) return refuse(errc::missing_entry, name, "must be true or false");
    to = field->get<bool>();
  }

  void text(const char* name, std::string& to) {
    const json* const field = find(name);
    if (field == nullptr) return;
    if (!field->is_string()) return refuse(errc::missing_entry, name, "must be a text");
    to = field->get<std::string>();
  }

  void refuse(errc code, const std::string& name, const std::string& why) {
    if (!cause_) cause_ = error{code, name, error::none, error::none, why + "; " + file_};
  }

  [[nodiscard]] const std::optional<error>& cause() const { return cause_; }

 private:
  const json* find(const char* name) {
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    refuse(errc::missing_entry, name, "is not there");
    return nullptr;
  }

  const json& object_;
  std::string file_;
  std::optional<error> cause_;
};

}  // namespace

result<config> read_config(const std::filesystem::path& path) {
  const auto text = read_text(path);
  if (!text) return text.error();
  const json object = json::parse(*text, nullptr, false);
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
  if (type != "llama") read.refuse(errc::unsupported_file, "model_type", "only llama is handled");
  if (!is_tied) {
    read.refuse(errc::unsupported_file, "tie_word_embeddings", "only tied embeddings are handled");
  }
  if (made.head_dim % 2 != 0) read.refuse(errc::invalid_option, "head_dim", "must be even");
  if (made.num_attention_heads % made.num_key_value_heads != 0) {
    read.refuse(errc::invalid_option, "num_key_value_heads", "must divide num_attention_heads");
  }
  if (read.cause()) return *read.cause();
  return made;
}

}  // namespace llama
