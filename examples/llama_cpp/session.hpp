// SPDX-License-Identifier: MIT
/// A model and one sequence of it, over llama.cpp's C API.
#pragma once

#include <llama.h>

#include <filesystem>
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
  index_t cells = 4096;                     ///< of the cache, which all layers share
  int threads = 1;                          ///< ≥ 1
  bool is_flash = false;                    ///< the fused kernel, which takes no bias
  kvfit::dtype cache = kvfit::dtype::fp16;  ///< of keys and values: fp32, fp16 or bf16
};

/// A model loaded from a GGUF file, a context of it, and its sequence 0. Runs on the CPU.
class session {
 public:
  /// Errors: `file_unreadable`; `invalid_option`; `unsupported_file` for models whose memory is not
  /// one attention cache with one position a token: recurrent, hybrid, encoder, sliding windows,
  /// multi-part rotations.
  static result<std::unique_ptr<session>> open(const std::filesystem::path& path,
                                               const session_options& options);

  [[nodiscard]] index_t layers() const { return llama_model_n_layer(model_.get()); }
  [[nodiscard]] index_t trained_length() const { return llama_model_n_ctx_train(model_.get()); }
  [[nodiscard]] index_t vocabulary() const { return llama_vocab_n_tokens(vocab()); }
  [[nodiscard]] const session_options& options() const noexcept { return options_; }
  [[nodiscard]] graph_tap& tap() noexcept { return tap_; }

  /// Tokens of a text; `is_start` puts the model's BOS before it, where it has one. Text that looks
  /// like a control token is text.
  [[nodiscard]] result<std::vector<token>> tokens_of(std::string_view text, bool is_start) const;
  /// The text of tokens, control tokens left out.
  [[nodiscard]] std::string text_of(std::span<const token> tokens) const;
  [[nodiscard]] bool ends(token each) const { return llama_vocab_is_eog(vocab(), each); }

  /// Reads tokens at `position`, `position` + 1, …, which must follow what the cache holds. Logits
  /// of those from `first_row` on: rows × vocabulary.
  ///
  /// Errors: `empty_input`; `invalid_option` for a token outside the vocabulary or beyond the
  /// trained length; the tap's; `out_of_memory` where llama.cpp has no cells left or fails.
  result<matrix> read(std::span<const token> tokens, index_t position, index_t first_row);

  /// Forgets what stands at `position` and after it.
  void forget_from(index_t position);

  /// The sequence as it stands. Errors: those of `read_state`.
  result<sequence_state> save();

  /// Puts a sequence in place of what there is, without biases. `malformed_file` where llama.cpp
  /// refuses it.
  result<void> load(const sequence_state& state);

  /// Puts a compact cache in place of `full`, the state that it was made of, and adds its biases to
  /// what is read from now on, until `load`. Without them (`with_bias` false, for fused kernels)
  /// heads must be of one length and biases all 0.
  ///
  /// Errors: those of `compact_state`, `make_engine_bias` and `load`; `invalid_option` where a bias
  /// would be needed.
  result<void> put_back(const sequence_state& full, const kvfit::compacted_cache& compact,
                        bool with_bias);

 private:
  struct free_model {
    void operator()(llama_model* model) const { llama_model_free(model); }
  };
  struct free_context {
    void operator()(llama_context* context) const { llama_free(context); }
  };

  session() = default;
  [[nodiscard]] const llama_vocab* vocab() const { return llama_model_get_vocab(model_.get()); }
  result<void> decode(std::span<const token> tokens, index_t position, index_t first_row,
                      matrix& to, index_t& row);

  session_options options_;
  std::unique_ptr<llama_model, free_model> model_;
  graph_tap tap_;  ///< the context calls it, so it must outlive the context
  std::unique_ptr<llama_context, free_context> context_;
};

}  // namespace llama_cpp
