// SPDX-License-Identifier: MIT
#include "engine/model.hpp"

#include <cmath>
#include <utility>

#include "engine/files.hpp"

namespace llama {

namespace {

using kvfit::errc;
using kvfit::error;

/// x / √(mean x² + ε) · weight, row by row (Zhang & Sennrich 2019, arXiv:1910.07467).
matrix rms_norm(const matrix& x, const vector& weight, double epsilon) {
  matrix normed(x.rows(), x.cols());
  for (index_t i = 0; i < x.rows(); ++i) {
    const float mean = x.row(i).squaredNorm() / static_cast<float>(x.cols());
    const float factor = 1 / std::sqrt(mean + static_cast<float>(epsilon));
    normed.row(i) = factor * x.row(i).cwiseProduct(weight.transpose());
  }
  return normed;
}

kvfit::rope rotation_of(const config& sizes) {
  return {.base = sizes.rope_theta,
          .dims = sizes.head_dim,
          .pairing = sizes.rope_interleaved ? kvfit::rope_pairing::interleaved
                                            : kvfit::rope_pairing::half_split};
}

/// Columns of `rows`, `width` for each head.
std::vector<matrix> heads_of(const matrix& rows, index_t width) {
  std::vector<matrix> heads;
  for (index_t first = 0; first < rows.cols(); first += width) {
    heads.emplace_back(rows.middleCols(first, width));
  }
  return heads;
}

}  // namespace

result<model> model::load(const std::filesystem::path& folder) {
  if (const auto ok = refuse_unread_files(folder); !ok) return ok.error();
  const auto sizes = read_config(folder / "config.json");
  if (!sizes) return sizes.error();
  auto parts = read_weights(folder / "model.safetensors", *sizes);
  if (!parts) return parts.error();
  return model(*sizes, std::move(*parts));
}

model::model(const config& sizes, weights parts) : sizes_(sizes), weights_(std::move(parts)) {
  const kvfit::rope rotation = rotation_of(sizes_);
  for (index_t position = 0; position < positions(); ++position) {
    rotations_.emplace_back(rotation, sizes_.head_dim, position);
  }
}

kvfit::layer_shape model::shape(index_t) const {
  return {.query_heads = sizes_.num_attention_heads,
          .kv_heads = sizes_.num_key_value_heads,
          .key_size = sizes_.head_dim,
          .value_size = sizes_.head_dim,
          .rule = {.scale = 1 / std::sqrt(static_cast<float>(sizes_.head_dim))},
          .rotation = rotation_of(sizes_)};
}

result<void> model::check(index_t layer, const matrix& hidden) const {
  if (layer < 0 || layer >= layers()) {
    return error{errc::invalid_option, "layer", layer, layers() - 1};
  }
  if (hidden.rows() == 0) return error{errc::empty_input, "hidden", 0};
  if (hidden.cols() != sizes_.hidden_size) {
    return error{errc::shape_mismatch, "hidden", hidden.cols(), sizes_.hidden_size, "columns"};
  }
  return {};
}

result<matrix> model::embed(std::span<const token> tokens) const {
  if (tokens.empty()) return error{errc::empty_input, "tokens", 0};
  for (const token each : tokens) {
    if (each >= 0 && each < vocabulary()) continue;
    return error{errc::invalid_option, "tokens", each, vocabulary() - 1, "not in the vocabulary"};
  }
  matrix hidden(static_cast<index_t>(tokens.size()), sizes_.hidden_size);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    hidden.row(static_cast<index_t>(i)) = weights_.embed_tokens.row(tokens[i]);
  }
  return hidden;
}

result<kvfit::layer_rows> model::project(index_t layer, const matrix& hidden,
                                         index_t position) const {
  if (const auto ok = check(layer, hidden); !ok) return ok.error();
  if (position < 0 || position > positions() - hidden.rows()) {
    return error{errc::invalid_option, "position", position, positions() - hidden.rows(),
                 "tokens beyond the trained length"};
  }
  const layer_weights& parts = weights_.layers[static_cast<std::size_t>(layer)];
  const matrix x = rms_norm(hidden, parts.input_layernorm, sizes_.rms_norm_eps);
  matrix queries = x * parts.q_proj.transpose();
  matrix keys = x * parts.k_proj.transpose();
  const matrix values = x * parts.v_proj.transpose();
  for (matrix* const turned : {&queries, &keys}) {
    for (index_t i = 0; i < turned->rows(); ++i) {
      const kvfit::row_rotation& by = rotations_[static_cast<std::size_t>(position + i)];
      for (index_t first = 0; first < turned->cols(); first += sizes_.head_dim) {
        by.turn(&(*turned)(i, first));
      }
    }
  }
  return kvfit::layer_rows{heads_of(queries, sizes_.head_dim), heads_of(keys, sizes_.head_dim),
                           heads_of(values, sizes_.head_dim)};
}

result<void> model::finish(index_t layer, const std::vector<matrix>& outputs,
                           matrix& hidden) const {
  if (const auto ok = check(layer, hidden); !ok) return ok.error();
  const auto heads = static_cast<index_t>(outputs.size());
  if (heads != sizes_.num_attention_heads) {
    return error{errc::shape_mismatch, "outputs", heads, sizes_.num_attention_heads, "one a head"};
  }
  matrix attended(hidden.rows(), heads * sizes_.head_dim);
  for (index_t h = 0; h < heads; ++h) {
    const matrix& output = outputs[static_cast<std::size_t>(h)];
    if (output.rows() != hidden.rows()) {
      return error{errc::shape_mismatch, "outputs", output.rows(), hidden.rows(), "rows"};
    }
    if (output.cols() != sizes_.head_dim) {
      return error{errc::shape_mismatch, "outputs", output.cols(), sizes_.head_dim, "columns"};
    }
    attended.middleCols(h * sizes_.head_dim, sizes_.head_dim) = output;
  }
  const layer_weights& parts = weights_.layers[static_cast<std::size_t>(layer)];
  hidden += attended * parts.o_proj.transpose();

  // down(silu(gate x) ∘ up x), silu(g) = g / (1 + e^−g)   (Shazeer 2020, arXiv:2002.05202)
  const matrix x = rms_norm(hidden, parts.post_attention_layernorm, sizes_.rms_norm_eps);
  matrix gate = x * parts.gate_proj.transpose();
  const matrix up = x * parts.up_proj.transpose();
  gate = gate.array() / (1 + (-gate.array()).exp()) * up.array();
  hidden += gate * parts.down_proj.transpose();
  return {};
}

result<matrix> model::logits(const matrix& hidden) const {
  if (const auto ok = check(0, hidden); !ok) return ok.error();
  const matrix x = rms_norm(hidden, weights_.norm, sizes_.rms_norm_eps);
  return matrix(x * weights_.embed_tokens.transpose());
}

}  // namespace llama
