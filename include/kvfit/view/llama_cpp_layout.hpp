// SPDX-License-Identifier: MIT
/// llama.cpp's cache (its src/llama-kv-cache.cpp): one head's keys or values as a view.
///
/// Errors: `shape_mismatch` (a size below 1, sizes beyond 64 bits, more tokens or entries than
/// there is space for, dims that are no multiples of a block, memory that is too small),
/// `invalid_option` (a head or the like that is not there, a type without a layout),
/// `invalid_position` (a cell or page that is not there), `null_data`. No numbers are read; nothing
/// is allocated.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "kvfit/core/result.hpp"
#include "kvfit/view/layout_sizes.hpp"

namespace kvfit {

/// One layer's K or V tensor of llama.cpp: [streams, cells, heads · dim]; V without flash attention
/// is transposed: [streams, heads · dim, cells]. Quantised blocks run along the last axis, so cells
/// of a transposed one must be a multiple of 32, and dim of any other.
struct llama_cpp_cache {
  const void* data = nullptr;
  dtype type = dtype::fp16;
  index_t cells = 0;  ///< kv_size
  index_t heads = 0;  ///< n_head_kv
  index_t dim = 0;    ///< n_embd_head_k or n_embd_head_v
  bool is_transposed = false;
  index_t stream = 0;
  index_t streams = 1;
  std::size_t bytes = 0;  ///< of the memory at `data`; 0: not known, not checked
};

namespace detail {

inline result<row_memory> llama_cpp_memory(const llama_cpp_cache& cache, index_t head) {
  const std::array<named_size, 4> sizes = {{{"cells", cache.cells},
                                            {"heads", cache.heads},
                                            {"dim", cache.dim},
                                            {"streams", cache.streams}}};
  if (const auto ok = check_sizes(sizes); !ok) return ok.error();
  if (const auto ok = check_place("head", head, cache.heads); !ok) return ok.error();
  if (const auto ok = check_place("stream", cache.stream, cache.streams); !ok) return ok.error();
  if (cache.type == dtype::int8) {
    return error{errc::invalid_option, "type", error::none, error::none, "int8 is no ggml type"};
  }
  const index_t run = cache.is_transposed ? cache.cells : cache.dim;
  const std::array<index_t, 4> by_token = {cache.streams, cache.cells, cache.heads, cache.dim};
  const std::array<index_t, 4> by_dim = {cache.streams, cache.heads, cache.dim, cache.cells};
  const dense<4> axes(cache.is_transposed ? by_dim : by_token);
  if (const auto ok = check_room(cache.type, axes.total, run, cache.bytes); !ok) {
    error cause = ok.error();
    if (cause.argument == "dim" && cache.is_transposed) cause.argument = "cells";
    return cause;
  }
  const index_t start =
      cache.stream * axes.stride[0] + head * axes.stride[cache.is_transposed ? 1 : 2];
  return row_memory{.data = advance(cache.data, cache.type, start),
                    .type = cache.type,
                    .rows = cache.cells,
                    .cols = cache.dim,
                    .row_stride = cache.is_transposed ? 1 : axes.stride[1],
                    .col_stride = cache.is_transposed ? cache.cells : 1};
}

}  // namespace detail

/// Cells 0 … tokens − 1 of one KV head: tokens × dim.
///
///     llama_cpp_head({.data = v->data, .type = dtype::q8_0, .cells = 4096, .heads = 8,
///                     .dim = 128, .is_transposed = true}, head, tokens)
inline result<row_view> llama_cpp_head(const llama_cpp_cache& cache, index_t head, index_t tokens) {
  auto memory = detail::llama_cpp_memory(cache, head);
  if (!memory) return memory.error();
  if (tokens < 0 || tokens > cache.cells) {
    return detail::refuse_memory("tokens", tokens, cache.cells, "no more than cells");
  }
  memory->rows = tokens;
  return make_view(*memory);
}

/// Cells by number, in the order of their tokens: a sequence's cells need not be neighbours. The
/// list must outlive the view.
inline result<row_view> llama_cpp_head(const llama_cpp_cache& cache, index_t head,
                                       std::span<const index_t> cells) {
  const auto memory = detail::llama_cpp_memory(cache, head);
  if (!memory) return memory.error();
  return make_listed_view(*memory, cells);
}

}  // namespace kvfit
