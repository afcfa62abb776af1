// SPDX-License-Identifier: MIT
#include "llama_cpp/tiny_models.hpp"

#include <ggml-backend.h>
#include <ggml.h>
#include <gguf.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/core/index.hpp"

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::index_t;
using kvfit::result;

struct free_gguf {
  void operator()(gguf_context* file) const { gguf_free(file); }
};
struct free_ggml {
  void operator()(ggml_context* memory) const { ggml_free(memory); }
};
struct free_model {
  void operator()(llama_model* model) const { llama_model_free(model); }
};

/// A model's entries; all of the architecture's own have its name before them.
class description {
 public:
  explicit description(std::string_view architecture)
      : file_(gguf_init_empty()), architecture_(architecture) {
    gguf_set_val_str(file(), "general.architecture", architecture_.c_str());
    gguf_set_val_str(file(), "tokenizer.ggml.model", "no_vocab");
    gguf_set_val_u32(file(), "general.file_type", 0);  // all fp32
    number("vocab_size", 256);
    number("context_length", 4096);
    number("embedding_length", 128);
    number("block_count", 4);
    number("feed_forward_length", 192);
    number("attention.head_count", 4);
    number("attention.head_count_kv", 2);
    number("attention.key_length", 64);
    number("attention.value_length", 64);
    number("rope.dimension_count", 64);
    real("rope.freq_base", 10000);
    real("attention.layer_norm_rms_epsilon", 1e-5F);
    real("attention.layer_norm_epsilon", 1e-5F);
  }

  description& number(const char* key, std::uint32_t value) {
    gguf_set_val_u32(file(), of(key).c_str(), value);
    return *this;
  }
  description& real(const char* key, float value) {
    gguf_set_val_f32(file(), of(key).c_str(), value);
    return *this;
  }
  description& flag(const char* key, bool value) {
    gguf_set_val_bool(file(), of(key).c_str(), value);
    return *this;
  }
  description& text(const char* key, const char* value) {
    gguf_set_val_str(file(), of(key).c_str(), value);
    return *this;
  }
  description& numbers(const char* key, const std::vector<std::uint32_t>& values) {
    gguf_set_arr_data(file(), of(key).c_str(), GGUF_TYPE_UINT32, values.data(), values.size());
    return *this;
  }
  description& layers(std::uint32_t count) { return number("block_count", count); }
  /// Optional tensors whose names hold it are left out.
  description& without(std::string_view part) {
    left_out_.emplace_back(part);
    return *this;
  }

  [[nodiscard]] gguf_context* file() const { return file_.get(); }
  [[nodiscard]] bool leaves_out(std::string_view tensor) const {
    return std::any_of(left_out_.begin(), left_out_.end(), [&](const std::string& part) {
      return tensor.find(part) != std::string_view::npos;
    });
  }

 private:
  [[nodiscard]] std::string of(const char* key) const { return architecture_ + "." + key; }

  std::unique_ptr<gguf_context, free_gguf> file_;
  std::string architecture_;
  std::vector<std::string> left_out_;
};

using describe = void (*)(description& to);

void plain(description& to) {
  to.without("attn_q.bias").without("attn_k.bias").without("attn_v.bias").without("attn_qkv.bias");
  to.without("attn_output.bias").without("ffn_gate.bias").without("ffn_up.bias");
  to.without("ffn_down.bias").without("norm.bias").without("rope_freqs");
}

void experts(description& to) {
  to.number("expert_count", 4).number("expert_used_count", 2);
  to.number("expert_feed_forward_length", 64);
}

void ssm(description& to) {
  to.number("ssm.conv_kernel", 4).number("ssm.inner_size", 256).number("ssm.state_size", 16);
  to.number("ssm.time_step_rank", 8).number("ssm.group_count", 1);
}

struct recipe {
  tiny_model model;
  describe put;
};

constexpr index_t window = 64;

const std::array recipes = {
    recipe{{"llama", "llama", "one cache, rotation of neighbours"}, plain},
    recipe{{"llama3", "llama", "frequencies by Llama 3.1's factors"},
           [](description& to) { to.without(".bias"); }},
    recipe{{"llama_yarn", "llama", "frequencies by YaRN, with its factor of attention"},
           [](description& to) {
             plain(to);
             to.text("rope.scaling.type", "yarn").real("rope.scaling.factor", 4);
             to.number("rope.scaling.original_context_length", 256);
           }},
    recipe{{"llama_linear", "llama", "positions divided by 4"},
           [](description& to) {
             plain(to);
             to.text("rope.scaling.type", "linear").real("rope.scaling.factor", 4);
           }},
    recipe{{"gemma2", "gemma2", "windows, soft cap"},
           [](description& to) {
             to.number("attention.sliding_window", window);
             to.real("attn_logit_softcapping", 5).real("final_logit_softcapping", 30);
           }},
    recipe{{"gemma3", "gemma3", "windows, norms of queries and keys"},
           [](description& to) { to.layers(6).number("attention.sliding_window", window); }},
    recipe{{"qwen2", "qwen2", "biases of queries, keys and values"},
           [](description& to) { to.number("embedding_length", 256); }},
    recipe{{"qwen3", "qwen3", "norms of queries and keys"}, plain},
    recipe{{"gpt-oss", "gpt-oss", "windows, sinks, experts"},
           [](description& to) {
             experts(to);
             to.number("attention.sliding_window", window);
           }},
    recipe{{"cohere2", "cohere2", "windows, global layers without rotation"},
           [](description& to) {
             to.number("embedding_length", 256);
             to.number("attention.sliding_window", window).real("logit_scale", 1).layers(8);
           }},
    recipe{{"smollm3", "smollm3", "every fourth layer without rotation"}, plain},
    recipe{{"mpt", "mpt", "ALiBi"},
           [](description& to) {
             to.number("embedding_length", 256);
             to.number("attention.head_count_kv", 4);
             plain(to);
             to.real("attention.max_alibi_bias", 8).real("attention.clamp_kqv", 30);
           }},
    recipe{{"bloom", "bloom", "ALiBi, biases"},
           [](description& to) {
             to.number("attention.head_count", 4).number("attention.head_count_kv", 4);
             to.number("attention.key_length", 32).number("attention.value_length", 32);
           }},
    recipe{{"gptneox", "gptneox", "a quarter of each head turned"},
           [](description& to) {
             to.number("attention.head_count_kv", 4).number("rope.dimension_count", 16);
             to.number("attention.key_length", 32).number("attention.value_length", 32);
             to.flag("use_parallel_residual", true);
           }},
    recipe{{"phi3", "phi3", "queries, keys and values made as one"},
           [](description& to) {
             to.number("embedding_length", 256);
             plain(to);
             to.without("rope_factors").number("attention.sliding_window", 0);
           }},
    recipe{{"qwen2vl", "qwen2vl", "M-RoPE"},
           [](description& to) {
             to.number("embedding_length", 256);
             to.numbers("rope.dimension_sections", {8, 12, 12, 0});
           }},
    recipe{{"qwen3vl", "qwen3vl", "interleaved M-RoPE"},
           [](description& to) {
             plain(to);
             to.numbers("rope.dimension_sections", {8, 12, 12, 0});
           }},
    recipe{{"granite", "granite", "a scale of its own"},
           [](description& to) {
             plain(to);
             to.real("attention.scale", 0.2F).real("embedding_scale", 2);
             to.real("residual_scale", 0.5F).real("logit_scale", 2);
           }},
    recipe{{"olmo2", "olmo2", "norms over all queries and keys at once"},
           [](description& to) {
             plain(to);
             to.number("embedding_length", 256);
           }},
    recipe{{"qwen3moe", "qwen3moe", "experts"},
           [](description& to) {
             plain(to);
             experts(to);
           }},
    recipe{{"jamba", "jamba", "hybrid: every second layer a Mamba"},
           [](description& to) {
             to.number("embedding_length", 256);
             plain(to);
             ssm(to);
             to.number("ssm.inner_size", 512);
             to.numbers("attention.head_count_kv", {0, 2, 0, 2}).without("ffn_gate_inp");
           }},
    recipe{{"falcon-h1", "falcon-h1", "hybrid: attention and Mamba 2 in each layer"},
           [](description& to) {
             plain(to);
             ssm(to);
           }},
    recipe{{"granitehybrid", "granitehybrid", "hybrid: every second layer a Mamba 2"},
           [](description& to) {
             plain(to);
             ssm(to);
             to.numbers("attention.head_count_kv", {0, 2, 0, 2}).real("attention.scale", 0.2F);
             to.real("embedding_scale", 1).real("residual_scale", 1).real("logit_scale", 1);
           }},
    recipe{{"lfm2", "lfm2", "hybrid: every second layer a short convolution"},
           [](description& to) {
             to.number("embedding_length", 256);
             plain(to);
             to.number("shortconv.l_cache", 3).numbers("attention.head_count_kv", {0, 2, 0, 2});
           }},
    recipe{
        {"qwen3next", "qwen3next", "hybrid: three layers of four are gated delta nets"},
        [](description& to) {
          plain(to);
          experts(to);
          to.number("full_attention_interval", 2).number("expert_shared_feed_forward_length", 64);
          to.number("ssm.conv_kernel", 4).number("ssm.inner_size", 256);
          to.number("ssm.state_size", 64).number("ssm.time_step_rank", 4);
          to.number("ssm.group_count", 2);
        }},
    recipe{{"deepseek2", "deepseek2", "MLA"},
           [](description& to) {
             plain(to);
             experts(to);
             to.number("leading_dense_block_count", 1).number("expert_shared_count", 1);
             to.number("attention.head_count_kv", 1).number("attention.q_lora_rank", 64);
             to.number("attention.kv_lora_rank", 64).number("attention.key_length", 96);
             to.number("attention.value_length", 64).number("attention.key_length_mla", 64);
             to.number("attention.value_length_mla", 32).number("rope.dimension_count", 32);
             to.number("expert_gating_func", 2).real("expert_weights_scale", 1);
             to.number("vocab_size", 256);
           }},
    recipe{{"gemma3n", "gemma3n", "windows, layers that read another layer's cache"},
           [](description& to) {
             to.layers(22).number("attention.sliding_window", window);
             std::vector<std::uint32_t> pattern;
             for (std::uint32_t l = 0; l < 22; ++l) pattern.push_back(l % 5 == 4 ? 0 : 1);
             to.numbers("attention.sliding_window_pattern", pattern);
           }},
    recipe{{"mamba", "mamba", "recurrent: no attention at all"},
           [](description& to) {
             ssm(to);
             to.number("attention.head_count", 0).number("attention.head_count_kv", 0);
           }},
    recipe{{"baichuan", "baichuan", "not tried: stands for architectures that are not known"},
           plain},
};

const recipe* recipe_of(std::string_view name) {
  const auto found = std::find_if(recipes.begin(), recipes.end(),
                                  [&](const recipe& each) { return each.model.name == name; });
  return found == recipes.end() ? nullptr : &*found;
}

/// A tensor that llama.cpp asked for, with its numbers.
struct made_tensor {
  std::string name;
  ggml_type type = GGML_TYPE_F32;
  std::array<std::int64_t, 4> sizes{};
  std::vector<float> numbers = {};
};

struct weights {
  std::vector<made_tensor> tensors;
  bool has_failed = false;
};

/// Bytes of a name to a number, the same everywhere: std::hash promises nothing.
std::uint64_t seed_of(std::string_view name) {
  std::uint64_t seed = 1469598103934665603ULL;
  for (const char c : name) {
    seed = (seed ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  }
  return seed;
}

/// Normal numbers without std::normal_distribution, whose values differ among libraries.
class normal_numbers {
 public:
  explicit normal_numbers(std::uint64_t seed) : random_(seed) {}
  float operator()() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return static_cast<float>(radius * std::cos(6.283185307179586 * uniform()));
  }
  double uniform() { return (static_cast<double>(random_() >> 11U) + 0.5) * 0x1p-53; }

 private:
  std::mt19937_64 random_;
};

bool has(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

void fill(made_tensor& to) {
  const std::string_view name = to.name;
  normal_numbers normal(seed_of(name));
  const auto each = [&](auto make) {
    for (float& x : to.numbers) x = static_cast<float>(make());
  };
  if (has(name, "rope_freqs")) return each([&] { return 1 + 7 * normal.uniform(); });
  if (has(name, "ssm_a")) return each([&] { return -0.2 - normal.uniform(); });
  if (has(name, "ssm_dt") && has(name, "bias")) return each([&] { return -2 + normal(); });
  if (has(name, "norm") || has(name, "ssm_d")) {
    // Sharper attention where queries and keys are normalised; Gemma's norms come with the 1 added.
    const double level = has(name, "attn_q_norm") || has(name, "attn_k_norm") ? 1.5 : 1;
    if (has(name, "bias")) return each([&] { return 0.1 * normal(); });
    return each([&] { return level + 0.1 * normal(); });
  }
  if (has(name, "sinks")) return each([&] { return normal(); });
  if (has(name, ".bias")) return each([&] { return 0.3 * normal(); });
  if (has(name, "token_embd")) return each([&] { return normal(); });
  const double fan_in = static_cast<double>(to.sizes[0]);
  const bool is_sharp = has(name, "attn_q.") || has(name, "attn_k.");
  const double level = (is_sharp ? 1.5 : 1) / std::sqrt(fan_in);
  each([&] { return level * normal(); });
}

/// Called by llama.cpp, which is not to see exceptions.
void take_tensor(ggml_tensor* tensor, void* to) {
  auto& all = *static_cast<weights*>(to);
  try {
    made_tensor made{.name = tensor->name, .type = tensor->type};
    std::copy(std::begin(tensor->ne), std::end(tensor->ne), made.sizes.begin());
    made.numbers.resize(static_cast<std::size_t>(ggml_nelements(tensor)));
    fill(made);
    if (tensor->type != GGML_TYPE_F32) {
      all.has_failed = true;
      return;
    }
    ggml_backend_tensor_set(tensor, made.numbers.data(), 0, ggml_nbytes(tensor));
    const bool is_known = std::any_of(all.tensors.begin(), all.tensors.end(),
                                      [&](const made_tensor& t) { return t.name == made.name; });
    if (!is_known) all.tensors.push_back(std::move(made));
  } catch (const std::exception&) {
    all.has_failed = true;
  }
}

void only_errors(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

void add_tensor(gguf_context* file, ggml_context* memory, const made_tensor& from) {
  int axes = 4;
  while (axes > 1 && from.sizes[static_cast<std::size_t>(axes - 1)] == 1) --axes;
  ggml_tensor* const tensor = ggml_new_tensor(memory, GGML_TYPE_F32, axes, from.sizes.data());
  ggml_set_name(tensor, from.name.c_str());
  std::copy(from.numbers.begin(), from.numbers.end(), static_cast<float*>(tensor->data));
  gguf_add_tensor(file, tensor);
}

}  // namespace

std::span<const tiny_model> tiny_models() {
  static const auto all = [] {
    std::array<tiny_model, recipes.size()> models;
    for (std::size_t i = 0; i < recipes.size(); ++i) models[i] = recipes[i].model;
    return models;
  }();
  return all;
}

result<void> write_tiny_model(std::string_view name, const std::filesystem::path& path) {
  const recipe* const found = recipe_of(name);
  if (found == nullptr) {
    return error{errc::invalid_option, "name", error::none, error::none,
                 "no tiny model \"" + std::string(name) + "\""};
  }
  llama_log_set(only_errors, nullptr);
  llama_backend_init();
  description described(found->model.architecture);
  found->put(described);

  // llama.cpp says which tensors of which sizes the architecture has.
  weights all;
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  const std::unique_ptr<llama_model, free_model> model(
      llama_model_init_from_user(described.file(), take_tensor, &all, params));
  if (!model || all.has_failed) {
    return error{errc::file_unreadable, std::string(name), error::none, error::none,
                 "llama.cpp makes no model of it"};
  }
  std::size_t bytes = 0;
  for (const made_tensor& each : all.tensors) {
    bytes += each.numbers.size() * sizeof(float) + 512 + ggml_tensor_overhead();
  }
  const std::unique_ptr<ggml_context, free_ggml> memory(ggml_init({bytes, nullptr, false}));
  if (!memory) return error{errc::out_of_memory, "write_tiny_model"};
  for (const made_tensor& each : all.tensors) {
    if (!described.leaves_out(each.name)) add_tensor(described.file(), memory.get(), each);
  }
  if (!gguf_write_to_file(described.file(), path.string().c_str(), false)) {
    return error{errc::file_unwritable, path.string()};
  }
  return {};
}

}  // namespace llama_cpp
