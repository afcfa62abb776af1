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

/// Scales of an int8 cache: a tensor of the cache's shape with dim / group in place of dim.
struct cache_scales {
  const void* data = nullptr;
  dtype type = dtype::fp32;  ///< fp32 or fp16
  index_t group = 32;        ///< divides dim
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
  constexpr index_t most = std::numeric_limits<index_t>::max();
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

inline result<void> check_groups(dtype type, const cache_scales& scales, index_t dim) {
  if (type != dtype::int8) return {};
  if (scales.group >= 1 && dim % scales.group == 0) return {};
  return refuse_memory("scales.group", scales.group, dim, "must divide dim");
}

inline const void* advance(const void* data, dtype type, index_t numbers) noexcept {
  if (data == nullptr) return nullptr;
  return row_memory{.data = data, .type = type}.address(numbers);
}

}  // namespace detail

}  // namespace kvfit
