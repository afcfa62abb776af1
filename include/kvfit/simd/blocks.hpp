// SPDX-License-Identifier: MIT
/// Blocks of q8_0 and q4_0 to fp32: bit for bit what core/quantised.hpp specifies, whose products
/// are exact.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/quantised.hpp"
#include "kvfit/simd/bytes.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

// One block: a scale of two bytes, then 32 numbers.
inline void widen_block(const std::byte* block, float* y, q8_0_block) noexcept {
  widen_scaled(block + 2, take_scale(block), y, block_length, std::int8_t{});
}
inline void widen_block(const std::byte* block, float* y, q4_0_block) noexcept {
  std::array<std::int8_t, block_length> numbers;  // NOLINT(*-init)
  unpack_nibbles(block + 2, numbers.data());
  widen_scaled(numbers.data(), take_scale(block), y, block_length, std::int8_t{});
}

template <class Block>
void widen_blocks(const void* blocks, index_t first, index_t count, float* y, Block type) noexcept {
  const auto* bytes = static_cast<const std::byte*>(blocks);
  const index_t last = first + count;
  for (index_t at = first; at < last;) {
    const index_t number = at >> 5;  // rounds down, negative ones too
    const index_t lane = at & (block_length - 1);
    const index_t width = block_length - lane < last - at ? block_length - lane : last - at;
    const std::byte* const block = bytes + number * static_cast<index_t>(sizeof(Block));
    if (width == block_length) {
      widen_block(block, y, type);
    } else {
      std::array<float, block_length> whole;  // NOLINT(*-init)
      widen_block(block, whole.data(), type);
      std::memcpy(y, whole.data() + lane, static_cast<std::size_t>(width) * sizeof(float));
    }
    y += width;
    at += width;
  }
}

}  // namespace detail

/// y_i <- number first + i of the blocks at `blocks`, i < count: numbers are counted through the
/// blocks, 32 each, and need not start or end with one. Needs no alignment; allocates nothing.
inline void widen_blocks(dtype type, const void* blocks, index_t first, index_t count,
                         float* y) noexcept {
  if (count <= 0) return;
  if (type == dtype::q8_0) detail::widen_blocks(blocks, first, count, y, q8_0_block{});
  if (type == dtype::q4_0) detail::widen_blocks(blocks, first, count, y, q4_0_block{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
