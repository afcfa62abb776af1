// SPDX-License-Identifier: MIT
#include "llama_cpp/session.hpp"

#include <ggml-backend.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "llama_cpp/architectures.hpp"

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;

constexpr index_t most_at_once = 512;

bool is_cache_type(ggml_type type) {
  constexpr std::array known = {GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16,
                                GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                                GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL};
  return std::find(known.begin(), known.end(), type) != known.end();
}

/// llama.cpp tells much while it loads; what went wrong is in the errors.
void only_errors(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

bool has_grid(const llama_model* model) {
  const auto rope = llama_model_rope_type(model);
  return rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
}

/// Added to the biases of a head's rows: under ALiBi the kernel takes slope · (p − cell's position)
/// from a logit, and slope · (p − key's position) is what it should be.
void add_alibi(const kvfit::compacted_layer& layer, const layer_attention& seen,
               const state_cache& cache, kvfit::engine_bias& bias) {
  const index_t group = seen.query_heads / seen.kv_heads;
  for (index_t q = 0; q < seen.query_heads; ++q) {
    const auto head = static_cast<std::size_t>(q / group);
    const double slope = double{seen.slope(q)};
    for (index_t j = 0; j < layer.rows(head); ++j) {
      const index_t at = layer.key_positions[static_cast<std::size_t>(layer.offsets[head] + j)];
      const index_t cell = cache.positions[static_cast<std::size_t>(j)];
      const auto place = static_cast<std::size_t>(q * bias.columns + j) * sizeof(float);
      float number = 0;
      std::memcpy(&number, bias.bytes.data() + place, sizeof number);
      number += static_cast<float>(slope * static_cast<double>(at - cell) / seen.bias_scale);
      std::memcpy(bias.bytes.data() + place, &number, sizeof number);
    }
  }
}

result<void> check_session(const session_options& options) {
  if (!is_cache_type(options.keys) || !is_cache_type(options.values)) {
    return error{errc::invalid_option, "keys, values", error::none, error::none,
                 "must be f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl"};
  }
  if (options.is_flash && (options.keys == GGML_TYPE_F32 || options.values == GGML_TYPE_F32)) {
    return error{errc::invalid_option, "keys, values", error::none, error::none,
                 "the fused kernel reads fp32 rounded to fp16"};
  }
  if (!options.is_flash && ggml_is_quantized(options.values)) {
    return error{errc::invalid_option, "values", error::none, error::none,
                 "values in blocks need the fused kernel"};
  }
  constexpr index_t most = 1 << 24;
  if (options.cells < 1 || options.cells > most) {
    return error{errc::invalid_option, "cells", options.cells, most};
  }
  constexpr index_t most_sequences = 256;
  if (options.sequences < 1 || options.sequences > most_sequences) {
    return error{errc::invalid_option, "sequences", options.sequences, most_sequences};
  }
  if (options.threads < 1) return error{errc::invalid_option, "threads", options.threads, 1};
  return {};
}

result<void> check_without_bias(const kvfit::compacted_layer& layer, const layer_attention& seen,
                                index_t cells) {
  if (seen.alibi != 0) {
    return error{errc::invalid_option, "bias", layer.number, error::none,
                 "ALiBi: cells do not stand where their keys do, and biases make up for it"};
  }
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    if (layer.rows(h) == cells) continue;
    return error{errc::invalid_option, "rows", layer.rows(h), cells,
                 "heads of different lengths need a bias to hide what they do not fill"};
  }
  if (layer.bias.isZero(0)) return {};
  return error{errc::invalid_option, "bias", layer.number, error::none,
               "a fitted bias can't be left out: fit without one"};
}

}  // namespace

result<shared_model> load_model(const std::filesystem::path& path) {
  llama_log_set(only_errors, nullptr);
  ggml_backend_load_all();
  llama_backend_init();
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  shared_model made(llama_model_load_from_file(path.string().c_str(), params),
                    [](llama_model* model) { llama_model_free(model); });
  if (!made) {
    return error{errc::file_unreadable, path.string(), error::none, error::none,
                 "llama.cpp does not load it"};
  }
  if (const auto ok = check_architecture(made.get()); !ok) return ok.error();
  return made;
}

kvfit::dtype storage_of(const session_options& options) {
  if (options.keys != options.values) return kvfit::dtype::fp32;
  if (options.keys == GGML_TYPE_F16) return kvfit::dtype::fp16;
  return options.keys == GGML_TYPE_BF16 ? kvfit::dtype::bf16 : kvfit::dtype::fp32;
}

result<std::unique_ptr<session>> session::open(const std::filesystem::path& path,
                                               const session_options& options) {
  if (const auto ok = check_session(options); !ok) return ok.error();
  auto model = load_model(path);
  if (!model) return model.error();
  return open(std::move(*model), options);
}

result<std::unique_ptr<session>> session::open(shared_model model, const session_options& options) {
  if (const auto ok = check_session(options); !ok) return ok.error();
  std::unique_ptr<session> made(new session);
  made->options_ = options;
  made->model_ = std::move(model);
  llama_context_params params = llama_context_default_params();
  const index_t streams = options.is_unified ? 1 : options.sequences;
  params.n_ctx = static_cast<std::uint32_t>(options.cells * streams);
  params.n_batch = static_cast<std::uint32_t>(most_at_once);
  params.n_ubatch = static_cast<std::uint32_t>(most_at_once);
  params.n_seq_max = static_cast<std::uint32_t>(options.sequences);
  params.kv_unified = options.is_unified;
  params.n_threads = options.threads;
  params.n_threads_batch = options.threads;
  params.flash_attn_type =
      options.is_flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = options.keys;
  params.type_v = options.values;
  params.cb_eval = graph_tap::on_node;
  params.cb_eval_user_data = &made->tap_;
  params.no_perf = true;
  made->context_.reset(llama_init_from_model(made->model_.get(), params));
  if (!made->context_) {
    return error{errc::out_of_memory, "cells", options.cells, error::none,
                 "llama.cpp makes no context of so many"};
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

std::string session::piece_of(token each) const {
  std::string text(32, '\0');
  for (;;) {
    const auto space = static_cast<std::int32_t>(text.size());
    const auto size = llama_token_to_piece(vocab(), each, text.data(), space, 0, false);
    text.resize(static_cast<std::size_t>(size < 0 ? -size : size));
    if (size >= 0) return text;
  }
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
                             index_t sequence, matrix& to, index_t& row) {
  llama_batch one = llama_batch_init(static_cast<std::int32_t>(tokens.size()), 0, 1);
  one.n_tokens = static_cast<std::int32_t>(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    one.token[i] = tokens[i];
    one.pos[i] = static_cast<llama_pos>(position + static_cast<index_t>(i));
    one.n_seq_id[i] = 1;
    one.seq_id[i][0] = static_cast<llama_seq_id>(sequence);
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

result<matrix> session::read(std::span<const token> tokens, index_t position, index_t first_row,
                             index_t sequence) {
  const auto count = static_cast<index_t>(tokens.size());
  if (count == 0) return error{errc::empty_input, "tokens", 0};
  if (sequence < 0 || sequence >= options_.sequences) {
    return error{errc::invalid_option, "sequence", sequence, options_.sequences - 1};
  }
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
    const auto ok = decode(part, position + first, first_row - first, sequence, logits, row);
    if (!ok) return ok.error();
  }
  return logits;
}

result<void> session::forget_from(index_t position, index_t sequence) {
  const auto at = static_cast<llama_pos>(position);
  if (llama_memory_seq_rm(llama_get_memory(context_.get()), static_cast<llama_seq_id>(sequence), at,
                          -1)) {
    return {};
  }
  return error{errc::invalid_position, "forget_from", position, error::none,
               "recurrent layers do not forget a part"};
}

state_form session::form_of(index_t sequence) const {
  const auto id = static_cast<llama_seq_id>(sequence);
  const bool is_split =
      llama_state_seq_get_size_ext(context_.get(), id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) <
      llama_state_seq_get_size(context_.get(), id);
  return {.has_windows = is_split && llama_model_n_swa(model_.get()) > 0,
          .has_tail = is_hybrid(),
          .has_grid = has_grid(model_.get())};
}

/// Layers of a state by the tensors of the cache that hold their first key.
result<void> session::number_layers(sequence_state& state) {
  struct tensor_bytes {
    index_t number;
    const ggml_tensor* tensor;
    std::vector<std::byte> bytes;
  };
  std::vector<tensor_bytes> all;
  for (std::size_t l = 0; l < tap_.layers().size(); ++l) {
    const ggml_tensor* const keys = tap_.layers()[l].keys;
    if (keys == nullptr) continue;
    all.push_back({static_cast<index_t>(l), keys, std::vector<std::byte>(ggml_nbytes(keys))});
    ggml_backend_tensor_get(keys, all.back().bytes.data(), 0, all.back().bytes.size());
  }
  const auto number = [&](const state_cache& cache, layer_place& place) -> result<void> {
    const std::size_t row = ggml_row_size(place.key_type, place.key_width);
    const std::byte* const first = state.bytes.data() + place.keys;
    index_t found = -1;
    for (const tensor_bytes& each : all) {
      if (each.tensor->type != place.key_type || each.tensor->nb[1] != row) continue;
      const auto cells = static_cast<std::size_t>(each.tensor->ne[1]);
      const std::size_t start =
          each.tensor->ne[2] > 1 ? static_cast<std::size_t>(cache.stream) * each.tensor->nb[2] : 0;
      bool is_there = false;
      for (std::size_t c = 0; c < cells && !is_there; ++c) {
        is_there = std::memcmp(each.bytes.data() + start + c * row, first, row) == 0;
      }
      if (!is_there) continue;
      if (found >= 0) {
        return error{errc::shape_mismatch, "layers", found, each.number,
                     "two layers of the cache hold the same first key"};
      }
      found = each.number;
    }
    if (found < 0) {
      return error{errc::shape_mismatch, "layers", static_cast<index_t>(cache.layers.size()),
                   static_cast<index_t>(all.size()),
                   "a layer of the state is in no tensor that was seen in the graph"};
    }
    place.number = found;
    return {};
  };
  for (state_cache* const cache : {&state.global, &state.windows}) {
    for (layer_place& place : cache->layers) {
      if (const auto ok = number(*cache, place); !ok) return ok;
    }
  }
  return {};
}

result<sequence_state> session::save(index_t sequence) {
  const auto id = static_cast<llama_seq_id>(sequence);
  std::vector<std::byte> bytes(llama_state_seq_get_size(context_.get(), id));
  const std::size_t written = llama_state_seq_get_data(
      context_.get(), reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size(), id);
  if (written != bytes.size()) {
    return error{errc::malformed_file, "sequence state", static_cast<index_t>(written),
                 static_cast<index_t>(bytes.size()), "bytes written"};
  }
  auto state = read_state(std::move(bytes), form_of(sequence));
  if (!state) return state;
  if (const auto ok = number_layers(*state); !ok) return ok.error();
  return state;
}

result<void> session::set_state(const sequence_state& state, index_t sequence) {
  const auto id = static_cast<llama_seq_id>(sequence);
  llama_memory_t memory = llama_get_memory(context_.get());
  if (options_.sequences == 1) llama_memory_clear(memory, true);
  llama_memory_seq_rm(memory, id, -1, -1);
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(state.bytes.data());
  const std::size_t read = llama_state_seq_set_data(context_.get(), bytes, state.bytes.size(), id);
  if (read == state.bytes.size()) return {};
  return error{errc::malformed_file, "sequence state", static_cast<index_t>(read),
               static_cast<index_t>(state.bytes.size()), "bytes that llama.cpp took"};
}

result<void> session::load(const sequence_state& state, index_t sequence) {
  tap_.clear_biases(sequence);
  placed_.erase(sequence);
  if (const auto ok = set_state(state, sequence); !ok) return ok;
  placed_.insert_or_assign(sequence, state);
  return {};
}

result<void> session::rewind(index_t sequence) {
  const auto placed = placed_.find(sequence);
  if (placed == placed_.end()) {
    return error{errc::invalid_option, "rewind", sequence, error::none, "nothing was put in place"};
  }
  const state_form& form = placed->second.form;
  if (!form.has_tail && !form.has_windows) {
    return forget_from(placed->second.end_position(), sequence);
  }
  tap_.forget_places(sequence);
  return set_state(placed->second, sequence);
}

result<placed_cache> place_cache(const sequence_state& full, const kvfit::compacted_cache& compact,
                                 const std::vector<layer_attention>& layers, bool with_bias,
                                 index_t moved_back) {
  auto small = compact_state(full, compact, moved_back);
  if (!small) return small.error();
  sequence_bias biases{.stream = small->global.stream, .layers = {}};
  for (std::size_t l = 0; l < compact.layers.size(); ++l) {
    const kvfit::compacted_layer& layer = compact.layers[l];
    if (layer.number >= static_cast<index_t>(layers.size())) {
      return error{errc::shape_mismatch, "layers", layer.number,
                   static_cast<index_t>(layers.size()), "seen in the graph so far"};
    }
    const layer_attention& seen = layers[static_cast<std::size_t>(layer.number)];
    if (!with_bias) {
      if (const auto ok = check_without_bias(layer, seen, small->cells()); !ok) return ok.error();
      continue;
    }
    auto bias = kvfit::make_engine_bias(
        layer,
        kvfit::bias_layouts::llama_cpp_kq_b(seen.query_heads, small->cells(), seen.bias_scale));
    if (!bias) return bias.error();
    if (seen.alibi != 0) add_alibi(layer, seen, small->global, *bias);
    biases.layers.push_back({.layer = layer.number,
                             .bias = std::move(*bias),
                             .keys = key_bytes(*small, small->global, l)});
  }
  return placed_cache{std::move(*small), std::move(biases)};
}

result<void> session::put(const placed_cache& placed, index_t sequence) {
  if (const auto ok = load(placed.state, sequence); !ok) return ok;
  if (!placed.biases.layers.empty()) tap_.set_biases(sequence, placed.biases);
  return {};
}

result<void> session::put_back(const sequence_state& full, const kvfit::compacted_cache& compact,
                               bool with_bias, index_t sequence) {
  const auto placed = place_cache(full, compact, tap_.layers(), with_bias);
  if (!placed) return placed.error();
  return put(*placed, sequence);
}

}  // namespace llama_cpp
