// SPDX-License-Identifier: MIT
// Writes a Llama model in Hugging Face's form (config.json, model.safetensors, vocab.json,
// merges.txt) as a GGUF file, all numbers fp32: so that examples/data needs no second copy of its
// weights.
//
//     write_gguf examples/data/tinybooks tinybooks.gguf
//
// With --tiny, writes a model of another architecture with random weights, for tests (its name:
// see tiny_models.cpp; "all" writes every one into a folder).
//
//     write_gguf --tiny gemma3 gemma3.gguf
#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/config.hpp"
#include "engine/files.hpp"
#include "engine/tokenizer.hpp"
#include "engine/weights.hpp"
#include "llama_cpp/tiny_models.hpp"

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::index_t;
using kvfit::matrix;
using kvfit::result;

struct free_gguf {
  void operator()(gguf_context* file) const { gguf_free(file); }
};
struct free_ggml {
  void operator()(ggml_context* memory) const { ggml_free(memory); }
};
using gguf_file = std::unique_ptr<gguf_context, free_gguf>;
using tensor_memory = std::unique_ptr<ggml_context, free_ggml>;

/// Names of tokens by number, as vocab.json has them; `tokenizer::load` has read it before.
result<std::vector<std::string>> token_names(const std::filesystem::path& path) {
  const auto text = llama::read_text(path);
  if (!text) return text.error();
  const auto object = nlohmann::json::parse(*text, nullptr, false);
  std::vector<std::string> names(object.size());
  for (const auto& [name, number] : object.items()) names[number.get<std::size_t>()] = name;
  return names;
}

/// Lines of merges.txt but for its version.
std::vector<std::string> merges_of(std::string_view text) {
  std::vector<std::string> merges;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) merges.emplace_back(line);
  }
  return merges;
}

void put_strings(gguf_context* file, const char* key, const std::vector<std::string>& strings) {
  std::vector<const char*> pointers;
  for (const std::string& each : strings) pointers.push_back(each.c_str());
  gguf_set_arr_str(file, key, pointers.data(), pointers.size());
}

void put_sizes(gguf_context* file, const llama::config& sizes) {
  const auto number = [&](const char* key, index_t value) {
    gguf_set_val_u32(file, key, static_cast<std::uint32_t>(value));
  };
  gguf_set_val_str(file, "general.architecture", "llama");
  number("general.file_type", 0);  // all fp32
  number("llama.context_length", sizes.max_position_embeddings);
  number("llama.embedding_length", sizes.hidden_size);
  number("llama.block_count", sizes.num_hidden_layers);
  number("llama.feed_forward_length", sizes.intermediate_size);
  number("llama.attention.head_count", sizes.num_attention_heads);
  number("llama.attention.head_count_kv", sizes.num_key_value_heads);
  number("llama.attention.key_length", sizes.head_dim);
  number("llama.attention.value_length", sizes.head_dim);
  number("llama.rope.dimension_count", sizes.head_dim);
  number("llama.vocab_size", sizes.vocab_size);
  gguf_set_val_f32(file, "llama.rope.freq_base", static_cast<float>(sizes.rope_theta));
  gguf_set_val_f32(file, "llama.attention.layer_norm_rms_epsilon",
                   static_cast<float>(sizes.rms_norm_eps));
}

void put_tokens(gguf_context* file, const llama::config& sizes,
                const std::vector<std::string>& names, const std::vector<std::string>& merges) {
  constexpr std::int32_t normal = 1;
  constexpr std::int32_t control = 3;
  std::vector<std::int32_t> kinds(names.size(), normal);
  kinds[static_cast<std::size_t>(sizes.bos_token_id)] = control;
  kinds[static_cast<std::size_t>(sizes.eos_token_id)] = control;
  gguf_set_val_str(file, "tokenizer.ggml.model", "gpt2");
  gguf_set_val_str(file, "tokenizer.ggml.pre", "gpt-2");
  put_strings(file, "tokenizer.ggml.tokens", names);
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, kinds.data(), kinds.size());
  put_strings(file, "tokenizer.ggml.merges", merges);
  gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id",
                   static_cast<std::uint32_t>(sizes.bos_token_id));
  gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id",
                   static_cast<std::uint32_t>(sizes.eos_token_id));
  gguf_set_val_bool(file, "tokenizer.ggml.add_bos_token", true);
}

class tensor_writer {
 public:
  tensor_writer(gguf_context* file, ggml_context* memory) : file_(file), memory_(memory) {}

  void put(const std::string& name, const matrix& from) {
    add(name, ggml_new_tensor_2d(memory_, GGML_TYPE_F32, from.cols(), from.rows()), from.data());
  }
  void put(const std::string& name, const kvfit::vector& from) {
    add(name, ggml_new_tensor_1d(memory_, GGML_TYPE_F32, from.size()), from.data());
  }

 private:
  void add(const std::string& name, ggml_tensor* tensor, const float* from) {
    ggml_set_name(tensor, name.c_str());
    std::memcpy(tensor->data, from, ggml_nbytes(tensor));
    gguf_add_tensor(file_, tensor);
  }

  gguf_context* file_;
  ggml_context* memory_;
};

void put_weights(tensor_writer to, const llama::weights& from) {
  to.put("token_embd.weight", from.embed_tokens);
  to.put("output_norm.weight", from.norm);
  for (std::size_t l = 0; l < from.layers.size(); ++l) {
    const llama::layer_weights& layer = from.layers[l];
    const std::string at = "blk." + std::to_string(l) + ".";
    to.put(at + "attn_norm.weight", layer.input_layernorm);
    to.put(at + "attn_q.weight", layer.q_proj);
    to.put(at + "attn_k.weight", layer.k_proj);
    to.put(at + "attn_v.weight", layer.v_proj);
    to.put(at + "attn_output.weight", layer.o_proj);
    to.put(at + "ffn_norm.weight", layer.post_attention_layernorm);
    to.put(at + "ffn_gate.weight", layer.gate_proj);
    to.put(at + "ffn_up.weight", layer.up_proj);
    to.put(at + "ffn_down.weight", layer.down_proj);
  }
}

std::size_t bytes_of(const llama::weights& all) {
  constexpr std::size_t overhead = 512;  // of a tensor, and of its alignment
  std::size_t bytes = 2 * overhead;
  const auto count = [&](index_t numbers) {
    bytes += static_cast<std::size_t>(numbers) * sizeof(float) + overhead;
  };
  count(all.embed_tokens.size() + all.norm.size());
  for (const llama::layer_weights& layer : all.layers) {
    count(layer.input_layernorm.size() + layer.post_attention_layernorm.size());
    for (const matrix* each : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj,
                               &layer.gate_proj, &layer.up_proj, &layer.down_proj}) {
      count(each->size());
    }
    bytes += 2 * overhead;
  }
  return bytes + ggml_tensor_overhead() * (2 + 9 * all.layers.size());
}

result<void> write(const std::filesystem::path& folder, const char* path) {
  if (const auto ok = llama::refuse_unread_files(folder); !ok) return ok.error();
  const auto sizes = llama::read_config(folder / "config.json");
  if (!sizes) return sizes.error();
  if (!sizes->rope_interleaved) {
    return error{errc::unsupported_file, "rope_interleaved", error::none, error::none,
                 "llama.cpp rotates a Llama's neighbouring elements: rows of q and k would have to "
                 "be put in that order"};
  }
  const auto all = llama::read_weights(folder / "model.safetensors", *sizes);
  if (!all) return all.error();
  const auto vocab = folder / "vocab.json";
  const auto words = llama::tokenizer::load(vocab, folder / "merges.txt");
  if (!words) return words.error();
  const auto names = token_names(vocab);
  if (!names) return names.error();
  if (static_cast<index_t>(names->size()) != sizes->vocab_size) {
    return error{errc::shape_mismatch, vocab.string(), static_cast<index_t>(names->size()),
                 sizes->vocab_size, "tokens"};
  }
  const auto merges = llama::read_text(folder / "merges.txt");
  if (!merges) return merges.error();

  const gguf_file file(gguf_init_empty());
  const tensor_memory memory(ggml_init({bytes_of(*all), nullptr, false}));
  if (!file || !memory) return error{errc::out_of_memory, "write_gguf"};
  put_sizes(file.get(), *sizes);
  put_tokens(file.get(), *sizes, *names, merges_of(*merges));
  put_weights({file.get(), memory.get()}, *all);
  if (!gguf_write_to_file(file.get(), path, false)) return error{errc::file_unwritable, path};
  return {};
}

result<void> write_tiny(std::string_view name, const std::filesystem::path& path) {
  if (name != "all") return llama_cpp::write_tiny_model(name, path);
  for (const llama_cpp::tiny_model& each : llama_cpp::tiny_models()) {
    const auto file = path / (std::string(each.name) + ".gguf");
    if (const auto ok = llama_cpp::write_tiny_model(each.name, file); !ok) return ok;
  }
  return {};
}

}  // namespace

int main(int count, char** arguments) {
  const bool is_tiny = count == 4 && std::string_view(arguments[1]) == "--tiny";
  if (count != 3 && !is_tiny) {
    std::fputs("usage: write_gguf FOLDER FILE.gguf\n       write_gguf --tiny NAME FILE.gguf\n",
               stderr);
    return 2;
  }
  const auto ok =
      is_tiny ? write_tiny(arguments[2], arguments[3]) : write(arguments[1], arguments[2]);
  if (ok) return 0;
  std::fprintf(stderr, "write_gguf: %s\n", ok.error().message().c_str());
  return 1;
}
