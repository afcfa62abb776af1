// SPDX-License-Identifier: MIT
/// What the layouts of engines share: sizes that are checked before they are multiplied.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "kvfit/core/result.hpp"
#include "kvfit/view/make_view.hpp"

namespace kvfit {

/// What shares a scale in a cache of int8 or fp8, and so where the scales lie.
enum class scale_scope : std::uint8_t {
  group,     ///< `group` numbers of a row: the cache's shape with dim / group in place of dim
  row,       ///< a row, which is one token of one head: the cache's shape without dim
  row_tail,  ///< the same, each behind its row: the cache's last axis is dim + tail bytes
  head,      ///< a head: [heads]
  tensor,    ///< everything: one scale
};

/// Scales of an int8 cache, or of an fp8 cache that has some.
///
/// Where keys and values lie in one pool, scales a group have its axis of keys and values, too;
/// those a token, a head or a tensor are apart: the keys' at `data`, the values' at `value_data`.
struct cache_scales {
  const void* data = nullptr;  ///< not of `row_tail`
  dtype type = dtype::fp32;    ///< fp32 or fp16
  index_t group = 32;          ///< of `group` alone: divides dim
  scale_scope per = scale_scope::group;
  const void* value_data = nullptr;  ///< of pools of both, per token, head or tensor
  index_t tail = 0;  ///< of `row_tail`: bytes from a row to the next, the scale first
  friend bool operator==(const cache_scales&, const cache_scales&) = default;
};

namespace detail {

/// The strides of a dense tensor; a product beyond 64 bits makes `total` −1.
template <std::size_t N>
struct dense {
  explicit dense(const std::array<index_t, N>& shape) noexcept {
    index_t size = 1;
    for (std::size_t k = N; k-- > 0;) {
      stride[k] = size;
      extent product;
      product.add_reach(2, size);
      product.multiply(shape[k]);
      product.multiply(sizeof(float));  // bytes, too, must fit
      if (!product.fits()) {
        total = -1;
        return;
      }
      size *= shape[k];
    }
    total = size;
  }
  std::array<index_t, N> stride{};
  index_t total = 0;
};

struct named_size {
  const char* name;
  index_t size;
};

inline result<void> check_sizes(std::span<const named_size> sizes) {
  for (const named_size& at : sizes) {
    if (at.size < 1) return refuse_memory(at.name, at.size, 1, "must be at least 1");
  }
  return {};
}

inline result<void> check_place(const char* what, index_t at, index_t count) {
  if (at >= 0 && at < count) return {};
  return error{errc::invalid_option, what, at, count, "counted from 0"};
}

/// `total` numbers, −1 where they are too many; `run` of them are contiguous.
inline result<void> check_room(dtype type, index_t total, index_t run, std::size_t bytes) {
  if (type >= dtype::decoded) {
    return error{errc::invalid_option, "type", error::none, error::none,
                 std::string(name(type)) + " has no layout of its own"};
  }
  if (total < 0) return refuse_memory("memory", error::none, error::none, "exceeds 64 bits");
  if (is_block(type) && run % block_length != 0) {
    return refuse_memory("dim", run, block_length, "must be a multiple of the block");
  }
  const index_t units = is_block(type) ? total / block_length : total;
  constexpr index_t most = (std::numeric_limits<index_t>::max)();
  if (units > most / static_cast<index_t>(size_of(type))) {
    return refuse_memory("memory", error::none, error::none, "exceeds 64 bits");
  }
  const index_t needed = units * static_cast<index_t>(size_of(type));
  if (bytes > 0 && bytes < static_cast<std::size_t>(needed)) {
    return refuse_memory("memory", static_cast<index_t>(bytes), needed,
                         "bytes of the whole tensor");
  }
  return {};
}

/// Whether a cache's numbers are multiplied by scales.
inline bool has_scales(dtype type, const cache_scales& scales) noexcept {
  return type == dtype::int8 || (takes_scales(type) && scales != cache_scales{});
}

/// Whether scales a token, a head or a tensor lie apart for keys and values.
inline bool is_apart(scale_scope per) noexcept {
  return per == scale_scope::row || per == scale_scope::head || per == scale_scope::tensor;
}

/// Scales that a type does not take, that are not there, or of which something is set that their
/// scope has no use for. `has_both`: of a pool of keys and values; `dim`: columns asked for.
inline result<void> check_cache_scales(dtype type, const cache_scales& scales, bool has_both,
                                       bool of_values, index_t dim) {
  const void* const data =
      of_values && has_both && is_apart(scales.per) ? scales.value_data : scales.data;
  const bool is_tail = scales.per == scale_scope::row_tail;
  if (const auto ok = check_scales_of(type, scales != cache_scales{}, data != nullptr || is_tail);
      !ok) {
    return ok;
  }
  if (!has_scales(type, scales)) return {};
  if (scales.per > scale_scope::tensor) {
    return refuse_option("scales.per", static_cast<index_t>(scales.per),
                         static_cast<index_t>(scale_scope::tensor), "is no scope");
  }
  if (scales.per == scale_scope::group) {
    if (scales.group < 1 || dim % scales.group != 0) {
      return refuse_memory("scales.group", scales.group, dim, "must divide dim");
    }
  } else if (scales.group != cache_scales{}.group) {
    return refuse_option("scales.group", scales.group, error::none, "is of groups alone");
  }
  if (scales.value_data != nullptr && !(has_both && is_apart(scales.per))) {
    return refuse_option("scales.value_data", error::none, error::none,
                         "values have no scales of their own here");
  }
  if (!is_tail) {
    if (scales.tail == 0) return {};
    return refuse_option("scales.tail", scales.tail, 0, "is of scales behind rows alone");
  }
  if (scales.data != nullptr) {
    return refuse_option("scales.data", error::none, error::none, "scales lie behind the rows");
  }
  const auto size = static_cast<index_t>(size_of(scales.type));
  constexpr index_t most = 4096;
  if (size == 0 || scales.tail < size || scales.tail > most || scales.tail % size != 0) {
    return refuse_memory("scales.tail", scales.tail, size, "bytes: whole scales, at most 4096");
  }
  if (dim % size != 0) return refuse_memory("dim", dim, size, "scales behind it must be aligned");
  return {};
}

/// Bytes, and so numbers, behind each row.
inline index_t tail_of(dtype type, const cache_scales& scales) noexcept {
  return has_scales(type, scales) && scales.per == scale_scope::row_tail ? scales.tail : 0;
}

/// `numbers` further, or further back.
inline const void* advance(const void* data, dtype type, index_t numbers) noexcept {
  if (data == nullptr) return nullptr;
  return row_memory{.data = data, .type = type}.address(numbers);
}

/// Where scales of rows lie, in scales from the start of theirs.
struct scale_places {
  index_t start = 0;
  index_t row = 0;
  index_t page = 0;
};

/// The scales of `memory`, whose data, columns and row stride are set, `page_stride` its pages'.
/// `of_groups()`, `of_tokens()`: places in tensors of the cache's shape, as their scope says.
template <class OfGroups, class OfTokens>
result<group_scales> scales_of(const row_memory& memory, index_t page_stride,
                               const cache_scales& scales, const void* data, index_t head,
                               OfGroups of_groups, OfTokens of_tokens) {
  const auto at = [&](const scale_places& places, index_t group) {
    return group_scales{.data = advance(data, scales.type, places.start),
                        .type = scales.type,
                        .group = group,
                        .row_stride = places.row,
                        .page_stride = places.page};
  };
  switch (scales.per) {
    case scale_scope::group:
      return at(of_groups(), scales.group);
    case scale_scope::row:
      return at(of_tokens(), memory.cols);
    case scale_scope::head:
      return at({.start = head}, memory.cols);
    case scale_scope::tensor:
      return at({}, memory.cols);
    case scale_scope::row_tail:
      break;
  }
  const auto size = static_cast<index_t>(size_of(scales.type));
  if (page_stride % size != 0) {
    return refuse_memory("page_stride", page_stride, size, "scales behind rows must be aligned");
  }
  data = advance(memory.data, memory.type, memory.cols);
  return at({.row = memory.row_stride / size, .page = page_stride / size}, memory.cols);
}

}  // namespace detail

}  // namespace kvfit
