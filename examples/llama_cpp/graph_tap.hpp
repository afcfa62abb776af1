// SPDX-License-Identifier: MIT
/// Reads queries out of llama.cpp's attention while it is computed, and adds biases.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/engine_bias.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"

namespace llama_cpp {

using kvfit::index_t;
using kvfit::matrix;
using kvfit::result;

/// One layer's attention, as the graph shows it.
struct layer_attention {
  index_t query_heads = 0;
  index_t kv_heads = 0;
  index_t key_size = 0;
  float scale = 0;                           ///< what the softmax multiplies q·k by
  std::optional<kvfit::rope> rotation = {};  ///< where it is a plain rotation of positions
};

/// What is added to one layer's logits.
struct layer_bias {
  /// fp32 [query heads, 1, t], `kvfit::bias_layouts::llama_cpp_kq_b`: added before the scale.
  kvfit::engine_bias bias;
  /// What cells 0 … t − 1 of the layer's K must hold, for a bias is its row's and no other's.
  std::vector<std::byte> keys;
};

/// The matrices of every layer, one a head: n × d.
using layer_heads = std::vector<std::vector<matrix>>;

/// An evaluation callback (`cb_eval` of llama_context_params) that finds attention by what it
/// reads: the product whose first factor is a view of "cache_k_l<layer>", and the softmax or the
/// fused kernel behind it. It depends on no other name of a node.
///
/// Queries are those that meet the keys, whatever was done to them before. A bias is added to the
/// product q·k, before the softmax scales it; a fused kernel has no such place, and is refused.
///
/// Errors are kept and end the computation; whoever called llama_decode asks for them. Refused
/// (`unsupported_file`, layer): ALiBi, attention sinks, a soft-cap, more than one stream, and cells
/// that do not hold the keys whose bias is to be added.
class graph_tap {
 public:
  static bool on_node(ggml_tensor* node, bool is_asked, void* tap);

  /// Layers in order, as far as they have been seen.
  [[nodiscard]] const std::vector<layer_attention>& layers() const noexcept { return layers_; }

  /// From now on every `step`-th token's queries are kept, and, where asked for, the outputs of
  /// attention before they are projected.
  void start_capture(index_t step, bool with_outputs = false);
  /// Ends it. One matrix a query head.
  layer_heads take_queries();
  layer_heads take_outputs();  ///< after `take_queries`

  /// From now on added to every token's logits; one a layer, or none at all.
  void set_biases(std::vector<layer_bias> biases);

  /// The first mistake since it was last asked for.
  std::optional<kvfit::error> take_error();

 private:
  struct found {
    index_t layer = -1;
    bool is_product = false;  ///< q·k, not yet scaled
    bool is_fused = false;    ///< the whole attention in one node
    bool is_output = false;   ///< softmax times values
  };
  struct captured {
    std::vector<std::vector<float>> heads;
    index_t tokens = 0;  ///< seen, kept or not
    index_t width = 0;
  };

  found look_at(const ggml_tensor& node);
  void learn(index_t layer, const ggml_tensor& keys, const ggml_tensor& queries);
  void check_softmax(const ggml_tensor& node);
  bool wants(const found& at) const;
  void take(std::vector<captured>& to, index_t layer, const ggml_tensor& from, int token_axis);
  void add_bias(index_t layer, ggml_tensor& product);
  void refuse(index_t layer, const char* why);
  static layer_heads matrices_of(std::vector<captured>& from);

  std::vector<layer_attention> layers_;
  const ggml_tensor* product_ = nullptr;  ///< the last q·k asked about, and its layer
  index_t product_layer_ = -1;
  bool is_capturing_ = false;
  bool takes_outputs_ = false;
  index_t step_ = 1;
  std::vector<captured> queries_;
  std::vector<captured> outputs_;
  std::vector<layer_bias> biases_;
  std::vector<bool> is_placed_;  ///< layers whose cells were found to hold their keys
  std::vector<std::byte> scratch_;
  std::optional<kvfit::error> cause_;
};

}  // namespace llama_cpp
