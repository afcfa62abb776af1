// SPDX-License-Identifier: MIT
/// Tiny models of many architectures as GGUF files, for tests: the real graph of each, with seeded
/// random weights.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "kvfit/core/result.hpp"

namespace llama_cpp {

/// What a tiny model is good for.
struct tiny_model {
  std::string_view name;          ///< as `write_tiny_model` takes it
  std::string_view architecture;  ///< general.architecture
  std::string_view shows;         ///< what of attention it has
};

/// All of them.
std::span<const tiny_model> tiny_models();

/// Writes one: some layers of 128 numbers a token, no tokeniser, all numbers fp32. The same name
/// gives the same bytes.
///
/// Weights are normal, scaled so that logits of attention are a few units wide: with less, every
/// key is as good as any other, and no way to compact a cache is better than another.
///
/// Errors: `invalid_option` for a name that is none; `file_unreadable` where llama.cpp makes no
/// model of the description; `file_unwritable`.
kvfit::result<void> write_tiny_model(std::string_view name, const std::filesystem::path& path);

}  // namespace llama_cpp
