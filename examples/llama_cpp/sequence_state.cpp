// SPDX-License-Identifier: MIT
#include "llama_cpp/sequence_state.hpp"

#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cstring>
#include <limits>
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

std::optional<dtype> dtype_of(std::int32_t type) {
  switch (type) {
    case GGML_TYPE_F32:
      return dtype::fp32;
    case GGML_TYPE_F16:
      return dtype::fp16;
    case GGML_TYPE_BF16:
      return dtype::bf16;
    default:
      return std::nullopt;
  }
}

std::int32_t ggml_type_of(dtype type) {
  return type == dtype::fp32 ? GGML_TYPE_F32
                             : (type == dtype::fp16 ? GGML_TYPE_F16 : GGML_TYPE_BF16);
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

dtype read_type(byte_reader& from) {
  const auto type = dtype_of(from.read<std::int32_t>());
  if (!type) from.unsupported("keys and values must be f32, f16 or bf16");
  return type.value_or(dtype::fp32);
}

void read_cells(byte_reader& from, sequence_state& to) {
  const auto streams = from.read<std::uint32_t>();
  if (streams != 1) from.unsupported("more than one stream");
  const auto cells = from.read<std::uint32_t>();
  if (!from.cause() && cells == 0) from.fail({errc::empty_input, "cells", 0, 1});
  constexpr std::size_t cell_size = 12;
  if (cells > from.left() / cell_size) from.malformed("fewer bytes than cells need");
  for (std::uint32_t c = 0; c < cells && !from.cause(); ++c) {
    const auto position = static_cast<index_t>(from.read<std::int32_t>());
    if (from.read<std::uint32_t>() != 1) from.unsupported("cells of several sequences");
    static_cast<void>(from.read<std::int32_t>());
    if (position < 0 || (c > 0 && position <= to.positions.back())) {
      from.fail({errc::invalid_position, "cells", static_cast<index_t>(c), position,
                 "positions must ascend"});
    }
    to.positions.push_back(position);
  }
}

/// Keys, or values that are not transposed.
void read_rows(byte_reader& from, std::size_t cells, dtype& type, index_t& width,
               std::size_t& start) {
  type = read_type(from);
  const auto row = from.read<std::uint64_t>();
  const std::size_t size = kvfit::size_of(type);
  if (!from.cause() && (row == 0 || row % size != 0 || row > from.left())) {
    from.malformed("a cell's size is no row of numbers");
  }
  width = static_cast<index_t>(row / size);
  start = from.skip(cells, row);
}

void read_columns(byte_reader& from, std::size_t cells, dtype& type, index_t& width,
                  std::size_t& start) {
  type = read_type(from);
  const auto size = from.read<std::uint32_t>();
  width = static_cast<index_t>(from.read<std::uint32_t>());
  if (!from.cause() && (width == 0 || size != kvfit::size_of(type))) {
    from.malformed("a value's size is not its type's");
  }
  start = from.skip(static_cast<std::size_t>(width), cells * size);
}

/// One head of keys or values of a state.
result<kvfit::row_view> head_of(const sequence_state& state, const layer_place& place, bool is_key,
                                index_t heads, index_t head, index_t cells) {
  const std::size_t start = is_key ? place.keys : place.values;
  const index_t width = is_key ? place.key_width : place.value_width;
  return kvfit::llama_cpp_head({.data = state.bytes.data() + start,
                                .type = is_key ? place.key_type : place.value_type,
                                .cells = state.cells(),
                                .heads = heads,
                                .dim = width / heads,
                                .is_transposed = !is_key && state.is_transposed},
                               head, cells);
}

template <class Number>
void put(std::vector<std::byte>& to, Number value) {
  const auto* const first = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), first, first + sizeof value);
}

/// Metadata as `like` has them, for cells at the positions given; keys and values 0.
std::vector<std::byte> blank_like(const sequence_state& like, index_t cells,
                                  index_t first_position) {
  std::vector<std::byte> bytes(like.bytes.begin(),
                               like.bytes.begin() + static_cast<std::ptrdiff_t>(header_size));
  const auto count = static_cast<std::size_t>(cells);
  put(bytes, std::uint32_t{1});
  put(bytes, static_cast<std::uint32_t>(cells));
  for (index_t c = 0; c < cells; ++c) {
    put(bytes, static_cast<std::int32_t>(first_position + c));
    put(bytes, std::uint32_t{1});
    put(bytes, std::int32_t{0});
  }
  put(bytes, static_cast<std::uint32_t>(like.is_transposed ? 1 : 0));
  put(bytes, static_cast<std::uint32_t>(like.layers.size()));
  put(bytes, std::uint64_t{0});  // neither keys nor values are turned
  const auto put_rows = [&](dtype type, index_t width) {
    const std::size_t row = static_cast<std::size_t>(width) * kvfit::size_of(type);
    put(bytes, ggml_type_of(type));
    put(bytes, static_cast<std::uint64_t>(row));
    bytes.resize(bytes.size() + count * row);
  };
  for (const layer_place& layer : like.layers) put_rows(layer.key_type, layer.key_width);
  for (const layer_place& layer : like.layers) {
    if (!like.is_transposed) {
      put_rows(layer.value_type, layer.value_width);
      continue;
    }
    const std::size_t size = kvfit::size_of(layer.value_type);
    put(bytes, ggml_type_of(layer.value_type));
    put(bytes, static_cast<std::uint32_t>(size));
    put(bytes, static_cast<std::uint32_t>(layer.value_width));
    bytes.resize(bytes.size() + count * size * static_cast<std::size_t>(layer.value_width));
  }
  return bytes;
}

}  // namespace

result<sequence_state> read_state(std::vector<std::byte> bytes) {
  constexpr int version = LLAMA_STATE_SEQ_VERSION;
  if (version != known_version) {
    return error{errc::unsupported_file, "LLAMA_STATE_SEQ_VERSION", version, known_version,
                 "this form of a sequence's state is not known here"};
  }
  sequence_state state;
  state.bytes = std::move(bytes);
  byte_reader from(state.bytes);
  from.skip(1, header_size);
  read_cells(from, state);
  const auto transposed = from.read<std::uint32_t>();
  if (transposed > 1) from.malformed("neither transposed nor not");
  state.is_transposed = transposed == 1;
  const auto layers = from.read<std::uint32_t>();
  const bool turns_keys = from.read<std::uint32_t>() != 0;
  const bool turns_values = from.read<std::uint32_t>() != 0;
  if (turns_keys || turns_values) from.unsupported("keys or values turned for quantisation");
  const auto cells = state.positions.size();
  if (!from.cause() && (layers == 0 || layers > from.left())) from.malformed("number of layers");
  for (std::uint32_t l = 0; l < layers && !from.cause(); ++l) {
    layer_place& layer = state.layers.emplace_back();
    read_rows(from, cells, layer.key_type, layer.key_width, layer.keys);
  }
  for (layer_place& layer : state.layers) {
    const auto read = state.is_transposed ? read_columns : read_rows;
    read(from, cells, layer.value_type, layer.value_width, layer.values);
  }
  if (!from.cause() && from.left() != 0) from.malformed("bytes are left over");
  if (from.cause()) return *from.cause();
  return state;
}

result<kvfit::cache_view> view_of(const sequence_state& state,
                                  const std::vector<layer_attention>& attention) {
  if (attention.size() != state.layers.size()) {
    return error{errc::shape_mismatch, "layers", static_cast<index_t>(attention.size()),
                 static_cast<index_t>(state.layers.size()),
                 "with attention in the graph, and in the sequence's state"};
  }
  kvfit::cache_view view;
  for (std::size_t l = 0; l < attention.size(); ++l) {
    const layer_attention& seen = attention[l];
    const layer_place& place = state.layers[l];
    if (seen.kv_heads < 1 || place.key_width != seen.kv_heads * seen.key_size ||
        place.value_width % seen.kv_heads != 0) {
      return error{errc::shape_mismatch, "layer " + std::to_string(l), place.key_width,
                   seen.kv_heads * seen.key_size, "numbers of a cell's keys"};
    }
    kvfit::cache_layer& layer = view.layers.emplace_back();
    layer.number = static_cast<index_t>(l);
    layer.rule = kvfit::logit_rule{.scale = seen.scale};
    layer.rotation = seen.rotation;
    for (index_t h = 0; h < seen.kv_heads; ++h) {
      const auto keys = head_of(state, place, true, seen.kv_heads, h, state.cells());
      if (!keys) return keys.error();
      const auto values = head_of(state, place, false, seen.kv_heads, h, state.cells());
      if (!values) return values.error();
      layer.heads.push_back({.keys = *keys, .values = *values});
    }
  }
  return view;
}

result<sequence_state> compact_state(const sequence_state& full,
                                     const kvfit::compacted_cache& compact) {
  if (compact.layers.size() != full.layers.size()) {
    return error{errc::shape_mismatch, "layers", static_cast<index_t>(compact.layers.size()),
                 static_cast<index_t>(full.layers.size()), "all layers share their cells"};
  }
  index_t cells = 1;
  for (const kvfit::compacted_layer& layer : compact.layers) {
    for (std::size_t h = 0; h < layer.heads.size(); ++h) cells = std::max(cells, layer.rows(h));
  }
  const index_t end = full.positions.back() + 1;
  if (cells > end) return error{errc::shape_mismatch, "cells", cells, end, "more than positions"};
  auto state = read_state(blank_like(full, cells, end - cells));
  if (!state) return state;
  for (std::size_t l = 0; l < compact.layers.size(); ++l) {
    const kvfit::compacted_layer& layer = compact.layers[l];
    const layer_place& place = state->layers[l];
    const auto heads = static_cast<index_t>(layer.heads.size());
    if (heads * layer.keys.cols() != place.key_width ||
        heads * layer.values.cols() != place.value_width) {
      return error{errc::shape_mismatch, "layer " + std::to_string(layer.number),
                   heads * layer.keys.cols(), place.key_width, "numbers of a cell's keys"};
    }
    for (index_t h = 0; h < heads; ++h) {
      const kvfit::kv_block rows = layer.block(static_cast<std::size_t>(h));
      const auto keys = head_of(*state, place, true, heads, h, rows.keys.rows());
      if (!keys) return keys.error();
      const auto values = head_of(*state, place, false, heads, h, rows.keys.rows());
      if (!values) return values.error();
      const auto put_keys = kvfit::store_rows(rows.keys, kvfit::writable_view(*keys), "keys");
      if (!put_keys) return put_keys.error();
      const auto put_values =
          kvfit::store_rows(rows.values, kvfit::writable_view(*values), "values");
      if (!put_values) return put_values.error();
    }
  }
  return state;
}

std::vector<std::byte> key_bytes(const sequence_state& state, std::size_t layer) {
  const layer_place& place = state.layers[layer];
  const std::size_t size = state.positions.size() * static_cast<std::size_t>(place.key_width) *
                           kvfit::size_of(place.key_type);
  const auto first = state.bytes.begin() + static_cast<std::ptrdiff_t>(place.keys);
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace llama_cpp
