// SPDX-License-Identifier: MIT
#include "llama_cpp/graph_tap.hpp"

#include <ggml-backend.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;

/// The memory that a tensor is a view of.
const ggml_tensor* root_of(const ggml_tensor* tensor) {
  return tensor != nullptr && tensor->view_src != nullptr ? tensor->view_src : tensor;
}

/// N of a tensor "<prefix>N" or of a view of it; −1 for any other.
index_t number_behind(const ggml_tensor* tensor, std::string_view prefix) {
  const ggml_tensor* const root = root_of(tensor);
  if (root == nullptr) return -1;
  const std::string_view name = root->name;
  if (!name.starts_with(prefix)) return -1;
  index_t number = -1;
  const auto [end, failure] =
      std::from_chars(name.data() + prefix.size(), name.data() + name.size(), number);
  return failure == std::errc() && end == name.data() + name.size() ? number : -1;
}

template <class Number>
Number parameter(const ggml_tensor& node, std::size_t place) {
  Number value;
  std::memcpy(&value, &node.op_params[place], sizeof value);
  return value;
}

/// The rotation that made `queries`, where one did and kvfit can describe it. Numbers lie as
/// ggml_rope_ext puts them: n_dims and mode at 1 and 2, frequencies and YaRN's factors from 5 on.
std::optional<kvfit::rope> rotation_of(const ggml_tensor& queries, index_t width) {
  const ggml_tensor& made = *root_of(&queries);
  if (made.op != GGML_OP_ROPE || made.src[2] != nullptr) return std::nullopt;
  const auto dims = static_cast<index_t>(parameter<std::int32_t>(made, 1));
  const auto mode = parameter<std::int32_t>(made, 2);
  const auto base = parameter<float>(made, 5);
  const auto frequency_scale = parameter<float>(made, 6);
  const auto extension = parameter<float>(made, 7);
  const bool is_plain = frequency_scale == 1 && extension == 0;
  if (!is_plain || (mode != GGML_ROPE_TYPE_NORMAL && mode != GGML_ROPE_TYPE_NEOX)) {
    return std::nullopt;
  }
  const kvfit::rope rotation{.base = base,
                             .dims = dims,
                             .pairing = mode == GGML_ROPE_TYPE_NEOX
                                            ? kvfit::rope_pairing::half_split
                                            : kvfit::rope_pairing::interleaved};
  if (!kvfit::check_rope(rotation, width)) return std::nullopt;
  return rotation;
}

}  // namespace

void graph_tap::start_capture(index_t step, bool with_outputs) {
  is_capturing_ = true;
  takes_outputs_ = with_outputs;
  step_ = std::max<index_t>(step, 1);
  queries_.clear();
  outputs_.clear();
}

layer_heads graph_tap::matrices_of(std::vector<captured>& from) {
  layer_heads made;
  for (captured& layer : from) {
    std::vector<matrix>& heads = made.emplace_back();
    for (std::vector<float>& numbers : layer.heads) {
      const auto rows = layer.width == 0 ? 0 : static_cast<index_t>(numbers.size()) / layer.width;
      heads.emplace_back(Eigen::Map<const matrix>(numbers.data(), rows, layer.width));
      numbers = {};
    }
  }
  from.clear();
  return made;
}

layer_heads graph_tap::take_queries() {
  is_capturing_ = false;
  return matrices_of(queries_);
}
layer_heads graph_tap::take_outputs() {
  return matrices_of(outputs_);
}

void graph_tap::set_biases(std::vector<layer_bias> biases) {
  biases_ = std::move(biases);
  is_placed_.assign(biases_.size(), false);
}

std::optional<error> graph_tap::take_error() {
  product_ = nullptr;  // a computation that ended early leaves one behind
  return std::exchange(cause_, std::nullopt);
}

void graph_tap::refuse(index_t layer, const char* why) {
  if (!cause_) {
    cause_ = error{errc::unsupported_file, "layer " + std::to_string(layer), error::none,
                   error::none, why};
  }
}

void graph_tap::learn(index_t layer, const ggml_tensor& keys, const ggml_tensor& queries) {
  if (queries.ne[3] != 1 || keys.ne[3] != 1) return refuse(layer, "more than one stream");
  if (queries.type != GGML_TYPE_F32) return refuse(layer, "queries are not fp32");
  const auto at = static_cast<std::size_t>(layer);
  if (layers_.size() <= at) layers_.resize(at + 1);
  layer_attention& seen = layers_[at];
  if (seen.query_heads != 0) return;
  seen.query_heads = queries.ne[2];
  seen.kv_heads = keys.ne[2];
  seen.key_size = queries.ne[0];
  seen.rotation = rotation_of(queries, seen.key_size);
}

/// The softmax must read the product itself: a soft-cap between them would cap the bias, too.
void graph_tap::check_softmax(const ggml_tensor& node) {
  const index_t layer = product_layer_;
  product_ = nullptr;
  product_layer_ = -1;
  if (node.op != GGML_OP_SOFT_MAX || node.src[0] == nullptr) {
    return refuse(layer, "something stands between q·k and its softmax (a soft-cap?)");
  }
  if (node.src[2] != nullptr) return refuse(layer, "attention sinks");
  if (parameter<float>(node, 1) != 0) return refuse(layer, "ALiBi");
  layers_[static_cast<std::size_t>(layer)].scale = parameter<float>(node, 0);
}

graph_tap::found graph_tap::look_at(const ggml_tensor& node) {
  if (product_ != nullptr &&
      std::find(std::begin(node.src), std::end(node.src), product_) != std::end(node.src)) {
    check_softmax(node);
    return {};
  }
  if (node.op == GGML_OP_MUL_MAT) {
    if (const index_t layer = number_behind(node.src[0], "cache_k_l"); layer >= 0) {
      learn(layer, *node.src[0], *node.src[1]);
      product_ = &node;
      product_layer_ = layer;
      return {.layer = layer, .is_product = true};
    }
    const index_t layer = number_behind(node.src[0], "cache_v_l");
    return {.layer = layer, .is_output = layer >= 0};
  }
  if (node.op == GGML_OP_FLASH_ATTN_EXT) {
    const index_t layer = number_behind(node.src[1], "cache_k_l");
    if (layer < 0) return {};
    learn(layer, *node.src[1], *node.src[0]);
    if (node.src[4] != nullptr) refuse(layer, "attention sinks");
    if (parameter<float>(node, 1) != 0) refuse(layer, "ALiBi");
    if (parameter<float>(node, 2) != 0) refuse(layer, "a soft-cap");
    if (!biases_.empty()) refuse(layer, "a fused kernel takes no bias: turn flash attention off");
    if (!cause_) layers_[static_cast<std::size_t>(layer)].scale = parameter<float>(node, 0);
    return {.layer = layer, .is_fused = true, .is_output = true};
  }
  return {};
}

bool graph_tap::wants(const found& at) const {
  if (at.layer < 0) return false;
  if (is_capturing_ && (at.is_product || at.is_fused)) return true;
  if (is_capturing_ && takes_outputs_ && at.is_output) return true;
  return !biases_.empty() && at.is_product;
}

/// Rows of `from`, element along axis 0, the token along `token_axis`, the head along the other of
/// axes 1 and 2.
void graph_tap::take(std::vector<captured>& to, index_t layer, const ggml_tensor& from,
                     int token_axis) {
  const auto at = static_cast<std::size_t>(layer);
  if (to.size() <= at) to.resize(at + 1);
  captured& kept = to[at];
  const int head_axis = 3 - token_axis;
  kept.width = from.ne[0];
  kept.heads.resize(static_cast<std::size_t>(from.ne[head_axis]));
  scratch_.resize(ggml_nbytes(&from));
  ggml_backend_tensor_get(&from, scratch_.data(), 0, scratch_.size());
  const auto width = static_cast<std::size_t>(kept.width);
  for (std::size_t h = 0; h < kept.heads.size(); ++h) {
    std::vector<float>& rows = kept.heads[h];
    for (index_t i = 0; i < from.ne[token_axis]; ++i) {
      if ((kept.tokens + i) % step_ != 0) continue;
      const std::size_t place =
          h * from.nb[head_axis] + static_cast<std::size_t>(i) * from.nb[token_axis];
      rows.resize(rows.size() + width);
      std::memcpy(&rows[rows.size() - width], scratch_.data() + place, width * sizeof(float));
    }
  }
  kept.tokens += from.ne[token_axis];
}

void graph_tap::add_bias(index_t layer, ggml_tensor& product) {
  const auto at = static_cast<std::size_t>(layer);
  if (at >= biases_.size()) return refuse(layer, "no bias was given for it");
  const layer_bias& given = biases_[at];
  const index_t cells = product.ne[0];
  const index_t tokens = product.ne[1];
  const index_t heads = product.ne[2];
  if (given.bias.heads != heads || given.bias.columns > cells || product.ne[3] != 1 ||
      product.type != GGML_TYPE_F32 || !ggml_is_contiguous(&product)) {
    return refuse(layer, "the product q·k is not [heads, tokens, cells] of fp32");
  }
  if (!is_placed_[at]) {
    const ggml_tensor* const cache = root_of(product.src[0]);
    scratch_.resize(given.keys.size());
    if (ggml_nbytes(cache) < scratch_.size()) return refuse(layer, "too few cells");
    ggml_backend_tensor_get(cache, scratch_.data(), 0, scratch_.size());
    if (scratch_ != given.keys) return refuse(layer, "cells 0, 1, ... do not hold the keys put");
    is_placed_[at] = true;
  }
  std::vector<float> logits(static_cast<std::size_t>(cells * tokens * heads));
  const std::size_t bytes = logits.size() * sizeof(float);
  ggml_backend_tensor_get(&product, logits.data(), 0, bytes);
  for (index_t h = 0; h < heads; ++h) {
    const kvfit::row_view bias = given.bias.head(static_cast<std::size_t>(h));
    for (index_t j = 0; j < given.bias.columns; ++j) {
      const float b = bias(0, j);
      float* const first = logits.data() + h * tokens * cells + j;
      for (index_t i = 0; i < tokens; ++i) first[i * cells] += b;
    }
  }
  ggml_backend_tensor_set(&product, logits.data(), 0, bytes);
}

bool graph_tap::on_node(ggml_tensor* node, bool is_asked, void* tap) {
  graph_tap& self = *static_cast<graph_tap*>(tap);
  try {  // whoever calls this is written in C
    if (is_asked) {
      if (self.cause_) return true;  // the next computed node ends it
      return self.wants(self.look_at(*node)) || self.cause_;
    }
    if (self.cause_) return false;
    const index_t product = number_behind(node->src[0], "cache_k_l");
    if (node->op == GGML_OP_FLASH_ATTN_EXT) {
      const index_t layer = number_behind(node->src[1], "cache_k_l");
      self.take(self.queries_, layer, *node->src[0], 1);
      if (self.takes_outputs_) self.take(self.outputs_, layer, *node, 2);
    } else if (product >= 0) {
      if (self.is_capturing_) self.take(self.queries_, product, *node->src[1], 1);
      if (!self.biases_.empty()) self.add_bias(product, *node);
    } else {
      self.take(self.outputs_, number_behind(node->src[0], "cache_v_l"), *node, 1);
    }
  } catch (const std::exception&) {
    self.cause_ = error{errc::out_of_memory, "graph_tap"};
  }
  return !self.cause_;
}

}  // namespace llama_cpp
