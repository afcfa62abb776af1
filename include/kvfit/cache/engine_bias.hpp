// SPDX-License-Identifier: MIT
/// A compacted layer's biases as the tensor that an engine's attention kernel adds.
///
/// kvfit's bias is added to the logit as the softmax sees it (`logit_rule`): after scale and
/// soft-cap, natural log. Kernels differ in where they add:
///
/// | kernel | adds | layout |
/// |---|---|---|
/// | PyTorch and MLX SDPA (`attn_mask`, `mask`) | after its scale | `sdpa` |
/// | ggml_soft_max_ext, ggml_flash_attn_ext (mask) | after scale and soft-cap | `ggml_mask` |
/// | llama.cpp build_attn_mha (`kq_b`) | after the soft-cap, before its scale | `llama_cpp_kq_b` |
/// | FlashInfer variants (LogitsTransform) | before `sm_scale` | `flashinfer` |
///
/// What is added before a scale is multiplied by it: scale · (q·k + b′) has the bias b only for
/// b′ = b / scale, which `bias_layout::scale` asks for. (Sources: llama.cpp, src/llama-graph.cpp;
/// FlashInfer 0.6, include/flashinfer/attention/decode.cuh and variants.cuh. Engines change:
/// compare with yours.)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/padded.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// In which type and shape, and before which scale, a kernel wants the bias.
struct bias_layout {
  dtype type = dtype::fp32;     ///< fp32, fp16 or bf16
  index_t query_heads = 0;      ///< 0: one head per KV head; else a multiple of the KV heads
  index_t queries = 1;          ///< rows of each head, ≥ 1, all the same
  index_t query_multiple = 1;   ///< rows are rounded up to a multiple of it, by rows of −∞
  index_t columns = 0;          ///< at least so many; the longest head's rows are always there
  index_t column_multiple = 1;  ///< columns are rounded up to a multiple of it
  float scale = 1;              ///< what the kernel multiplies the sum of logit and bias by, > 0
};

/// Row-major [heads, rows, columns]: column j of head h is the bias of the head's row j, −∞ behind
/// its last. Query head q shows the bias of the KV head q / G that it reads.
struct engine_bias {
  dtype type = dtype::fp32;
  index_t heads = 0;
  index_t rows = 0;
  index_t columns = 0;
  std::vector<std::byte> bytes;

  /// rows × columns of one head.
  [[nodiscard]] row_view head(std::size_t h) const& noexcept {
    const std::size_t size = static_cast<std::size_t>(rows * columns) * size_of(type);
    return row_view(bytes.data() + h * size, type, rows, columns, columns);
  }
  row_view head(std::size_t h) const&& = delete;  // it would refer to what is gone
};

}  // namespace kvfit

namespace kvfit::bias_layouts {

/// Additive mask of PyTorch's and MLX's scaled_dot_product_attention: [H, 1, t], or [G · H, 1, t]
/// with `query_heads`, in the type of the queries. It broadcasts over the queries; live tokens are
/// columns to be joined to it.
inline bias_layout sdpa(dtype type, index_t query_heads = 0) {
  return {.type = type, .query_heads = query_heads};
}

/// ggml's mask: fp16 [query_heads, queries, n_kv], one per query head, for it is shared among heads
/// by h mod (heads of the mask), which is not how GQA shares. Columns behind the compact rows are
/// −∞, for the engine to fill with its live cells. Not for models with ALiBi (max_bias > 0), where
/// the mask is multiplied by the slope.
inline bias_layout ggml_mask(index_t query_heads, index_t queries, index_t n_kv,
                             index_t query_multiple = 1) {
  return {.type = dtype::fp16,
          .query_heads = query_heads,
          .queries = queries,
          .query_multiple = query_multiple,
          .columns = n_kv};
}

/// `kq_b` of llama.cpp: fp32 [query_heads, 1, n_kv], b / kq_scale. `kq_scale` is the one handed to
/// build_attn_mha: models that cap their logits scale queries themselves and pass 1.
inline bias_layout llama_cpp_kq_b(index_t query_heads, index_t n_kv, float kq_scale) {
  return {.query_heads = query_heads, .columns = n_kv, .scale = kq_scale};
}

/// A tensor [H, t] for a FlashInfer variant whose LogitsTransform returns
/// logits + bias[kv_head_idx, kv_idx]: b / sm_scale. Under its soft-cap the transform returns
/// tanh(logits · sm_scale / cap), which the kernel multiplies by cap: pass cap instead.
inline bias_layout flashinfer(float sm_scale) {
  return {.scale = sm_scale};
}

}  // namespace kvfit::bias_layouts

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline result<void> check_layout(const bias_layout& layout, index_t heads) {
  if (layout.type != dtype::fp32 && layout.type != dtype::fp16 && layout.type != dtype::bf16) {
    return error{errc::invalid_option, "type", error::none, error::none,
                 "must be fp32, fp16 or bf16, is " + std::string(name(layout.type))};
  }
  if (layout.query_heads < 0 || layout.query_heads % heads != 0) {
    return error{errc::shape_mismatch, "query_heads", layout.query_heads, heads,
                 "must be a multiple of the KV heads, and not negative"};
  }
  if (layout.queries < 1) {
    return error{errc::invalid_option, "queries", layout.queries, 1, "must be at least 1"};
  }
  if (layout.columns < 0) {
    return error{errc::invalid_option, "columns", layout.columns, 0, "must not be negative"};
  }
  if (!(layout.scale > 0 && std::isfinite(layout.scale))) {
    return refuse_number("scale", layout.scale, "must be finite and above 0");
  }
  return {};
}

inline void put_number(std::byte* out, dtype type, float x) {
  const auto put = [out](auto number) { std::memcpy(out, &number, sizeof number); };
  if (type == dtype::fp16) return put(to_fp16(x));
  if (type == dtype::bf16) return put(to_bf16(x));
  put(x);
}

/// One row of a head's biases; `out` holds `columns` numbers.
inline result<void> put_bias_row(const compacted_layer& layer, std::size_t head,
                                 const bias_layout& layout, index_t columns, std::byte* out) {
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  const std::size_t size = size_of(layout.type);
  const index_t rows = layer.rows(head);
  bool is_any_seen = rows == 0;
  for (index_t j = 0; j < columns; ++j, out += size) {
    const float bias = j < rows ? layer.bias[layer.offsets[head] + j] / layout.scale : hidden;
    const float stored = as_stored(bias, layout.type);
    if (stored > 0 && std::isinf(stored)) {
      return error{errc::storage_overflow, part_of(layer, "bias"), static_cast<index_t>(head), j,
                   "row is the head, column its key; exceeds " + std::string(name(layout.type))};
    }
    is_any_seen = is_any_seen || stored != hidden;
    put_number(out, layout.type, stored);
  }
  if (is_any_seen) return {};
  return error{errc::storage_overflow, part_of(layer, "bias"), static_cast<index_t>(head), 0,
               "every key of the head would be hidden as " + std::string(name(layout.type))};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// The biases of `layer` as a kernel wants them.
///
/// A bias rounded to fp16 changes its key's weight by a factor of at most e^(|b| 2⁻¹¹) (0.8 % at
/// |b| = 16), to bf16 e^(|b| 2⁻⁸): values fitted under `compact_options::storage.bias` of the same
/// type know it (where scale is 1). What rounds to −∞, below −65520 in fp16, hides its key, whose
/// weight was 0 in all but name.
///
/// Errors: those of `check_layer`; `shape_mismatch` for query heads that do not divide;
/// `invalid_option`; `storage_overflow` (head, row) for a bias that rounds to +∞, and for a head
/// whose every key would be hidden; `memory_cap_exceeded`, before anything is allocated, where the
/// tensor takes more than `memory` ≥ 0 bytes (none: as many as it takes); `out_of_memory`. Cost:
/// the tensor.
///
///     auto mask = kvfit::make_engine_bias(layer, kvfit::bias_layouts::sdpa(dtype::bf16, 32));
///     // mask->bytes: [32, 1, mask->columns]
[[nodiscard]] inline result<engine_bias> make_engine_bias(
    const compacted_layer& layer, const bias_layout& layout,
    const std::optional<index_t>& memory = {}) {
  return detail::catch_bad_alloc("make_engine_bias", [&]() -> result<engine_bias> {
    if (const auto ok = check_layer(layer); !ok) return ok.error();
    const auto kv_heads = static_cast<index_t>(layer.heads.size());
    if (const auto ok = detail::check_layout(layout, kv_heads); !ok) return ok.error();
    const auto rows = detail::round_up(layout.queries, layout.query_multiple, "query_multiple");
    if (!rows) return rows.error();
    const auto columns = detail::round_up((std::max)(layout.columns, detail::longest_head(layer)),
                                          layout.column_multiple, "column_multiple");
    if (!columns) return columns.error();
    engine_bias out;
    out.type = layout.type;
    out.heads = layout.query_heads == 0 ? kv_heads : layout.query_heads;
    out.rows = *rows;
    out.columns = *columns;
    const index_t most = (std::numeric_limits<index_t>::max)() / index_t{sizeof(float)};
    if (out.columns > 0 && out.heads > most / out.rows / out.columns) {
      return error{errc::out_of_memory, "make_engine_bias", error::none, error::none,
                   "bytes of the tensor exceed 63 bits"};
    }
    const double bytes = static_cast<double>(size_of(out.type)) * static_cast<double>(out.heads) *
                         static_cast<double>(out.rows) * static_cast<double>(out.columns);
    if (const auto ok = detail::check_result_bytes(bytes, memory); !ok) return ok.error();
    const std::size_t row_bytes = static_cast<std::size_t>(out.columns) * size_of(out.type);
    const std::size_t head_bytes = static_cast<std::size_t>(out.rows) * row_bytes;
    out.bytes.resize(static_cast<std::size_t>(out.heads) * head_bytes);
    for (index_t h = 0; h < out.heads; ++h) {
      std::byte* const first = out.bytes.data() + static_cast<std::size_t>(h) * head_bytes;
      const auto head = static_cast<std::size_t>(h / (out.heads / kv_heads));
      const auto ok = detail::put_bias_row(layer, head, layout, out.columns, first);
      if (!ok) return ok.error();
      for (index_t i = 1; i < layout.queries; ++i) {
        std::memcpy(first + static_cast<std::size_t>(i) * row_bytes, first, row_bytes);
      }
      for (index_t i = layout.queries * out.columns; i < out.rows * out.columns; ++i) {
        detail::put_number(first + static_cast<std::size_t>(i) * size_of(out.type), out.type,
                           -std::numeric_limits<float>::infinity());
      }
    }
    return out;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
