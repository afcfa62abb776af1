// SPDX-License-Identifier: MIT
/// A model and some sequences of it, over llama.cpp's C API.
#pragma once

#include <llama.h>

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/core/element.hpp"
#include "kvfit/core/result.hpp"
#include "llama_cpp/graph_tap.hpp"
#include "llama_cpp/sequence_state.hpp"

namespace llama_cpp {

using token = llama_token;

struct session_options {
  index_t cells = 4096;              ///< of the cache, which all layers and sequences share
  int threads = 1;                   ///< ≥ 1
  bool is_flash = false;             ///< the fused kernel, which values in blocks need
  ggml_type keys = GGML_TYPE_F16;    ///< fp32, fp16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl
  ggml_type values = GGML_TYPE_F16;  ///< the same; blocks with the fused kernel alone
  index_t sequences = 1;             ///< numbered from 0
  bool is_unified = false;           ///< sequences share their cells; else each has a stream
};

/// A model that several sessions read.
using shared_model = std::shared_ptr<llama_model>;

/// Loads a GGUF file, no layer of it on a GPU. Errors: `file_unreadable`; `check_architecture`'s.
result<shared_model> load_model(const std::filesystem::path& path);

/// A compact cache as it is put in place: a sequence, and what is added to its logits.
struct placed_cache {
  sequence_state state;
  sequence_bias biases;
};

/// A compact cache in place of `full`, the state that it was made of, for `session::put`. `layers`
/// as the tap has seen them. Its cells stand `moved_back` positions before the last ones of `full`.
/// Under ALiBi each bias makes up for its cell's position, which is not its key's. Without biases
/// (`with_bias` false) heads must be of one length, biases all 0, and there must be no ALiBi.
///
/// Errors: those of `compact_state` and `make_engine_bias`; `shape_mismatch` for a layer that was
/// not seen; `invalid_option` where a bias would be needed.
result<placed_cache> place_cache(const sequence_state& full, const kvfit::compacted_cache& compact,
                                 const std::vector<layer_attention>& layers, bool with_bias,
                                 index_t moved_back = 0);

/// Numbers of the type that kvfit rounds rows to while it fits them, where keys and values have one
/// type and each number stands alone; else fp32: others are rounded when they are written.
kvfit::dtype storage_of(const session_options& options);

/// A model and a context of it. Runs on the CPU.
class session {
 public:
  /// Errors: `invalid_option`; `out_of_memory` where llama.cpp makes no context.
  static result<std::unique_ptr<session>> open(shared_model model, const session_options& options);
  /// The same of a model of its own, with the errors of `load_model`.
  static result<std::unique_ptr<session>> open(const std::filesystem::path& path,
                                               const session_options& options);

  [[nodiscard]] index_t layers() const { return llama_model_n_layer(model_.get()); }
  [[nodiscard]] index_t trained_length() const { return llama_model_n_ctx_train(model_.get()); }
  [[nodiscard]] index_t vocabulary() const { return llama_vocab_n_tokens(vocab()); }
  [[nodiscard]] const session_options& options() const noexcept { return options_; }
  [[nodiscard]] graph_tap& tap() noexcept { return tap_; }
  /// Whether something besides an attention cache remembers what was read.
  [[nodiscard]] bool is_hybrid() const { return llama_model_is_hybrid(model_.get()); }

  /// Tokens of a text; `is_start` puts the model's BOS before it, where it has one. Text that looks
  /// like a control token is text.
  [[nodiscard]] result<std::vector<token>> tokens_of(std::string_view text, bool is_start) const;
  /// The text of one token within a text: with the space that it begins with; none of a control
  /// token. May end within a character of several bytes.
  [[nodiscard]] std::string piece_of(token each) const;
  /// The text of tokens, control tokens left out.
  [[nodiscard]] std::string text_of(std::span<const token> tokens) const;
  [[nodiscard]] bool ends(token each) const { return llama_vocab_is_eog(vocab(), each); }

  /// Reads tokens at `position`, `position` + 1, …, which must follow what the cache holds. Logits
  /// of those from `first_row` on: rows × vocabulary.
  ///
  /// Errors: `empty_input`; `invalid_option` for a token outside the vocabulary or beyond the
  /// trained length; the tap's; `out_of_memory` where llama.cpp has no cells left or fails.
  result<matrix> read(std::span<const token> tokens, index_t position, index_t first_row,
                      index_t sequence = 0);

  /// Forgets what stands at `position` and after it. `invalid_position` where llama.cpp can't:
  /// recurrent layers, and windows that have moved on (`load` a state from before instead).
  result<void> forget_from(index_t position, index_t sequence = 0);

  /// The sequence as it stands, each layer of the caches by its number. The state does not tell
  /// which layer is which: the cache's own tensors do, which must hold the very keys. So something
  /// must have been read before.
  ///
  /// Errors: those of `read_state`; `shape_mismatch` where a layer of the state is that of no
  /// tensor or of several.
  result<sequence_state> save(index_t sequence = 0);

  /// Puts a sequence in place of what there is of it, without biases. Others stay as they are.
  /// `malformed_file` where llama.cpp refuses it.
  result<void> load(const sequence_state& state, index_t sequence = 0);

  /// Back to what was last put in place by `load` or `put_back`, biases and all: what was read
  /// since is forgotten, by recurrent layers and windows, too. `invalid_option` where nothing was.
  result<void> rewind(index_t sequence = 0);

  /// `load`, and adds biases to what the sequence reads from now on, until `load`.
  result<void> put(const placed_cache& placed, index_t sequence = 0);

  /// `put` of `place_cache`, with the errors of both.
  result<void> put_back(const sequence_state& full, const kvfit::compacted_cache& compact,
                        bool with_bias, index_t sequence = 0);

  /// What the bytes of this model's sequences are made of, once something was read.
  [[nodiscard]] state_form form_of(index_t sequence = 0) const;
  /// Says which layer of the model each layer of a state is, by the cache's own tensors, which must
  /// hold its keys.
  result<void> number_layers(sequence_state& state);

 private:
  struct free_context {
    void operator()(llama_context* context) const { llama_free(context); }
  };

  session() = default;
  [[nodiscard]] const llama_vocab* vocab() const { return llama_model_get_vocab(model_.get()); }
  result<void> decode(std::span<const token> tokens, index_t position, index_t first_row,
                      index_t sequence, matrix& to, index_t& row);
  result<void> set_state(const sequence_state& state, index_t sequence);

  session_options options_;
  shared_model model_;
  graph_tap tap_;  ///< the context calls it, so it must outlive the context
  std::unique_ptr<llama_context, free_context> context_;
  std::map<index_t, sequence_state> placed_;  ///< what `rewind` goes back to
};

}  // namespace llama_cpp
