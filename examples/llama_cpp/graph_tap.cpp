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

#include "kvfit/core/element.hpp"

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

/// The node that turned rows, behind whatever only scales or rearranges them; null where none did.
const ggml_tensor* turning_node(const ggml_tensor* rows) {
  for (const ggml_tensor* at = rows; at != nullptr;) {
    switch (at->op) {
      case GGML_OP_ROPE:
        return at;
      case GGML_OP_VIEW:
      case GGML_OP_PERMUTE:
      case GGML_OP_RESHAPE:
      case GGML_OP_CONT:
      case GGML_OP_SCALE:
        at = at->src[0];
        break;
      default:
        return nullptr;
    }
  }
  return nullptr;
}

/// Frequencies of the pairs, each divided by its factor.
std::vector<double> divided_frequencies(const kvfit::rope& rotation, index_t width,
                                        const ggml_tensor& factors) {
  std::vector<double> all = kvfit::rope_frequencies(rotation, width);
  std::vector<float> by(all.size());
  if (factors.type != GGML_TYPE_F32 || ggml_nbytes(&factors) < by.size() * sizeof(float)) return {};
  ggml_backend_tensor_get(&factors, by.data(), 0, by.size() * sizeof(float));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] /= double{by[i]};
  return all;
}

/// The rotation that made `queries`, where one did and kvfit can describe it. Numbers lie as
/// ggml_rope_ext puts them: n_dims, mode and trained length at 1, 2 and 4, frequencies and YaRN's
/// factors from 5 on. What turns by several positions (M-RoPE) is not described: keys that it made
/// can't be moved by one distance.
std::optional<kvfit::rope> rotation_of(const ggml_tensor& queries, index_t width) {
  const ggml_tensor* const made = turning_node(&queries);
  if (made == nullptr) return std::nullopt;
  const auto mode = parameter<std::int32_t>(*made, 2);
  if (mode != GGML_ROPE_TYPE_NORMAL && mode != GGML_ROPE_TYPE_NEOX) return std::nullopt;
  const auto frequency_scale = parameter<float>(*made, 6);
  const auto extension = parameter<float>(*made, 7);
  kvfit::rope rotation{.base = parameter<float>(*made, 5),
                       .dims = static_cast<index_t>(parameter<std::int32_t>(*made, 1)),
                       .pairing = mode == GGML_ROPE_TYPE_NEOX ? kvfit::rope_pairing::half_split
                                                              : kvfit::rope_pairing::interleaved};
  if (!(frequency_scale > 0)) return std::nullopt;
  if (extension == 0 && frequency_scale != 1) {
    rotation.scaling = kvfit::rope_scaling::linear{.factor = 1 / double{frequency_scale}};
  } else if (extension == 1 && frequency_scale != 1) {
    rotation.scaling = kvfit::rope_scaling::yarn{
        .factor = 1 / double{frequency_scale},
        .original_positions = static_cast<double>(parameter<std::int32_t>(*made, 4)),
        .fast = parameter<float>(*made, 9),
        .slow = parameter<float>(*made, 10)};
  } else if (extension != 0) {
    return std::nullopt;
  }
  if (!kvfit::check_rope(rotation, width)) return std::nullopt;
  if (made->src[2] != nullptr) {
    if (extension != 0) return std::nullopt;  // which of both comes first, ggml alone knows
    auto frequencies = divided_frequencies(rotation, width, *made->src[2]);
    if (frequencies.empty()) return std::nullopt;
    rotation.scaling = kvfit::rope_scaling::given{std::move(frequencies)};
    if (!kvfit::check_rope(rotation, width)) return std::nullopt;
  }
  return rotation;
}

/// Rows of one head of K or V in a fused kernel's source, as fp32.
matrix rows_of(const ggml_tensor& from, const std::vector<std::byte>& bytes, index_t head) {
  matrix rows(from.ne[1], from.ne[0]);
  for (index_t j = 0; j < from.ne[1]; ++j) {
    const std::byte* const row = bytes.data() + static_cast<std::size_t>(j) * from.nb[1] +
                                 static_cast<std::size_t>(head) * from.nb[2];
    if (from.type == GGML_TYPE_F32) {
      std::memcpy(rows.row(j).data(), row, static_cast<std::size_t>(from.ne[0]) * sizeof(float));
    } else {
      ggml_get_type_traits(from.type)->to_float(row, rows.row(j).data(), from.ne[0]);
    }
  }
  return rows;
}

std::vector<std::byte> bytes_of(const ggml_tensor& from) {
  std::vector<std::byte> bytes(ggml_nbytes(&from));
  ggml_backend_tensor_get(&from, bytes.data(), 0, bytes.size());
  return bytes;
}

/// A mask's numbers for one token: fp16 or fp32.
void add_mask(const ggml_tensor& mask, const std::vector<std::byte>& bytes, index_t token,
              float slope, Eigen::Ref<Eigen::RowVectorXf> logits) {
  const std::byte* const row = bytes.data() + static_cast<std::size_t>(token) * mask.nb[1];
  for (index_t j = 0; j < logits.size(); ++j) {
    float number = 0;
    if (mask.type == GGML_TYPE_F16) {
      kvfit::fp16 half;
      std::memcpy(&half, row + static_cast<std::size_t>(j) * sizeof half, sizeof half);
      number = kvfit::to_float(half);
    } else {
      std::memcpy(&number, row + static_cast<std::size_t>(j) * sizeof number, sizeof number);
    }
    logits[j] += slope * number;
  }
}

}  // namespace

float layer_attention::slope(index_t head) const {
  if (alibi == 0) return 0;
  // Press et al., arXiv:2108.12409, as ggml has it for numbers of heads that are no power of 2.
  index_t power = 1;
  while (2 * power <= query_heads) power *= 2;
  const double base = std::exp2(-double{alibi} / static_cast<double>(power));
  const double half = std::exp2(-double{alibi} / 2 / static_cast<double>(power));
  return static_cast<float>(head < power
                                ? std::pow(base, static_cast<double>(head + 1))
                                : std::pow(half, static_cast<double>(2 * (head - power) + 1)));
}

bool layer_bias::is_needed() const {
  return std::any_of(bias.bytes.begin(), bias.bytes.end(),
                     [](std::byte each) { return each != std::byte{0}; });
}

void graph_tap::start_capture(index_t step, bool with_outputs) {
  is_capturing_ = true;
  takes_outputs_ = with_outputs;
  step_ = std::max<index_t>(step, 1);
  queries_.clear();
  outputs_.clear();
}

layer_captures graph_tap::matrices_of(captures& from) {
  layer_captures made;
  for (auto& [of, kept] : from) {
    layer_capture& capture = made.emplace_back();
    capture.layer = of.first;
    capture.reader = of.second;
    for (std::vector<float>& numbers : kept.heads) {
      const auto rows = kept.width == 0 ? 0 : static_cast<index_t>(numbers.size()) / kept.width;
      capture.heads.emplace_back(Eigen::Map<const matrix>(numbers.data(), rows, kept.width));
      numbers = {};
    }
  }
  from.clear();
  return made;
}

layer_captures graph_tap::take_queries() {
  is_capturing_ = false;
  return matrices_of(queries_);
}
layer_captures graph_tap::take_outputs() {
  return matrices_of(outputs_);
}

void graph_tap::set_biases(index_t sequence, sequence_bias biases) {
  biases_.insert_or_assign(sequence,
                           placed_bias{.of = std::move(biases), .cells = {}, .is_checked = {}});
}

void graph_tap::forget_places(index_t sequence) {
  const auto of = biases_.find(sequence);
  if (of == biases_.end()) return;
  of->second.cells.clear();
  of->second.is_checked.clear();
}

std::optional<error> graph_tap::take_error() {
  chain_ = {};  // a computation that ended early leaves one behind
  readers_.clear();
  return std::exchange(cause_, std::nullopt);
}

void graph_tap::refuse(index_t layer, const char* why) {
  if (!cause_) {
    cause_ = error{errc::unsupported_file, "layer " + std::to_string(layer), error::none,
                   error::none, why};
  }
}

/// The first layer that is seen tells that a graph begins anew.
index_t graph_tap::reader_of(index_t layer) {
  if (first_layer_ < 0) first_layer_ = layer;
  if (layer == first_layer_) readers_.clear();
  return readers_[layer]++;
}

void graph_tap::learn(index_t layer, index_t reader, const ggml_tensor& keys,
                      const ggml_tensor& queries) {
  if (queries.ne[3] != 1 || keys.ne[3] != 1) return refuse(layer, "several streams in one batch");
  if (queries.type != GGML_TYPE_F32) return refuse(layer, "queries are not fp32");
  const auto at = static_cast<std::size_t>(layer);
  if (layers_.size() <= at) layers_.resize(at + 1);
  layer_attention& seen = layers_[at];
  seen.readers = std::max(seen.readers, reader + 1);
  seen.keys = root_of(&keys);
  if (seen.query_heads != 0) return;
  seen.query_heads = queries.ne[2];
  seen.kv_heads = keys.ne[2];
  seen.key_size = queries.ne[0];
  seen.rotation = rotation_of(queries, seen.key_size);
}

void graph_tap::learn_sinks(layer_attention& to, const ggml_tensor* sinks) {
  if (sinks == nullptr || !to.sinks.empty()) return;
  if (sinks->type != GGML_TYPE_F32 || ggml_nelements(sinks) != to.query_heads) {
    return refuse(chain_.layer, "sinks are not one number of fp32 a query head");
  }
  to.sinks.resize(static_cast<std::size_t>(to.query_heads));
  ggml_backend_tensor_get(sinks, to.sinks.data(), 0, ggml_nbytes(sinks));
}

/// softmax(b · (o · tanh(i · q·k)) + mask): the cap is b · o, the scale within it b · o · i.
void graph_tap::learn_softmax(const ggml_tensor& node) {
  layer_attention& to = layers_[static_cast<std::size_t>(chain_.layer)];
  const auto scale = parameter<float>(node, 0);
  to.is_fused = false;
  to.alibi = parameter<float>(node, 1);
  to.bias_scale = scale;
  to.bias_place = chain_.place;
  to.soft_cap = chain_.is_capped ? scale * chain_.outer_scale : 0;
  to.scale = scale * chain_.outer_scale * chain_.inner_scale;
  learn_sinks(to, node.src[2]);
}

void graph_tap::learn_fused(const ggml_tensor& node, index_t layer) {
  layer_attention& to = layers_[static_cast<std::size_t>(layer)];
  to.is_fused = true;
  to.scale = parameter<float>(node, 0);
  to.alibi = parameter<float>(node, 1);
  to.soft_cap = parameter<float>(node, 2);
  to.bias_scale = 1;
  to.bias_place = 0;
  learn_sinks(to, node.src[4]);
}

/// A node behind q·k: a scale, the tanh of a soft cap, or the softmax.
graph_tap::found graph_tap::follow(const ggml_tensor& node) {
  const bool is_first = node.src[0] == chain_.last;
  if (is_first && node.op == GGML_OP_SOFT_MAX) {
    learn_softmax(node);
    chain_ = {};
    return {};
  }
  if (is_first && node.op == GGML_OP_SCALE && parameter<float>(node, 1) == 0) {
    (chain_.is_capped ? chain_.outer_scale : chain_.inner_scale) *= parameter<float>(node, 0);
  } else if (is_first && node.op == GGML_OP_UNARY && !chain_.is_capped &&
             ggml_get_unary_op(&node) == GGML_UNARY_OP_TANH) {
    chain_.is_capped = true;
  } else {
    refuse(chain_.layer, "between q·k and its softmax stands more than a scale and a soft cap");
    return {};
  }
  chain_.last = &node;
  ++chain_.place;
  return {.is = role::link,
          .layer = chain_.layer,
          .reader = chain_.reader,
          .place = chain_.place,
          .stream = chain_.stream};
}

/// In which stream of the cache a view of it starts.
index_t stream_of(const ggml_tensor& view) {
  const ggml_tensor& root = *root_of(&view);
  return root.ne[2] > 1 ? static_cast<index_t>(view.view_offs / root.nb[2]) : 0;
}

graph_tap::found graph_tap::look_at(const ggml_tensor& node) {
  if (chain_.last != nullptr &&
      std::find(std::begin(node.src), std::end(node.src), chain_.last) != std::end(node.src)) {
    return follow(node);
  }
  if (node.op == GGML_OP_MUL_MAT) {
    if (const index_t layer = number_behind(node.src[0], "cache_k_l"); layer >= 0) {
      const index_t reader = reader_of(layer);
      learn(layer, reader, *node.src[0], *node.src[1]);
      chain_ = {.last = &node, .layer = layer, .reader = reader, .stream = stream_of(*node.src[0])};
      return {.is = role::product, .layer = layer, .reader = reader, .stream = chain_.stream};
    }
    const index_t layer = number_behind(node.src[0], "cache_v_l");
    if (layer < 0) return {};
    return {.is = role::output, .layer = layer, .reader = readers_[layer] - 1};
  }
  if (node.op == GGML_OP_FLASH_ATTN_EXT) {
    const index_t layer = number_behind(node.src[1], "cache_k_l");
    if (layer < 0) return {};
    const index_t reader = reader_of(layer);
    learn(layer, reader, *node.src[1], *node.src[0]);
    if (!cause_) learn_fused(node, layer);
    return {.is = role::fused, .layer = layer, .reader = reader, .stream = stream_of(*node.src[1])};
  }
  return {};
}

bool graph_tap::has_bias(index_t layer) const {
  return std::any_of(biases_.begin(), biases_.end(), [&](const auto& each) {
    const auto& all = each.second.of.layers;
    return std::any_of(all.begin(), all.end(), [&](const layer_bias& one) {
      return one.layer == layer && one.is_needed();
    });
  });
}

bool graph_tap::wants(const found& at) const {
  switch (at.is) {
    case role::product:
      if (is_capturing_) return true;
      [[fallthrough]];
    case role::link:
      return layers_[static_cast<std::size_t>(at.layer)].bias_place == at.place &&
             has_bias(at.layer);
    case role::fused:
      return is_capturing_ || has_bias(at.layer);
    case role::output:
      return is_capturing_ && takes_outputs_;
    case role::none:
      break;
  }
  return false;
}

/// Rows of `from`, element along axis 0, the token along `token_axis`, the head along the other of
/// axes 1 and 2.
void graph_tap::take(captures& to, const found& at, const ggml_tensor& from, int token_axis) {
  captured& kept = to[{at.layer, at.reader}];
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

/// Finds the cells that hold the rows, the same in all layers: rows ascend with their cells, and a
/// sequence of its own stream has them from cell 0 on.
bool graph_tap::place(placed_bias& bias, const layer_bias& layer, const ggml_tensor& cache,
                      index_t stream) {
  const std::size_t row = cache.nb[1];
  const auto cells = static_cast<std::size_t>(cache.ne[1]);
  if (row == 0 || layer.keys.size() % row != 0 || layer.keys.size() / row > cells) return false;
  const std::size_t count = layer.keys.size() / row;
  scratch_.resize(cells * row);
  ggml_backend_tensor_get(&cache, scratch_.data(), static_cast<std::size_t>(stream) * cache.nb[2],
                          scratch_.size());
  const auto is_row = [&](std::size_t cell, std::size_t wanted) {
    return std::memcmp(scratch_.data() + cell * row, layer.keys.data() + wanted * row, row) == 0;
  };
  if (!bias.cells.empty()) {
    for (std::size_t r = 0; r < count; ++r) {
      if (!is_row(bias.cells[r], r)) return false;
    }
    return true;
  }
  std::vector<std::size_t> holding;
  for (std::size_t c = 0; c < cells && holding.size() < count; ++c) {
    if (is_row(c, holding.size())) holding.push_back(c);
  }
  if (holding.size() != count) return false;
  bias.cells = std::move(holding);
  return true;
}

template <class Add>
void graph_tap::for_biases(const found& at, Add add) {
  for (auto& [sequence, bias] : biases_) {
    if (bias.of.stream != at.stream) continue;
    for (const layer_bias& layer : bias.of.layers) {
      if (layer.layer != at.layer || !layer.is_needed()) continue;
      if (!bias.is_checked[at.layer]) {
        const ggml_tensor* const cache = layers_[static_cast<std::size_t>(at.layer)].keys;
        if (!place(bias, layer, *cache, at.stream)) {
          return refuse(at.layer, "the cache does not hold the keys whose biases were given");
        }
        bias.is_checked[at.layer] = true;
      }
      add(layer.bias, bias.cells);
      if (cause_) return;
    }
  }
}

void graph_tap::add_biases(const found& at, ggml_tensor& logits) {
  const index_t cells = logits.ne[0];
  const index_t tokens = logits.ne[1];
  const index_t heads = logits.ne[2];
  if (logits.ne[3] != 1 || logits.type != GGML_TYPE_F32 || !ggml_is_contiguous(&logits)) {
    return refuse(at.layer, "logits are not [heads, tokens, cells] of fp32");
  }
  std::vector<float> numbers(static_cast<std::size_t>(cells * tokens * heads));
  const std::size_t bytes = numbers.size() * sizeof(float);
  ggml_backend_tensor_get(&logits, numbers.data(), 0, bytes);
  for_biases(at, [&](const kvfit::engine_bias& bias, const std::vector<std::size_t>& places) {
    if (bias.heads != heads) return refuse(at.layer, "a bias has another number of heads");
    for (index_t h = 0; h < heads; ++h) {
      const kvfit::row_view of_head = bias.head(static_cast<std::size_t>(h));
      for (index_t j = 0; j < bias.columns; ++j) {
        const auto cell = static_cast<index_t>(places[static_cast<std::size_t>(j)]);
        if (cell >= cells) continue;  // no token of this batch sees so far
        const float b = of_head(0, j);
        float* const first = numbers.data() + h * tokens * cells + cell;
        for (index_t i = 0; i < tokens; ++i) first[i * cells] += b;
      }
    }
  });
  if (!cause_) ggml_backend_tensor_set(&logits, numbers.data(), 0, bytes);
}

/// The kernel's attention with biases: softmax(cap(scale · q·k) + slope · mask + bias) · v, sinks
/// beside it. [d, tokens, heads] by [d, cells, KV heads] to [d, heads, tokens].
void graph_tap::attend_again(const found& at, ggml_tensor& node) {
  const ggml_tensor& q = *node.src[0];
  const ggml_tensor& k = *node.src[1];
  const ggml_tensor& v = *node.src[2];
  const ggml_tensor* const mask = node.src[3];
  const layer_attention& rule = layers_[static_cast<std::size_t>(at.layer)];
  const index_t tokens = q.ne[1];
  const index_t heads = q.ne[2];
  const index_t cells = k.ne[1];
  if (node.ne[3] != 1 || node.type != GGML_TYPE_F32 || !ggml_is_contiguous(&node) ||
      v.ne[2] != k.ne[2] || (mask != nullptr && (mask->ne[2] != 1 || mask->ne[3] != 1))) {
    return refuse(at.layer, "a fused kernel of a shape that is not known");
  }
  const auto query_bytes = bytes_of(q);
  const auto key_bytes = bytes_of(k);
  const auto value_bytes = bytes_of(v);
  const auto mask_bytes = mask == nullptr ? std::vector<std::byte>() : bytes_of(*mask);
  matrix bias = matrix::Zero(heads, cells);
  for_biases(at, [&](const kvfit::engine_bias& given, const std::vector<std::size_t>& places) {
    if (given.heads != heads) return refuse(at.layer, "a bias has another number of heads");
    for (index_t h = 0; h < heads; ++h) {
      const kvfit::row_view of_head = given.head(static_cast<std::size_t>(h));
      for (index_t j = 0; j < given.columns; ++j) {
        const auto cell = static_cast<index_t>(places[static_cast<std::size_t>(j)]);
        if (cell < cells) bias(h, cell) += of_head(0, j);
      }
    }
  });
  if (cause_) return;
  const index_t width = v.ne[0];
  std::vector<float> outputs(static_cast<std::size_t>(width * heads * tokens));
  const index_t group = heads / k.ne[2];
  matrix keys, values;
  for (index_t h = 0; h < heads; ++h) {
    if (h % group == 0) {
      keys = rows_of(k, key_bytes, h / group);
      values = rows_of(v, value_bytes, h / group);
    }
    matrix logits = rows_of(q, query_bytes, h) * keys.transpose() * rule.scale;
    if (rule.soft_cap != 0) {
      logits = (logits.array() / rule.soft_cap).tanh() * rule.soft_cap;
    }
    logits.rowwise() += bias.row(h);
    const float slope = rule.alibi == 0 ? 1 : rule.slope(h);
    const bool has_sink = !rule.sinks.empty();
    const float sink = has_sink ? rule.sinks[static_cast<std::size_t>(h)] : 0;
    for (index_t i = 0; i < tokens; ++i) {
      auto row = logits.row(i);
      if (mask != nullptr) add_mask(*mask, mask_bytes, i, slope, row);
      const float most = has_sink ? std::max(row.maxCoeff(), sink) : row.maxCoeff();
      row = (row.array() - most).exp();
      row /= row.sum() + (has_sink ? std::exp(sink - most) : 0);
    }
    const matrix made = logits * values;
    for (index_t i = 0; i < tokens; ++i) {
      std::copy(made.row(i).data(), made.row(i).data() + width,
                outputs.begin() + (i * heads + h) * width);
    }
  }
  ggml_backend_tensor_set(&node, outputs.data(), 0, outputs.size() * sizeof(float));
}

bool graph_tap::on_node(ggml_tensor* node, bool is_asked, void* tap) {
  graph_tap& self = *static_cast<graph_tap*>(tap);
  try {  // whoever calls this is written in C
    if (is_asked) {
      if (self.cause_) return true;  // the next computed node ends it
      const found at = self.look_at(*node);
      if (self.cause_) return true;
      const bool is_wanted = self.wants(at);
      if (is_wanted) self.asked_ = at;
      return is_wanted;
    }
    if (self.cause_) return false;
    const found at = self.asked_;
    switch (at.is) {
      case role::product:
        if (self.is_capturing_) self.take(self.queries_, at, *node->src[1], 1);
        [[fallthrough]];
      case role::link:
        if (self.layers_[static_cast<std::size_t>(at.layer)].bias_place == at.place &&
            self.has_bias(at.layer)) {
          self.add_biases(at, *node);
        }
        break;
      case role::fused:
        if (self.is_capturing_) self.take(self.queries_, at, *node->src[0], 1);
        if (self.has_bias(at.layer)) self.attend_again(at, *node);
        if (self.is_capturing_ && self.takes_outputs_) self.take(self.outputs_, at, *node, 2);
        break;
      case role::output:
        self.take(self.outputs_, at, *node, 1);
        break;
      case role::none:
        break;
    }
  } catch (const std::exception&) {
    self.cause_ = error{errc::out_of_memory, "graph_tap"};
  }
  return !self.cause_;
}

kvfit::cache_queries queries_of(const layer_captures& captures,
                                const std::vector<layer_attention>& layers,
                                const kvfit::cache_view& cache, const capture_positions& where) {
  kvfit::cache_queries all;
  for (const layer_capture& capture : captures) {
    const bool is_compacted =
        std::any_of(cache.layers.begin(), cache.layers.end(),
                    [&](const kvfit::cache_layer& l) { return l.number == capture.layer; });
    if (!is_compacted) continue;
    const layer_attention& seen = layers[static_cast<std::size_t>(capture.layer)];
    kvfit::layer_queries& layer = all.emplace_back();
    layer.layer = capture.layer;
    for (std::size_t h = 0; h < capture.heads.size(); ++h) {
      kvfit::query_block block(capture.heads[h], where.first, seen.slope(static_cast<index_t>(h)));
      block.position_step = where.step;
      block.positions = where.positions;
      if (!seen.sinks.empty()) block.sink_logit = seen.sinks[h];
      layer.heads.push_back(block);
    }
  }
  return all;
}

}  // namespace llama_cpp
