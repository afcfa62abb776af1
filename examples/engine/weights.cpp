// SPDX-License-Identifier: MIT
#include "engine/weights.hpp"

#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "kvfit/io/safetensors.hpp"
#include "kvfit/view/row_view.hpp"

namespace llama {

namespace {

using kvfit::errc;
using kvfit::error;

/// Tensors of one file, one after the other; the first mistake is kept.
class tensor_reader {
 public:
  tensor_reader(const kvfit::safetensors_file& file, std::string path)
      : file_(file), path_(std::move(path)) {}

  void read(const std::string& name, index_t rows, index_t cols, matrix& to) {
    if (cause_) return;
    const kvfit::tensor_view* const found = find(name, {rows, cols});
    if (found != nullptr) to = numbers(*found, rows, cols);
  }

  void read(const std::string& name, index_t size, vector& to) {
    if (cause_) return;
    const kvfit::tensor_view* const found = find(name, {size});
    if (found != nullptr) to = numbers(*found, 1, size).transpose();
  }

  /// A tensor that nobody has read would have a part in what the model computes.
  void refuse_rest() {
    for (const kvfit::tensor_view& tensor : file_.tensors) {
      if (cause_) return;
      if (read_.count(tensor.name) != 0) continue;
      cause_ = error{errc::unsupported_file, tensor.name, error::none, error::none,
                     "no tensor that is handled; " + path_};
    }
  }

  [[nodiscard]] const std::optional<error>& cause() const { return cause_; }

 private:
  const kvfit::tensor_view* find(const std::string& name, const std::vector<index_t>& shape) {
    read_.insert(name);
    const kvfit::tensor_view* const found = kvfit::find_tensor(file_, name);
    if (found == nullptr) {
      cause_ = error{errc::missing_entry, name, error::none, error::none, path_};
    } else if (!kvfit::dtype_of_tensor(found->type)) {
      cause_ = error{errc::unsupported_file, name, error::none, error::none,
                     "type " + std::string(kvfit::name(found->type)) + "; " + path_};
    } else if (found->shape.size() != shape.size()) {
      cause_ = error{errc::shape_mismatch, name, static_cast<index_t>(found->shape.size()),
                     static_cast<index_t>(shape.size()), "dimensions; " + path_};
    } else {
      for (std::size_t d = 0; d < shape.size(); ++d) {
        if (found->shape[d] == shape[d]) continue;
        cause_ = error{errc::shape_mismatch, name, found->shape[d], shape[d],
                       "dimension " + std::to_string(d) + "; " + path_};
        break;
      }
    }
    return cause_ ? nullptr : found;
  }

  matrix numbers(const kvfit::tensor_view& tensor, index_t rows, index_t cols) {
    const kvfit::row_view stored(tensor.bytes.data(), *kvfit::dtype_of_tensor(tensor.type), rows,
                                 cols, cols);
    matrix decoded(rows, cols);
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < cols; ++j) {
        decoded(i, j) = stored(i, j);
        if (std::isfinite(decoded(i, j)) || cause_) continue;
        cause_ = error{errc::non_finite, tensor.name, i, j, path_};
      }
    }
    return decoded;
  }

  const kvfit::safetensors_file& file_;
  std::string path_;
  std::set<std::string> read_;
  std::optional<error> cause_;
};

/// What a metadata entry says, where it is of this form.
std::optional<double> number_in(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') return std::nullopt;
  return number;
}

/// Metadata says nothing (`format`), or what the configuration says.
std::optional<error> check_metadata(const kvfit::tensor_metadata& metadata, const config& sizes,
                                    const std::string& path) {
  const std::map<std::string, double> numbers = {
      {"vocab", static_cast<double>(sizes.vocab_size)},
      {"hidden", static_cast<double>(sizes.hidden_size)},
      {"layers", static_cast<double>(sizes.num_hidden_layers)},
      {"heads", static_cast<double>(sizes.num_attention_heads)},
      {"kv_heads", static_cast<double>(sizes.num_key_value_heads)},
      {"head_dim", static_cast<double>(sizes.head_dim)},
      {"ffn", static_cast<double>(sizes.intermediate_size)},
      {"context", static_cast<double>(sizes.max_position_embeddings)},
      {"bos", static_cast<double>(sizes.bos_token_id)},
      {"eos", static_cast<double>(sizes.eos_token_id)},
      {"rope_theta", sizes.rope_theta},
      {"rms_eps", sizes.rms_norm_eps}};
  const std::map<std::string, std::string> texts = {
      {"format", "pt"},
      {"arch", "llama"},
      {"rope", sizes.rope_interleaved ? "interleaved" : "half-split"},
      {"tied_embeddings", "True"}};
  for (const auto& [name, text] : metadata) {
    const auto refuse = [&, &entry = name](const std::string& why) {
      return error{errc::unsupported_file, "metadata '" + entry + "'", error::none, error::none,
                   why + "; " + path};
    };
    if (const auto number = numbers.find(name); number != numbers.end()) {
      if (number_in(text) == number->second) continue;
      return refuse("is '" + text + "', at odds with config.json");
    }
    const auto expected = texts.find(name);
    if (expected == texts.end()) return refuse("no entry that is handled");
    if (text != expected->second) {
      return refuse("is '" + text + "', must be '" + expected->second + "'");
    }
  }
  return std::nullopt;
}

}  // namespace

result<weights> read_weights(const std::filesystem::path& path, const config& sizes) {
  const auto file = kvfit::read_safetensors(path);
  if (!file) return file.error();
  const index_t hidden = sizes.hidden_size;
  const index_t query_width = sizes.num_attention_heads * sizes.head_dim;
  const index_t key_width = sizes.num_key_value_heads * sizes.head_dim;
  tensor_reader reader(*file, path.string());
  weights made;
  reader.read("model.embed_tokens.weight", sizes.vocab_size, hidden, made.embed_tokens);
  reader.read("model.norm.weight", hidden, made.norm);
  for (index_t l = 0; l < sizes.num_hidden_layers && !reader.cause(); ++l) {
    const std::string at = "model.layers." + std::to_string(l) + ".";
    layer_weights& layer = made.layers.emplace_back();
    reader.read(at + "input_layernorm.weight", hidden, layer.input_layernorm);
    reader.read(at + "self_attn.q_proj.weight", query_width, hidden, layer.q_proj);
    reader.read(at + "self_attn.k_proj.weight", key_width, hidden, layer.k_proj);
    reader.read(at + "self_attn.v_proj.weight", key_width, hidden, layer.v_proj);
    reader.read(at + "self_attn.o_proj.weight", hidden, query_width, layer.o_proj);
    reader.read(at + "post_attention_layernorm.weight", hidden, layer.post_attention_layernorm);
    reader.read(at + "mlp.gate_proj.weight", sizes.intermediate_size, hidden, layer.gate_proj);
    reader.read(at + "mlp.up_proj.weight", sizes.intermediate_size, hidden, layer.up_proj);
    reader.read(at + "mlp.down_proj.weight", hidden, sizes.intermediate_size, layer.down_proj);
  }
  reader.refuse_rest();
  if (reader.cause()) return *reader.cause();
  if (const auto cause = check_metadata(file->metadata, sizes, path.string())) return *cause;
  return made;
}

}  // namespace llama
