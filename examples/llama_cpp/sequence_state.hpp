// SPDX-License-Identifier: MIT
/// One sequence of llama.cpp's memory as `llama_state_seq_get_data` hands it out: read where it
/// lies, written anew with fewer cells.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "llama_cpp/graph_tap.hpp"

namespace llama_cpp {

/// Where one layer's keys and values lie among the bytes. Types are ggml's, numbers or blocks.
struct layer_place {
  index_t number = -1;  ///< of the model's layer: the bytes do not say it, see `session::save`
  ggml_type key_type = GGML_TYPE_F16;
  ggml_type value_type = GGML_TYPE_F16;
  std::size_t keys = 0;     ///< byte of cell 0
  std::size_t values = 0;   ///< byte of cell 0, element 0
  index_t key_width = 0;    ///< KV heads · d_k
  index_t value_width = 0;  ///< KV heads · d_v; 0: values are part of the keys (MLA)
};

/// One attention cache: that of the global layers, or that of the layers with a window.
struct state_cache {
  index_t streams = 1;              ///< of the context
  index_t stream = 0;               ///< the one that the sequence has its cells in
  std::size_t records = 0;          ///< byte where the cells' own records start
  std::vector<index_t> positions;   ///< of each cell
  bool is_transposed = false;       ///< values: [width, cells] instead of [cells, width]
  std::uint32_t turned_keys = 0;    ///< as llama.cpp writes them: how far numbers were mixed before
  std::uint32_t turned_values = 0;  ///< they were quantised
  std::vector<layer_place> layers;
  std::size_t end = 0;  ///< byte behind it

  [[nodiscard]] index_t cells() const noexcept { return static_cast<index_t>(positions.size()); }
};

/// What a sequence's bytes are made of; the model decides.
struct state_form {
  bool has_windows = false;  ///< a second cache: that of the layers with a window
  bool has_tail = false;     ///< behind the caches, the states of recurrent layers
  bool has_grid = false;     ///< cells have two more positions and their token each (M-RoPE)
};

/// The bytes, and what they were found to say, all numbers of 32 bits but where said otherwise:
///
///     magic, sequence
///     cache of the layers that see everything
///     cache of the layers with a window, where the model has such
///     states of recurrent layers, where the model has such: kept, never read
///
/// and a cache:
///
///     streams; of each: cells, and unless it has none
///     a cell:   position, sequences (1), two more positions and token (M-RoPE alone),
///               sequence
///     is V transposed, layers, numbers of keys that were mixed (quantised caches), of values
///     a layer's K:   type, bytes a cell (64 bits), cells · bytes
///     a layer's V:   as K; transposed: type, bytes a number, width, width · cells · bytes;
///                    nothing where values are part of the keys (MLA)
///
/// This is llama.cpp's own form, promised nowhere, as LLAMA_STATE_SEQ_VERSION 4 has it (llama.cpp
/// 0.7). Other versions are refused, as is every byte that does not fit.
struct sequence_state {
  std::vector<std::byte> bytes;
  state_form form;
  state_cache global;
  state_cache windows;

  /// Of the cache that is compacted.
  [[nodiscard]] index_t cells() const noexcept { return global.cells(); }
  [[nodiscard]] index_t end_position() const;
  /// Bytes of recurrent states.
  [[nodiscard]] std::size_t tail() const noexcept {
    return form.has_tail ? bytes.size() - (form.has_windows ? windows.end : global.end) : 0;
  }
};

/// Finds out what the bytes say; every size is compared with what is left of them, and nothing may
/// be left over.
///
/// Errors: `unsupported_file` for a LLAMA_STATE_SEQ_VERSION other than 4, types that ggml does not
/// decode, cells in several streams, cells of several sequences; `malformed_file` (byte, size) for
/// bytes that do not follow the form; `invalid_position` (cell, position) for a negative position;
/// `empty_input` for no cells.
result<sequence_state> read_state(std::vector<std::byte> bytes, const state_form& form = {});

/// A cache's rows for kvfit: by reference where kvfit reads their type, decoded to fp32 where ggml
/// alone does (q4_1, q5_0, q5_1, iq4_nl). The state must outlive it.
struct state_rows {
  kvfit::cache_view view;
  std::vector<std::unique_ptr<matrix>> decoded;  ///< what some views refer to
};

/// The whole cache: layers · KV heads of `attention`, with their rules and rotations. `attention`
/// is indexed by the numbers of layers.
///
/// Errors: `shape_mismatch` where a layer was not seen in the graph, or its widths are not the
/// state's.
result<state_rows> rows_of(const sequence_state& state, const state_cache& cache,
                           const std::vector<layer_attention>& attention);

/// A state with the rows of `compact` in place of those of `full.global`: head h's rows in cells
/// 0 … t_h − 1, in as many cells as the longest head of all layers has rows. What a shorter head
/// does not fill is 0, and must be hidden by a bias of −∞. The cache of layers with a window and
/// the states of recurrent layers stay byte for byte.
///
/// Keys keep the rotation that they have. A row that is the original one keeps its bytes, quantised
/// ones, too; others are quantised as ggml does. Cells are said to stand where the last ones of
/// `full` did, so that what is read next stands where it always would have and sees all of them:
/// llama.cpp uses a cell's position for causality and for ALiBi, which `session::put_back` makes up
/// for. `moved_back`: they stand so many positions before that, where what is read next will, too.
///
/// Errors: `invalid_position` where that would be before 0; `shape_mismatch` where layers, heads or
/// widths differ; `storage_overflow` for a number that the cache's type can't hold; those of
/// `read_state`.
result<sequence_state> compact_state(const sequence_state& full,
                                     const kvfit::compacted_cache& compact, index_t moved_back = 0);

/// The keys of cells 0 … cells − 1 as bytes, [cells, bytes a cell].
std::vector<std::byte> key_bytes(const sequence_state& state, const state_cache& cache,
                                 std::size_t layer);

/// ggml's type as kvfit has it, where it has.
std::optional<kvfit::dtype> dtype_of(ggml_type type);

}  // namespace llama_cpp
