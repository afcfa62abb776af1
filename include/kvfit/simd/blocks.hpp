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

namespace kvfit::simd::inline KVFIT_ISA {
namespace detail {

inline void widen_block(const q8_0_block& block, float* y) noexcept {
  const float scale = to_float(block.scale);
  for (std::size_t j = 0; j < 32; ++j) y[j] = scale * static_cast<float>(block.numbers[j]);
}
inline void widen_block(const q4_0_block& block, float* y) noexcept {
  const float scale = to_float(block.scale);
  for (std::size_t j = 0; j < 16; ++j) {
    const int pair = block.nibbles[j];
    y[j] = scale * static_cast<float>((pair & 15) - 8);
    y[j + 16] = scale * static_cast<float>((pair >> 4) - 8);
  }
}

template <class Block>
void widen_blocks(const void* blocks, index first, index count, float* y) noexcept {
  const auto* bytes = static_cast<const std::byte*>(blocks);
  const index last = first + count;
  for (index at = first; at < last;) {
    const index number = at >> 5;  // rounds down, negative ones too
    const index lane = at & (block_length - 1);
    const index width = block_length - lane < last - at ? block_length - lane : last - at;
    Block block;
    std::memcpy(&block, bytes + number * static_cast<index>(sizeof block), sizeof block);
    if (width == block_length) {
      widen_block(block, y);
    } else {
      std::array<float, block_length> whole;  // NOLINT(*-init)
      widen_block(block, whole.data());
      std::memcpy(y, whole.data() + lane, static_cast<std::size_t>(width) * sizeof(float));
    }
    y += width;
    at += width;
  }
}

}  // namespace detail

/// y_i <- number first + i of the blocks at `blocks`, i < count: numbers are counted through the
/// blocks, 32 each, and need not start or end with one. Needs no alignment; allocates nothing.
inline void widen_blocks(dtype type, const void* blocks, index first, index count,
                         float* y) noexcept {
  if (count <= 0) return;
  if (type == dtype::q8_0) detail::widen_blocks<q8_0_block>(blocks, first, count, y);
  if (type == dtype::q4_0) detail::widen_blocks<q4_0_block>(blocks, first, count, y);
}

}  // namespace kvfit::simd::inline KVFIT_ISA
