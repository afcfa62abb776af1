// SPDX-License-Identifier: MIT
/// A Llama decoder taken apart where attention is: what `kvfit::engine` asks for.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "engine/config.hpp"
#include "engine/weights.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/engine.hpp"

namespace llama {

using kvfit::token;

/// A decoder of RMSNorm, rotary positions, grouped-query attention and SwiGLU (Touvron et al. 2023,
/// arXiv:2302.13971 and 2307.09288). It has no cache and no attention of its own: `forward`
/// (forward.hpp) puts kvfit's between `project` and `finish`.
class model {
 public:
  /// Of a folder with config.json and model.safetensors. Errors: `read_config`'s and
  /// `read_weights`'s; `unsupported_file` where the folder has a file that would change the model
  /// or its tokens and is not read, such as tokenizer.json (docs/formats.md, Models).
  static result<model> load(const std::filesystem::path& folder);

  /// `parts` must have the shapes that `sizes` says.
  model(const config& sizes, weights parts);

  [[nodiscard]] const config& sizes() const noexcept { return sizes_; }
  [[nodiscard]] index_t layers() const noexcept { return sizes_.num_hidden_layers; }
  [[nodiscard]] index_t positions() const noexcept { return sizes_.max_position_embeddings; }
  [[nodiscard]] index_t vocabulary() const noexcept { return sizes_.vocab_size; }
  [[nodiscard]] kvfit::layer_shape shape(index_t layer) const;

  /// n × hidden: a row of the embedding matrix for each token. `empty_input` for none,
  /// `invalid_option` for a token outside the vocabulary.
  [[nodiscard]] result<matrix> embed(std::span<const token> tokens) const;

  /// Queries, keys and values of a layer, from the hidden states that enter it; queries and keys
  /// rotated to position, position + 1, … `invalid_option` for a layer that is not there and for
  /// positions beyond the trained length; `shape_mismatch` where `hidden` is not n × hidden.
  [[nodiscard]] result<kvfit::layer_rows> project(index_t layer, const matrix& hidden,
                                                  index_t position) const;

  /// hidden += attention · Wᵒᵀ, then hidden += SwiGLU(RMSNorm(hidden)): what leaves the layer.
  /// outputs: one n × head_dim a query head. Errors as for `project`; `hidden` is untouched then.
  [[nodiscard]] result<void> finish(index_t layer, const std::vector<matrix>& outputs,
                                    matrix& hidden) const;

  /// n × vocabulary: logits of the token after each row. `shape_mismatch`.
  [[nodiscard]] result<matrix> logits(const matrix& hidden) const;

 private:
  [[nodiscard]] result<void> check(index_t layer, const matrix& hidden) const;

  config sizes_;
  weights weights_;
  std::vector<kvfit::row_rotation> rotations_;  ///< of each position
};

static_assert(kvfit::engine<model>);

}  // namespace llama
