// SPDX-License-Identifier: MIT
#include "llama_cpp/session.hpp"

#include <ggml-backend.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>

namespace llama_cpp {

namespace {

using kvfit::dtype;
using kvfit::errc;
using kvfit::error;

constexpr index_t most_at_once = 512;

std::optional<ggml_type> ggml_type_of(dtype type) {
  if (type == dtype::fp32) return GGML_TYPE_F32;
  if (type == dtype::fp16) return GGML_TYPE_F16;
  if (type == dtype::bf16) return GGML_TYPE_BF16;
  return std::nullopt;
}

/// llama.cpp tells much while it loads; what went wrong is in the errors.
void only_errors(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

/// Why a model's memory is not what this adaptor knows; null where it is.
const char* unsupported(const llama_model* model) {
  if (llama_model_has_encoder(model)) return "an encoder";
  if (llama_model_is_recurrent(model)) return "a recurrent model";
  if (llama_model_is_hybrid(model)) return "a hybrid model";
  if (llama_model_n_swa(model) > 0) return "sliding windows";
  const auto rope = llama_model_rope_type(model);
  if (rope != LLAMA_ROPE_TYPE_NONE && rope != LLAMA_ROPE_TYPE_NORM &&
      rope != LLAMA_ROPE_TYPE_NEOX) {
    return "a rotation by several positions";
  }
  return nullptr;
}

}  // namespace

result<std::unique_ptr<session>> session::open(const std::filesystem::path& path,
                                               const session_options& options) {
  const auto type = ggml_type_of(options.cache);
  if (!type) {
    return error{errc::invalid_option, "cache", error::none, error::none,
                 "must be fp32, fp16 or bf16"};
  }
  if (options.is_flash && options.cache == dtype::fp32) {
    return error{errc::invalid_option, "cache", error::none, error::none,
                 "the fused kernel reads fp32 keys rounded to fp16"};
  }
  constexpr index_t most = 1 << 24;
  if (options.cells < 1 || options.cells > most) {
    return error{errc::invalid_option, "cells", options.cells, most};
  }
  if (options.threads < 1) return error{errc::invalid_option, "threads", options.threads, 1};

  llama_log_set(only_errors, nullptr);
  ggml_backend_load_all();
  llama_backend_init();
  std::unique_ptr<session> made(new session);
  made->options_ = options;
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  made->model_.reset(llama_model_load_from_file(path.string().c_str(), model_params));
  if (!made->model_) {
    return error{errc::file_unreadable, path.string(), error::none, error::none,
                 "llama.cpp does not load it"};
  }
  if (const char* const why = unsupported(made->model_.get()); why != nullptr) {
    return error{errc::unsupported_file, path.string(), error::none, error::none, why};
  }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<std::uint32_t>(options.cells);
  params.n_batch = static_cast<std::uint32_t>(most_at_once);
  params.n_ubatch = static_cast<std::uint32_t>(most_at_once);
  params.n_seq_max = 1;
  params.n_threads = options.threads;
  params.n_threads_batch = options.threads;
  params.flash_attn_type =
      options.is_flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = *type;
  params.type_v = *type;
  params.cb_eval = graph_tap::on_node;
  params.cb_eval_user_data = &made->tap_;
  params.no_perf = true;
  made->context_.reset(llama_init_from_model(made->model_.get(), params));
  if (!made->context_) {
    return error{errc::out_of_memory, path.string(), options.cells, error::none,
                 "llama.cpp makes no context of so many cells"};
  }
  return made;
}

result<std::vector<token>> session::tokens_of(std::string_view text, bool is_start) const {
  constexpr auto most = static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) - 2;
  if (text.size() > most) {
    return error{errc::invalid_option, "text", static_cast<index_t>(text.size()),
                 static_cast<index_t>(most)};
  }
  std::vector<token> tokens(text.size() + 1);  // never more than bytes
  std::size_t first = 0;
  if (is_start && llama_vocab_get_add_bos(vocab())) tokens[first++] = llama_vocab_bos(vocab());
  const auto size = static_cast<std::int32_t>(text.size());
  const auto space = static_cast<std::int32_t>(tokens.size() - first);
  const auto count =
      llama_tokenize(vocab(), text.data(), size, tokens.data() + first, space, false, false);
  if (count < 0) return error{errc::invalid_option, "text", -count, space, "tokens"};
  tokens.resize(first + static_cast<std::size_t>(count));
  return tokens;
}

std::string session::text_of(std::span<const token> tokens) const {
  std::string text(tokens.size() * 8 + 16, '\0');
  const auto count = static_cast<std::int32_t>(tokens.size());
  for (;;) {
    const auto space = static_cast<std::int32_t>(text.size());
    const auto size =
        llama_detokenize(vocab(), tokens.data(), count, text.data(), space, true, false);
    text.resize(static_cast<std::size_t>(size < 0 ? -size : size));
    if (size >= 0) return text;
  }
}

result<void> session::decode(std::span<const token> tokens, index_t position, index_t first_row,
                             matrix& to, index_t& row) {
  llama_batch one = llama_batch_init(static_cast<std::int32_t>(tokens.size()), 0, 1);
  one.n_tokens = static_cast<std::int32_t>(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    one.token[i] = tokens[i];
    one.pos[i] = static_cast<llama_pos>(position + static_cast<index_t>(i));
    one.n_seq_id[i] = 1;
    one.seq_id[i][0] = 0;
    one.logits[i] = static_cast<index_t>(i) >= first_row ? 1 : 0;
  }
  const std::int32_t status = llama_decode(context_.get(), one);
  llama_batch_free(one);
  if (auto cause = tap_.take_error()) return *cause;
  if (status != 0) {
    return error{errc::out_of_memory, "llama_decode", status, 0,
                 "1 says that the cache has no cells left"};
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (static_cast<index_t>(i) < first_row) continue;
    const float* const logits = llama_get_logits_ith(context_.get(), static_cast<std::int32_t>(i));
    if (logits == nullptr) return error{errc::null_data, "logits", static_cast<index_t>(i)};
    to.row(row++) = Eigen::Map<const Eigen::RowVectorXf>(logits, vocabulary());
  }
  return {};
}

result<matrix> session::read(std::span<const token> tokens, index_t position, index_t first_row) {
  const auto count = static_cast<index_t>(tokens.size());
  if (count == 0) return error{errc::empty_input, "tokens", 0};
  if (position < 0 || first_row < 0 || count > trained_length() - position) {
    return error{errc::invalid_option, "tokens", position + count, trained_length(),
                 "beyond the trained length"};
  }
  for (const token each : tokens) {
    if (each >= 0 && each < vocabulary()) continue;
    return error{errc::invalid_option, "tokens", each, vocabulary() - 1, "not in the vocabulary"};
  }
  matrix logits(std::max<index_t>(0, count - first_row), vocabulary());
  index_t row = 0;
  const index_t batch = llama_n_batch(context_.get());  // no more than there are cells
  for (index_t first = 0; first < count; first += batch) {
    const auto part = tokens.subspan(static_cast<std::size_t>(first),
                                     static_cast<std::size_t>(std::min(batch, count - first)));
    const auto ok = decode(part, position + first, first_row - first, logits, row);
    if (!ok) return ok.error();
  }
  return logits;
}

void session::forget_from(index_t position) {
  llama_memory_seq_rm(llama_get_memory(context_.get()), 0, static_cast<llama_pos>(position), -1);
}

result<sequence_state> session::save() {
  std::vector<std::byte> bytes(llama_state_seq_get_size(context_.get(), 0));
  const std::size_t written = llama_state_seq_get_data(
      context_.get(), reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size(), 0);
  if (written != bytes.size()) {
    return error{errc::malformed_file, "sequence state", static_cast<index_t>(written),
                 static_cast<index_t>(bytes.size()), "bytes written"};
  }
  return read_state(std::move(bytes));
}

result<void> session::load(const sequence_state& state) {
  tap_.set_biases({});
  llama_memory_clear(llama_get_memory(context_.get()), true);
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(state.bytes.data());
  const std::size_t read = llama_state_seq_set_data(context_.get(), bytes, state.bytes.size(), 0);
  if (read == state.bytes.size()) return {};
  return error{errc::malformed_file, "sequence state", static_cast<index_t>(read),
               static_cast<index_t>(state.bytes.size()), "bytes that llama.cpp took"};
}

result<void> session::put_back(const sequence_state& full, const kvfit::compacted_cache& compact,
                               bool with_bias) {
  const auto small = compact_state(full, compact);
  if (!small) return small.error();
  std::vector<layer_bias> biases;
  for (std::size_t l = 0; l < compact.layers.size(); ++l) {
    const kvfit::compacted_layer& layer = compact.layers[l];
    if (!with_bias) {
      for (std::size_t h = 0; h < layer.heads.size(); ++h) {
        if (layer.rows(h) == small->cells()) continue;
        return error{errc::invalid_option, "rows", layer.rows(h), small->cells(),
                     "heads of different lengths need a bias to hide what they do not fill"};
      }
      if (layer.bias.isZero(0)) continue;
      return error{errc::invalid_option, "bias", layer.number, error::none,
                   "a fitted bias can't be left out: fit without one"};
    }
    if (l >= tap_.layers().size()) {
      return error{errc::shape_mismatch, "layers", static_cast<index_t>(l),
                   static_cast<index_t>(tap_.layers().size()), "seen in the graph so far"};
    }
    const layer_attention& seen = tap_.layers()[l];
    auto bias = kvfit::make_engine_bias(
        layer, kvfit::bias_layouts::llama_cpp_kq_b(seen.query_heads, small->cells(), seen.scale));
    if (!bias) return bias.error();
    biases.push_back({std::move(*bias), key_bytes(*small, l)});
  }
  if (const auto ok = load(*small); !ok) return ok;
  tap_.set_biases(std::move(biases));
  return {};
}

}  // namespace llama_cpp
