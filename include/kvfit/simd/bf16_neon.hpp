// SPDX-License-Identifier: MIT
/// Products of bf16 by NEON's matrix instruction, where the compiler may use it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kvfit/simd/product.hpp"

#if defined(__aarch64__) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define KVFIT_SIMD_BFMMLA

#include <arm_neon.h>

#include <algorithm>

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

/// Words of two neighbouring pairs p, p + 1 of the lines i and i + 1: one operand of BFMMLA, which
/// adds to the 2 × 2 sums of two lines of A and two columns of B. What lies outside is 0.
struct bfmmla_lines {
  const std::uint32_t* data;
  index_t line_stride;
  index_t pair_stride;

  [[nodiscard]] bfloat16x8_t load(index_t line, index_t pair, index_t lines,
                                  index_t pairs) const noexcept {
    const auto word = [&](index_t i, index_t p) {
      return i < lines && p < pairs ? data[i * line_stride + p * pair_stride] : 0U;
    };
    const std::array<std::uint32_t, 4> words = {word(line, pair), word(line, pair + 1),
                                                word(line + 1, pair), word(line + 1, pair + 1)};
    return vreinterpretq_bf16_u32(vld1q_u32(words.data()));
  }
  /// The same, all of it inside.
  [[nodiscard]] bfloat16x8_t load_whole(index_t line, index_t pair) const noexcept {
    const std::uint32_t* at = data + line * line_stride + pair * pair_stride;
    if (pair_stride == 1) {
      return vreinterpretq_bf16_u32(vcombine_u32(vld1_u32(at), vld1_u32(at + line_stride)));
    }
    const uint32x2x2_t both = vzip_u32(vld1_u32(at), vld1_u32(at + pair_stride));
    return vreinterpretq_bf16_u32(vcombine_u32(both.val[0], both.val[1]));
  }
};

/// Rows i … i + 7 and columns j … j + 7 of C, or what there is of them.
template <bool IsWhole>
void bfmmla_tile(const bfmmla_lines& a, const bfmmla_lines& b, const row_target& c, index_t i,
                 index_t j, index_t rows, index_t cols, index_t pairs, product_mode mode) noexcept {
  constexpr std::size_t across = 4;  // lines in twos
  std::array<std::array<float32x4_t, across>, across> sums;
  const auto each_number = [&](auto body) {
    for (index_t r = i; r < std::min<index_t>(i + 8, rows); ++r) {
      for (index_t s = j; s < std::min<index_t>(j + 8, cols); ++s) {
        const auto row = static_cast<std::size_t>(r - i);
        const auto col = static_cast<std::size_t>(s - j);
        body(c.data[r * c.stride + s], row / 2, col / 2, row % 2 * 2 + col % 2);
      }
    }
  };
  std::array<std::array<std::array<float, 4>, across>, across> spread{};
  if (mode != product_mode::assign) {
    each_number([&](float number, std::size_t x, std::size_t y, std::size_t lane) {
      spread[x][y][lane] = number;
    });
  }
  for (std::size_t x = 0; x < across; ++x) {
    for (std::size_t y = 0; y < across; ++y) sums[x][y] = vld1q_f32(spread[x][y].data());
  }
  const auto step = [&](auto load, index_t p) {
    std::array<bfloat16x8_t, across> of_a;
    std::array<bfloat16x8_t, across> of_b;
    for (std::size_t x = 0; x < across; ++x) {
      of_a[x] = load(a, i + 2 * static_cast<index_t>(x), p, rows);
      of_b[x] = load(b, j + 2 * static_cast<index_t>(x), p, cols);
    }
    for (std::size_t x = 0; x < across; ++x) {
      for (std::size_t y = 0; y < across; ++y) {
        sums[x][y] = vbfmmlaq_f32(sums[x][y], of_a[x], of_b[y]);
      }
    }
  };
  const auto careful = [&](const bfmmla_lines& from, index_t line, index_t p, index_t lines) {
    return from.load(line, p, lines, pairs);
  };
  index_t p = 0;
  if constexpr (IsWhole) {
    for (; p + 2 <= pairs; p += 2) {
      step([](const bfmmla_lines& from, index_t line, index_t at,
              index_t /*lines*/) { return from.load_whole(line, at); },
           p);
    }
  }
  for (; p < pairs; p += 2) step(careful, p);
  for (std::size_t x = 0; x < across; ++x) {
    for (std::size_t y = 0; y < across; ++y) vst1q_f32(spread[x][y].data(), sums[x][y]);
  }
  each_number([&](float& number, std::size_t x, std::size_t y, std::size_t lane) {
    number = spread[x][y][lane];
  });
}

inline void multiply_by_bfmmla(const basic_left_factor<std::uint32_t>& a,
                               const basic_row_factor<std::uint32_t>& b, const row_target& c,
                               index_t rows, index_t cols, index_t pairs,
                               product_mode mode) noexcept {
  const bfmmla_lines of_a{a.data, a.row_stride, a.col_stride};
  const bfmmla_lines of_b{b.data, 1, b.stride};
  for (index_t j = 0; j < cols; j += 8) {
    for (index_t i = 0; i < rows; i += 8) {
      const bool is_whole =
          i + 8 <= rows && j + 8 <= cols && (a.col_stride == 1 || a.row_stride == 1);
      (is_whole ? &bfmmla_tile<true> : &bfmmla_tile<false>)(of_a, of_b, c, i, j, rows, cols, pairs,
                                                            mode);
    }
  }
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::simd

#endif
