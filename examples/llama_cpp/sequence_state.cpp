// SPDX-License-Identifier: MIT
#include "llama_cpp/sequence_state.hpp"

#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "kvfit/view/llama_cpp_layout.hpp"
#include "kvfit/view/store.hpp"

namespace llama_cpp {

namespace {

using kvfit::dtype;
using kvfit::errc;
using kvfit::error;

constexpr int known_version = 4;
constexpr std::size_t header_size = 8;  // magic and sequence
constexpr std::size_t grid_size = 12;   // two more positions of a cell, and its token

std::size_t cell_size(bool has_grid) {
  return 12 + (has_grid ? grid_size : 0);
}

/// Whether ggml turns it into fp32 and back.
bool is_known(std::int32_t type) {
  if (type < 0 || type >= GGML_TYPE_COUNT) return false;
  if (type == GGML_TYPE_F32) return true;
  const ggml_type_traits* const traits = ggml_get_type_traits(static_cast<ggml_type>(type));
  return traits->to_float != nullptr && traits->blck_size > 0 && traits->type_size > 0;
}

/// Numbers of a row of so many bytes; 0 where no row of that type has so many.
index_t numbers_in(ggml_type type, std::uint64_t bytes) {
  const std::uint64_t size = ggml_type_size(type);
  return bytes % size == 0 ? static_cast<index_t>(bytes / size) * ggml_blck_size(type) : 0;
}

std::size_t bytes_of(ggml_type type, index_t numbers) {
  return ggml_row_size(type, numbers);
}

/// Numbers one after the other; the first mistake is kept, and everything after it is 0.
class byte_reader {
 public:
  explicit byte_reader(const std::vector<std::byte>& bytes) : bytes_(bytes) {}

  template <class Number>
  Number read() {
    Number value{};
    if (!has(sizeof value)) return value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  /// `count` times `size` bytes; where they start.
  std::size_t skip(std::size_t count, std::size_t size) {
    const std::size_t start = at_;
    if (size != 0 && count > left() / size) {
      malformed("data end early");
    } else if (!cause_) {
      at_ += count * size;
    }
    return start;
  }

  void fail(error cause) {
    if (!cause_) cause_ = std::move(cause);
  }
  void malformed(const char* why) {
    fail({errc::malformed_file, "sequence state", static_cast<index_t>(at_),
          static_cast<index_t>(bytes_.size()), why});
  }
  void unsupported(const char* why) {
    fail({errc::unsupported_file, "sequence state", error::none, error::none, why});
  }

  [[nodiscard]] std::size_t at() const { return at_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }
  [[nodiscard]] const std::optional<error>& cause() const { return cause_; }

 private:
  bool has(std::size_t size) {
    if (cause_) return false;
    if (size <= left()) return true;
    malformed("ends early");
    return false;
  }

  const std::vector<std::byte>& bytes_;
  std::size_t at_ = 0;
  std::optional<error> cause_;
};

ggml_type read_type(byte_reader& from) {
  const auto type = from.read<std::int32_t>();
  if (is_known(type)) return static_cast<ggml_type>(type);
  from.unsupported("keys or values of a type that ggml does not decode");
  return GGML_TYPE_F32;
}

void read_cells(byte_reader& from, bool has_grid, std::uint32_t cells, state_cache& to) {
  if (cells > from.left() / cell_size(has_grid)) from.malformed("fewer bytes than cells need");
  to.records = from.at();
  for (std::uint32_t c = 0; c < cells && !from.cause(); ++c) {
    const auto position = static_cast<index_t>(from.read<std::int32_t>());
    if (from.read<std::uint32_t>() != 1) from.unsupported("cells of several sequences");
    if (has_grid) from.skip(1, grid_size);
    static_cast<void>(from.read<std::int32_t>());
    if (position < 0) {
      from.fail({errc::invalid_position, "cells", static_cast<index_t>(c), position,
                 "positions must not be negative"});
    }
    to.positions.push_back(position);
  }
}

/// Keys, or values that are not transposed.
void read_rows(byte_reader& from, std::size_t cells, ggml_type& type, index_t& width,
               std::size_t& start) {
  type = read_type(from);
  const auto row = from.read<std::uint64_t>();
  width = from.cause() ? 0 : numbers_in(type, row);
  if (!from.cause() && (width == 0 || row > from.left())) {
    from.malformed("a cell's size is no row of numbers");
  }
  start = from.skip(cells, row);
}

void read_columns(byte_reader& from, std::size_t cells, ggml_type& type, index_t& width,
                  std::size_t& start) {
  type = read_type(from);
  const auto size = from.read<std::uint32_t>();
  width = static_cast<index_t>(from.read<std::uint32_t>());
  if (!from.cause() && (width == 0 || size != ggml_type_size(type))) {
    from.malformed("a value's size is not its type's");
  }
  if (ggml_blck_size(type) != 1) from.unsupported("transposed values in blocks");
  start = from.skip(static_cast<std::size_t>(width), cells * size);
}

/// Layers' keys, then their values. Of MLA there are none: what follows is no layer of values.
void read_layers(byte_reader& from, state_cache& to) {
  const auto transposed = from.read<std::uint32_t>();
  if (transposed > 1) from.malformed("neither transposed nor not");
  to.is_transposed = transposed == 1;
  const auto layers = from.read<std::uint32_t>();
  to.turned_keys = from.read<std::uint32_t>();
  to.turned_values = from.read<std::uint32_t>();
  const std::size_t cells = to.positions.size();
  if (!from.cause() && (layers == 0 || layers > from.left())) from.malformed("number of layers");
  for (std::uint32_t l = 0; l < layers && !from.cause(); ++l) {
    layer_place& layer = to.layers.emplace_back();
    read_rows(from, cells, layer.key_type, layer.key_width, layer.keys);
  }
  if (!from.cause() && from.left() == 0) return;
  for (layer_place& layer : to.layers) {
    const auto read = to.is_transposed ? read_columns : read_rows;
    read(from, cells, layer.value_type, layer.value_width, layer.values);
  }
}

void read_cache(byte_reader& from, bool has_grid, state_cache& to) {
  const auto streams = from.read<std::uint32_t>();
  constexpr std::uint32_t most_streams = 4096;
  if (!from.cause() && (streams == 0 || streams > most_streams)) from.malformed("streams");
  to.streams = static_cast<index_t>(streams);
  for (std::uint32_t s = 0; s < streams && !from.cause(); ++s) {
    const auto cells = from.read<std::uint32_t>();
    if (cells == 0) continue;
    if (!to.positions.empty()) return from.unsupported("cells in several streams");
    to.stream = static_cast<index_t>(s);
    read_cells(from, has_grid, cells, to);
    read_layers(from, to);
  }
  if (!from.cause() && to.positions.empty()) from.fail({errc::empty_input, "cells", 0, 1});
  to.end = from.at();
}

/// One head of keys or values where they lie.
result<kvfit::row_view> head_of(const sequence_state& state, const state_cache& cache,
                                const layer_place& place, bool is_key, index_t heads, index_t head,
                                index_t cells) {
  const index_t width = is_key ? place.key_width : place.value_width;
  return kvfit::llama_cpp_head({.data = state.bytes.data() + (is_key ? place.keys : place.values),
                                .type = *dtype_of(is_key ? place.key_type : place.value_type),
                                .cells = cache.cells(),
                                .heads = heads,
                                .dim = width / heads,
                                .is_transposed = !is_key && cache.is_transposed},
                               head, cells);
}

/// A run of numbers as fp32.
void decode(ggml_type type, const std::byte* from, index_t count, float* to) {
  if (type == GGML_TYPE_F32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else {
    ggml_get_type_traits(type)->to_float(from, to, count);
  }
}

/// Where row `cell` of one head of a cache that is not transposed starts.
std::size_t place_of(const layer_place& place, bool is_key, index_t heads, index_t head,
                     index_t cell) {
  const ggml_type type = is_key ? place.key_type : place.value_type;
  const index_t width = is_key ? place.key_width : place.value_width;
  return (is_key ? place.keys : place.values) +
         static_cast<std::size_t>(cell) * bytes_of(type, width) +
         static_cast<std::size_t>(head) * bytes_of(type, width / heads);
}

result<void> check_blocks(const layer_place& place, bool is_key, index_t heads) {
  const ggml_type type = is_key ? place.key_type : place.value_type;
  const index_t dim = (is_key ? place.key_width : place.value_width) / heads;
  if (dim % ggml_blck_size(type) == 0) return {};
  return error{errc::shape_mismatch, "layer " + std::to_string(place.number), dim,
               ggml_blck_size(type), "a head must be made of whole blocks"};
}

/// A view of one head, decoded first where kvfit has no such type.
result<kvfit::row_view> readable_head(const sequence_state& state, const state_cache& cache,
                                      const layer_place& place, bool is_key, index_t heads,
                                      index_t head, std::vector<std::unique_ptr<matrix>>& decoded) {
  const ggml_type type = is_key ? place.key_type : place.value_type;
  if (const auto ok = check_blocks(place, is_key, heads); !ok) return ok.error();
  if (dtype_of(type)) return head_of(state, cache, place, is_key, heads, head, cache.cells());
  const index_t dim = (is_key ? place.key_width : place.value_width) / heads;
  matrix& rows = *decoded.emplace_back(std::make_unique<matrix>(cache.cells(), dim));
  for (index_t c = 0; c < rows.rows(); ++c) {
    decode(type, state.bytes.data() + place_of(place, is_key, heads, head, c), dim,
           rows.row(c).data());
  }
  return kvfit::row_view(rows);
}

template <class Number>
void put(std::vector<std::byte>& to, Number value) {
  const auto* const first = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), first, first + sizeof value);
}

/// The last `cells` cells by position, as they are written: for what reads on, all of them are
/// before it.
void put_cells(std::vector<std::byte>& to, const sequence_state& like, index_t cells,
               index_t moved_back) {
  const state_cache& cache = like.global;
  std::vector<std::size_t> order(cache.positions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return cache.positions[a] < cache.positions[b];
  });
  order.erase(order.begin(), order.end() - static_cast<std::ptrdiff_t>(cells));
  std::sort(order.begin(), order.end());
  const std::size_t size = cell_size(like.form.has_grid);
  for (const std::size_t cell : order) {
    const auto first =
        like.bytes.begin() + static_cast<std::ptrdiff_t>(cache.records + cell * size);
    to.insert(to.end(), first, first + static_cast<std::ptrdiff_t>(size));
    const auto position = static_cast<std::int32_t>(cache.positions[cell] - moved_back);
    std::memcpy(to.data() + to.size() - size, &position, sizeof position);
  }
}

void put_layers(std::vector<std::byte>& to, const state_cache& like, index_t cells) {
  const auto count = static_cast<std::size_t>(cells);
  put(to, static_cast<std::uint32_t>(like.is_transposed ? 1 : 0));
  put(to, static_cast<std::uint32_t>(like.layers.size()));
  put(to, like.turned_keys);
  put(to, like.turned_values);
  const auto put_rows = [&](ggml_type type, index_t width) {
    const std::size_t row = bytes_of(type, width);
    put(to, static_cast<std::int32_t>(type));
    put(to, static_cast<std::uint64_t>(row));
    to.resize(to.size() + count * row);
  };
  for (const layer_place& layer : like.layers) put_rows(layer.key_type, layer.key_width);
  for (const layer_place& layer : like.layers) {
    if (layer.value_width == 0) continue;
    if (!like.is_transposed) {
      put_rows(layer.value_type, layer.value_width);
      continue;
    }
    const std::size_t size = ggml_type_size(layer.value_type);
    put(to, static_cast<std::int32_t>(layer.value_type));
    put(to, static_cast<std::uint32_t>(size));
    put(to, static_cast<std::uint32_t>(layer.value_width));
    to.resize(to.size() + count * size * static_cast<std::size_t>(layer.value_width));
  }
}

/// Metadata as `like` has them, for fewer cells; keys and values 0. What stands behind the global
/// layers' cache is copied.
std::vector<std::byte> blank_like(const sequence_state& like, index_t cells, index_t moved_back) {
  std::vector<std::byte> bytes(like.bytes.begin(),
                               like.bytes.begin() + static_cast<std::ptrdiff_t>(header_size));
  put(bytes, static_cast<std::uint32_t>(like.global.streams));
  for (index_t s = 0; s < like.global.streams; ++s) {
    const bool is_here = s == like.global.stream;
    put(bytes, static_cast<std::uint32_t>(is_here ? cells : 0));
    if (!is_here) continue;
    put_cells(bytes, like, cells, moved_back);
    put_layers(bytes, like.global, cells);
  }
  bytes.insert(bytes.end(), like.bytes.begin() + static_cast<std::ptrdiff_t>(like.global.end),
               like.bytes.end());
  return bytes;
}

/// One head's rows put into blocks. A row that is the full cache's own keeps its bytes.
result<void> put_blocks(const sequence_state& full, const layer_place& from, sequence_state& to,
                        const layer_place& place, bool is_key, index_t heads, index_t head,
                        const kvfit::compacted_layer& layer) {
  if (const auto ok = check_blocks(place, is_key, heads); !ok) return ok;
  const ggml_type type = is_key ? place.key_type : place.value_type;
  const matrix& rows = is_key ? layer.keys : layer.values;
  const index_t dim = rows.cols();
  const std::size_t size = bytes_of(type, dim);
  const auto h = static_cast<std::size_t>(head);
  std::vector<float> before(static_cast<std::size_t>(dim));
  for (index_t c = 0; c < layer.rows(h); ++c) {
    const index_t row = layer.offsets[h] + c;
    const index_t origin = layer.positions[static_cast<std::size_t>(row)];
    const float* const wanted = rows.row(row).data();
    std::byte* const target = to.bytes.data() + place_of(place, is_key, heads, head, c);
    if (origin >= 0 && origin < full.cells()) {
      const std::byte* const source =
          full.bytes.data() + place_of(from, is_key, heads, head, origin);
      decode(type, source, dim, before.data());
      if (std::equal(before.begin(), before.end(), wanted)) {
        std::memcpy(target, source, size);
        continue;
      }
    }
    ggml_quantize_chunk(type, wanted, target, 0, 1, dim, nullptr);
    decode(type, target, dim, before.data());
    for (index_t d = 0; d < dim; ++d) {
      if (std::isfinite(before[static_cast<std::size_t>(d)])) continue;
      return error{errc::storage_overflow, is_key ? "keys" : "values", row, d,
                   std::string("exceeds ") + ggml_type_name(type)};
    }
  }
  return {};
}

result<void> put_head(const sequence_state& full, std::size_t l, sequence_state& to, bool is_key,
                      index_t head, const kvfit::compacted_layer& layer) {
  const layer_place& place = to.global.layers[l];
  const ggml_type type = is_key ? place.key_type : place.value_type;
  const auto heads = static_cast<index_t>(layer.heads.size());
  if (ggml_blck_size(type) != 1) {
    return put_blocks(full, full.global.layers[l], to, place, is_key, heads, head, layer);
  }
  const kvfit::kv_block rows = layer.block(static_cast<std::size_t>(head));
  const auto target = head_of(to, to.global, place, is_key, heads, head, rows.keys.rows());
  if (!target) return target.error();
  return kvfit::store_rows(is_key ? rows.keys : rows.values, kvfit::writable_view(*target),
                           is_key ? "keys" : "values");
}

}  // namespace

std::optional<dtype> dtype_of(ggml_type type) {
  switch (type) {
    case GGML_TYPE_F32:
      return dtype::fp32;
    case GGML_TYPE_F16:
      return dtype::fp16;
    case GGML_TYPE_BF16:
      return dtype::bf16;
    case GGML_TYPE_Q8_0:
      return dtype::q8_0;
    case GGML_TYPE_Q4_0:
      return dtype::q4_0;
    default:
      return std::nullopt;
  }
}

index_t sequence_state::end_position() const {
  const auto& all = global.positions;
  return all.empty() ? 0 : *std::max_element(all.begin(), all.end()) + 1;
}

result<sequence_state> read_state(std::vector<std::byte> bytes, const state_form& form) {
  constexpr int version = LLAMA_STATE_SEQ_VERSION;
  if (version != known_version) {
    return error{errc::unsupported_file, "LLAMA_STATE_SEQ_VERSION", version, known_version,
                 "this form of a sequence's state is not known here"};
  }
  sequence_state state;
  state.bytes = std::move(bytes);
  state.form = form;
  byte_reader from(state.bytes);
  from.skip(1, header_size);
  read_cache(from, form.has_grid, state.global);
  if (form.has_windows) read_cache(from, form.has_grid, state.windows);
  if (!from.cause() && !form.has_tail && from.left() != 0) from.malformed("bytes are left over");
  if (!from.cause() && form.has_tail && from.left() == 0) from.malformed("no recurrent state");
  if (from.cause()) return *from.cause();
  return state;
}

result<state_rows> rows_of(const sequence_state& state, const state_cache& cache,
                           const std::vector<layer_attention>& attention) {
  state_rows rows;
  for (const layer_place& place : cache.layers) {
    const std::string name = "layer " + std::to_string(place.number);
    if (place.number < 0 || place.number >= static_cast<index_t>(attention.size())) {
      return error{errc::shape_mismatch, name, place.number, static_cast<index_t>(attention.size()),
                   "not seen in the graph"};
    }
    const layer_attention& seen = attention[static_cast<std::size_t>(place.number)];
    if (seen.kv_heads < 1 || place.key_width != seen.kv_heads * seen.key_size ||
        place.value_width == 0 || place.value_width % seen.kv_heads != 0) {
      return error{errc::shape_mismatch, name, place.key_width, seen.kv_heads * seen.key_size,
                   "numbers of a cell's keys"};
    }
    kvfit::cache_layer& layer = rows.view.layers.emplace_back();
    layer.number = place.number;
    layer.rule = seen.rule();
    layer.rotation = seen.rotation;
    for (index_t h = 0; h < seen.kv_heads; ++h) {
      const auto keys = readable_head(state, cache, place, true, seen.kv_heads, h, rows.decoded);
      if (!keys) return keys.error();
      const auto values = readable_head(state, cache, place, false, seen.kv_heads, h, rows.decoded);
      if (!values) return values.error();
      layer.heads.push_back({.keys = *keys, .values = *values, .positions = cache.positions});
    }
  }
  return rows;
}

result<sequence_state> compact_state(const sequence_state& full,
                                     const kvfit::compacted_cache& compact, index_t moved_back) {
  if (compact.layers.size() != full.global.layers.size()) {
    return error{errc::shape_mismatch, "layers", static_cast<index_t>(compact.layers.size()),
                 static_cast<index_t>(full.global.layers.size()), "all layers share their cells"};
  }
  index_t cells = 1;
  for (const kvfit::compacted_layer& layer : compact.layers) {
    for (std::size_t h = 0; h < layer.heads.size(); ++h) cells = std::max(cells, layer.rows(h));
  }
  if (cells > full.cells()) {
    return error{errc::shape_mismatch, "cells", cells, full.cells(), "more than there were"};
  }
  if (moved_back < 0 || moved_back > full.end_position() - cells) {
    return error{errc::invalid_position, "moved_back", moved_back, full.end_position() - cells};
  }
  auto state = read_state(blank_like(full, cells, moved_back), full.form);
  if (!state) return state;
  for (std::size_t l = 0; l < compact.layers.size(); ++l) {
    const kvfit::compacted_layer& layer = compact.layers[l];
    layer_place& place = state->global.layers[l];
    place.number = full.global.layers[l].number;
    const auto heads = static_cast<index_t>(layer.heads.size());
    if (layer.number != place.number || heads * layer.keys.cols() != place.key_width ||
        heads * layer.values.cols() != place.value_width) {
      return error{errc::shape_mismatch, "layer " + std::to_string(layer.number),
                   heads * layer.keys.cols(), place.key_width, "numbers of a cell's keys"};
    }
    for (index_t h = 0; h < heads; ++h) {
      const auto put_keys = put_head(full, l, *state, true, h, layer);
      if (!put_keys) return put_keys.error();
      const auto put_values = put_head(full, l, *state, false, h, layer);
      if (!put_values) return put_values.error();
    }
  }
  for (std::size_t l = 0; l < state->windows.layers.size(); ++l) {
    state->windows.layers[l].number = full.windows.layers[l].number;
  }
  return state;
}

std::vector<std::byte> key_bytes(const sequence_state& state, const state_cache& cache,
                                 std::size_t layer) {
  const layer_place& place = cache.layers[layer];
  const std::size_t size = cache.positions.size() * bytes_of(place.key_type, place.key_width);
  const auto first = state.bytes.begin() + static_cast<std::ptrdiff_t>(place.keys);
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace llama_cpp
