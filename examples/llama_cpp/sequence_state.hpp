// SPDX-License-Identifier: MIT
/// One sequence of llama.cpp's cache as `llama_state_seq_get_data` hands it out: read where it
/// lies, written anew with fewer cells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "llama_cpp/graph_tap.hpp"

namespace llama_cpp {

/// Where one layer's keys and values lie among the bytes.
struct layer_place {
  kvfit::dtype key_type = kvfit::dtype::fp16;
  kvfit::dtype value_type = kvfit::dtype::fp16;
  std::size_t keys = 0;     ///< byte of cell 0
  std::size_t values = 0;   ///< byte of cell 0, element 0
  index_t key_width = 0;    ///< KV heads · d_k
  index_t value_width = 0;  ///< KV heads · d_v
};

/// The bytes, and what they were found to say, all numbers of 32 bits but where said otherwise:
///
///     magic, sequence
///     streams (1), cells
///     a cell:   position, sequences (1), sequence
///     is V transposed, layers, size of the rotation of keys (0), of values (0)
///     a layer's K:   type, bytes a cell (64 bits), cells · bytes
///     a layer's V:   as K; transposed: type, bytes a number, width, width · cells · bytes
///
/// This is llama.cpp's own form, promised nowhere, as LLAMA_STATE_SEQ_VERSION 4 has it (llama.cpp
/// 0.7) for models with one attention cache and one position a token. Other versions are refused,
/// as is every byte that does not fit.
struct sequence_state {
  std::vector<std::byte> bytes;
  std::vector<index_t> positions;  ///< of each cell, ascending
  bool is_transposed = false;      ///< values: [width, cells] instead of [cells, width]
  std::vector<layer_place> layers;

  [[nodiscard]] index_t cells() const noexcept { return static_cast<index_t>(positions.size()); }
};

/// Finds out what the bytes say; every size is compared with what is left of them, and nothing may
/// be left over.
///
/// Errors: `unsupported_file` for a LLAMA_STATE_SEQ_VERSION other than 4, types other than fp32,
/// fp16 and bf16, several streams, cells of several sequences, rotated numbers (quantised caches);
/// `malformed_file` (byte, size) for bytes that do not follow the form; `invalid_position` (cell,
/// position) where positions do not ascend; `empty_input` for no cells.
result<sequence_state> read_state(std::vector<std::byte> bytes);

/// The whole cache by reference: layers · KV heads of `attention`, with their scales and rotations.
///
/// Errors: `shape_mismatch` where the layers seen in the graph are not those of the state, or its
/// widths are not theirs.
result<kvfit::cache_view> view_of(const sequence_state& state,
                                  const std::vector<layer_attention>& attention);

/// A state with the rows of `compact` in place of those of `full`: head h's rows in cells
/// 0 … t_h − 1, in as many cells as the longest head of all layers has rows. What a shorter head
/// does not fill is 0, and must be hidden by a bias of −∞.
///
/// Keys keep the rotation that they have. Cells are said to stand at the last positions before
/// `full` ends, so that what is read next stands where it always would have and sees all of them:
/// llama.cpp uses a cell's position for causality, for windows and for ALiBi, none of which the
/// compact rows have to do with.
///
/// Errors: `shape_mismatch` where layers, heads or widths differ; `storage_overflow` for a number
/// that the cache's type can't hold; those of `read_state`.
result<sequence_state> compact_state(const sequence_state& full,
                                     const kvfit::compacted_cache& compact);

/// The keys of cells 0 … cells − 1 as bytes, [cells, KV heads · d_k].
std::vector<std::byte> key_bytes(const sequence_state& state, std::size_t layer);

}  // namespace llama_cpp
