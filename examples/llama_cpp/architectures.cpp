// SPDX-License-Identifier: MIT
#include "llama_cpp/architectures.hpp"

#include <algorithm>
#include <array>

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;

/// Each has a tiny model of its own in tiny_models.cpp, and tests that run on it.
constexpr std::array<std::string_view, 23> tried = {
    "llama", "gemma2",    "gemma3",        "qwen2", "qwen3",     "gpt-oss", "cohere2", "smollm3",
    "mpt",   "bloom",     "gptneox",       "phi3",  "qwen2vl",   "qwen3vl", "granite", "olmo2",
    "jamba", "falcon-h1", "granitehybrid", "lfm2",  "qwen3next", "gemma3n", "qwen3moe"};

constexpr std::array<std::string_view, 7> latent = {
    "deepseek2", "deepseek32", "deepseek4", "glm-dsa", "kimi-linear", "mistral4", "minicpm3"};

}  // namespace

std::string architecture_of(const llama_model* model) {
  std::array<char, 64> name{};
  const auto size =
      llama_model_meta_val_str(model, "general.architecture", name.data(), name.size());
  return size < 0 ? std::string() : std::string(name.data());
}

bool is_tried(std::string_view architecture) {
  return std::find(tried.begin(), tried.end(), architecture) != tried.end();
}

kvfit::result<void> check_architecture(const llama_model* model) {
  const std::string name = architecture_of(model);
  const auto refused = [&](const char* why) {
    return error{errc::unsupported_file, "architecture " + name, error::none, error::none, why};
  };
  if (llama_model_has_encoder(model)) return refused("an encoder");
  if (llama_model_is_recurrent(model)) return refused("recurrent: there are no keys to compact");
  if (std::find(latent.begin(), latent.end(), name) != latent.end()) {
    return refused("MLA: values are part of the keys, which llama.cpp stores once");
  }
  if (!is_tried(name)) return refused("was not tried with this adaptor");
  return {};
}

}  // namespace llama_cpp
