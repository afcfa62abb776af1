// SPDX-License-Identifier: MIT
/// The sizes of a Llama model, as its config.json gives them.
#pragma once

#include <filesystem>

#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace llama {

using kvfit::index_t;
using kvfit::result;

/// The fields of Hugging Face's config.json that a Llama decoder needs, under their names there.
struct config {
  index_t vocab_size = 0;
  index_t hidden_size = 0;
  index_t intermediate_size = 0;  ///< of the feed-forward layers
  index_t num_hidden_layers = 0;
  index_t num_attention_heads = 0;
  index_t num_key_value_heads = 0;  ///< divides num_attention_heads
  index_t head_dim = 0;             ///< even
  index_t max_position_embeddings = 0;
  double rope_theta = 0;
  /// Not among Hugging Face's: true where elements 2i and 2i + 1 of a head turn together, as in the
  /// RoPE paper and llama.cpp; false for i and i + head_dim / 2.
  bool rope_interleaved = false;
  double rms_norm_eps = 0;
  index_t bos_token_id = 0;
  index_t eos_token_id = 0;
};

/// Reads and checks a config.json. Every entry is read, or is one that means nothing here with a
/// value that means nothing (docs/formats.md, Models), or is refused by name: `rope_scaling`,
/// biases, a sliding window, another activation.
///
/// Errors: `file_unreadable`; `malformed_file` where it is no JSON object or has two entries of one
/// name; `missing_entry` for a field that is absent or of another kind; `invalid_option` for one
/// out of range (at most 2^20 tokens and positions, 2^16 of any other size and 2^28 / head_dim
/// positions, so that nothing absurd is allocated; what is computed with in fp32 is a normal number
/// there); `unsupported_file`, with the entry, for another architecture, untied embeddings and
/// whatever else is not handled.
result<config> read_config(const std::filesystem::path& path);

}  // namespace llama
