// SPDX-License-Identifier: MIT
/// Reads queries and the rule of attention out of llama.cpp's graph while it is computed, and adds
/// biases.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/cache_view.hpp"
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
  index_t query_heads = 0;  ///< 0: the layer was not seen, or has no attention
  index_t kv_heads = 0;
  index_t key_size = 0;
  index_t readers = 0;     ///< layers that read this layer's keys and values, itself included
  bool is_fused = false;   ///< one kernel for all of it (flash attention)
  float scale = 0;         ///< of q·k, before the soft cap
  float soft_cap = 0;      ///< 0: none
  float bias_scale = 1;    ///< what a bias is multiplied by where it is added
  index_t bias_place = 0;  ///< nodes between q·k and where a bias is added
  float alibi = 0;         ///< ggml's max_bias; 0: no ALiBi
  std::vector<float> sinks = {};             ///< a logit a query head, or none
  std::optional<kvfit::rope> rotation = {};  ///< where it is one that kvfit describes
  const ggml_tensor* keys = nullptr;         ///< the cache's own tensor of this layer

  /// How kvfit makes logits of this layer's queries and keys.
  [[nodiscard]] kvfit::logit_rule rule() const {
    return {.scale = scale, .soft_cap = soft_cap, .causal = alibi > 0};
  }
  /// What each position of distance takes from a query head's logits.
  [[nodiscard]] float slope(index_t head) const;
};

/// What is added to one layer's logits.
struct layer_bias {
  index_t layer = 0;
  /// fp32 [query heads, 1, t], `kvfit::bias_layouts::llama_cpp_kq_b` with `bias_scale`.
  kvfit::engine_bias bias;
  /// What t cells of the layer's K must hold, for a bias is its row's and no other's.
  std::vector<std::byte> keys;
  /// Whether it is anything but 0: a fused kernel is left alone otherwise.
  [[nodiscard]] bool is_needed() const;
};

/// The biases of one sequence's compact cells.
struct sequence_bias {
  index_t stream = 0;  ///< of the cache's tensors
  std::vector<layer_bias> layers;
};

/// The queries, or outputs, of one layer that attends: one matrix a head, n × d.
struct layer_capture {
  index_t layer = 0;   ///< whose keys and values it reads
  index_t reader = 0;  ///< the how-manieth layer that reads them
  std::vector<matrix> heads;
};
using layer_captures = std::vector<layer_capture>;

/// Where captured queries stand: row i at first + i · step, or at positions[i] where there are any.
struct capture_positions {
  index_t first = 0;
  index_t step = 1;
  std::span<const index_t> positions = {};
};

/// Captured queries of the layers that `cache` has; those of others, which see a window alone, are
/// left out. `layers` as the tap has seen them. All must outlive it.
kvfit::cache_queries queries_of(const layer_captures& captures,
                                const std::vector<layer_attention>& layers,
                                const kvfit::cache_view& cache, const capture_positions& where);

/// An evaluation callback (`cb_eval` of llama_context_params) that finds attention by what it
/// reads: the product whose first factor is a view of "cache_k_l<layer>", and the softmax or the
/// fused kernel behind it. It depends on no other name of a node.
///
/// Queries are those that meet the keys, whatever was done to them before. A bias is added to what
/// the softmax reads: q·k, or, under a soft cap, what the cap left of it. A fused kernel has no
/// such place: the attention of a layer that needs a bias is computed here once more, with it, from
/// the very tensors that the kernel read, and put in place of the kernel's.
///
/// Errors are kept and end the computation; whoever called llama_decode asks for them. Refused
/// (`unsupported_file`, layer): what stands between q·k and softmax and is not a scale or a cap,
/// several streams in one batch, and cells that do not hold the keys whose bias is to be added.
class graph_tap {
 public:
  static bool on_node(ggml_tensor* node, bool is_asked, void* tap);

  /// By number, as far as they have been seen.
  [[nodiscard]] const std::vector<layer_attention>& layers() const noexcept { return layers_; }

  /// From now on every `step`-th token's queries are kept, and, where asked for, the outputs of
  /// attention before they are projected.
  void start_capture(index_t step, bool with_outputs = false);
  /// Ends it. One entry a layer and reader, ascending.
  layer_captures take_queries();
  layer_captures take_outputs();  ///< after `take_queries`

  /// From now on added to the logits of a sequence's compact cells.
  void set_biases(index_t sequence, sequence_bias biases);
  void clear_biases(index_t sequence) { biases_.erase(sequence); }
  void clear_biases() { biases_.clear(); }
  /// The same rows may lie in other cells from now on.
  void forget_places(index_t sequence);

  /// The first mistake since it was last asked for.
  std::optional<kvfit::error> take_error();

 private:
  /// Nodes from q·k on, as far as they were asked about.
  struct chain {
    const ggml_tensor* last = nullptr;
    index_t layer = -1;
    index_t reader = 0;
    index_t place = 0;      ///< nodes behind q·k
    index_t stream = 0;     ///< of the cache's tensors
    float inner_scale = 1;  ///< before the cap
    float outer_scale = 1;  ///< behind it
    bool is_capped = false;
  };
  enum class role { none, product, link, fused, output };
  struct found {
    role is = role::none;
    index_t layer = -1;
    index_t reader = 0;
    index_t place = 0;
    index_t stream = 0;
  };
  struct captured {
    std::vector<std::vector<float>> heads;
    index_t tokens = 0;  ///< seen, kept or not
    index_t width = 0;
  };
  using captures = std::map<std::pair<index_t, index_t>, captured>;  ///< by layer and reader
  struct placed_bias {
    sequence_bias of;
    std::vector<std::size_t> cells;      ///< that hold the rows; empty: not looked for yet
    std::map<index_t, bool> is_checked;  ///< layers whose cells were found to hold their keys
  };

  found look_at(const ggml_tensor& node);
  found follow(const ggml_tensor& node);
  index_t reader_of(index_t layer);
  void learn(index_t layer, index_t reader, const ggml_tensor& keys, const ggml_tensor& queries);
  void learn_softmax(const ggml_tensor& node);
  void learn_fused(const ggml_tensor& node, index_t layer);
  void learn_sinks(layer_attention& to, const ggml_tensor* sinks);
  [[nodiscard]] bool has_bias(index_t layer) const;
  [[nodiscard]] bool wants(const found& at) const;
  void take(captures& to, const found& at, const ggml_tensor& from, int token_axis);
  bool place(placed_bias& bias, const layer_bias& layer, const ggml_tensor& cache, index_t stream);
  void add_biases(const found& at, ggml_tensor& logits);
  void attend_again(const found& at, ggml_tensor& node);
  template <class Add>
  void for_biases(const found& at, Add add);
  void refuse(index_t layer, const char* why);
  static layer_captures matrices_of(captures& from);

  std::vector<layer_attention> layers_;
  chain chain_;
  found asked_;  ///< what is known about the node that was asked about last
  index_t first_layer_ = -1;
  std::map<index_t, index_t> readers_;  ///< of each layer, in this computation of the graph
  bool is_capturing_ = false;
  bool takes_outputs_ = false;
  index_t step_ = 1;
  captures queries_;
  captures outputs_;
  std::map<index_t, placed_bias> biases_;
  std::vector<std::byte> scratch_;
  std::optional<kvfit::error> cause_;
};

}  // namespace llama_cpp
