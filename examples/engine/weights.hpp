// SPDX-License-Identifier: MIT
/// The matrices of a Llama model, read from model.safetensors.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"

namespace llama {

using kvfit::matrix;
using kvfit::vector;

/// One layer; every projection is outputs × inputs, as the file has it.
struct layer_weights {
  vector input_layernorm;           ///< hidden
  matrix q_proj;                    ///< query heads · head_dim × hidden
  matrix k_proj;                    ///< KV heads · head_dim × hidden
  matrix v_proj;                    ///< the same
  matrix o_proj;                    ///< hidden × query heads · head_dim
  vector post_attention_layernorm;  ///< hidden
  matrix gate_proj;                 ///< intermediate × hidden
  matrix up_proj;                   ///< the same
  matrix down_proj;                 ///< hidden × intermediate
};

/// All of it, in fp32.
struct weights {
  matrix embed_tokens;  ///< vocabulary × hidden; also makes the logits (tied)
  vector norm;          ///< hidden, before the logits
  std::vector<layer_weights> layers;
};

/// Reads the tensors that `sizes` asks for, under Hugging Face's names
/// ("model.layers.0.self_attn.q_proj.weight"), in F32, F16 or BF16.
///
/// Errors as for `kvfit::read_safetensors`; `missing_entry` for a tensor that is not there;
/// `shape_mismatch`; `non_finite`; `unsupported_file`, with the name, for a tensor of another type,
/// one that `sizes` does not ask for (a bias, a layer too many) and metadata other than `format`
/// "pt" and what agrees with `sizes` (docs/formats.md, Models).
result<weights> read_weights(const std::filesystem::path& path, const config& sizes);

}  // namespace llama
