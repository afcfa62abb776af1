// SPDX-License-Identifier: MIT
/// Products of bf16 by tiles of sixteen by sixteen sums: AMX's (simd/amx_tiles.hpp), or what a
/// test puts in their place.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kvfit/simd/product.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

inline constexpr index_t amx_side = 16;  ///< rows, words of a row and columns of a tile
inline constexpr index_t amx_deep = 8;  ///< tiles along the sum whose left factors are kept at hand

/// One tile's worth of words.
using amx_block = std::array<std::uint32_t, amx_side * amx_side>;

/// `_tile_loadconfig`'s table: eight tiles of 16 rows of 64 bytes.
struct amx_shapes {
  std::array<std::uint8_t, 64> bytes{};

  constexpr amx_shapes() noexcept {
    bytes[0] = 1;  // the palette
    for (std::size_t tile = 0; tile < 8; ++tile) {
      bytes[16 + 2 * tile] = 64;    // bytes of a row, sixteen bits wide
      bytes[48 + tile] = amx_side;  // rows
    }
  }
};

/// out_rp = words at from + r · row_stride + p · pair_stride, 0 beyond `rows` and `pairs`.
inline void gather_block(const std::uint32_t* from, index_t row_stride, index_t pair_stride,
                         index_t rows, index_t pairs, amx_block& out) noexcept {
#if defined(__SSE2__)
  if (row_stride == 1 && rows >= amx_side && pairs >= amx_side) {
    const auto load = [&](index_t r, index_t p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + p * pair_stride + r));
    };
    for (index_t r = 0; r < amx_side; r += 4) {
      for (index_t p = 0; p < amx_side; p += 4) {
        const __m128i ab_low = _mm_unpacklo_epi32(load(r, p), load(r, p + 1));
        const __m128i ab_high = _mm_unpackhi_epi32(load(r, p), load(r, p + 1));
        const __m128i cd_low = _mm_unpacklo_epi32(load(r, p + 2), load(r, p + 3));
        const __m128i cd_high = _mm_unpackhi_epi32(load(r, p + 2), load(r, p + 3));
        const auto put = [&](index_t row, __m128i words) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(out.data() + row * amx_side + p), words);
        };
        put(r, _mm_unpacklo_epi64(ab_low, cd_low));
        put(r + 1, _mm_unpackhi_epi64(ab_low, cd_low));
        put(r + 2, _mm_unpacklo_epi64(ab_high, cd_high));
        put(r + 3, _mm_unpackhi_epi64(ab_high, cd_high));
      }
    }
    return;
  }
#endif
  for (index_t r = 0; r < amx_side; ++r) {
    for (index_t p = 0; p < amx_side; ++p) {
      out[static_cast<std::size_t>(r * amx_side + p)] =
          r < rows && p < pairs ? from[r * row_stride + p * pair_stride] : 0U;
    }
  }
}

/// A product by tiles, two by two of sums. What sticks out of a whole tile goes through a block
/// filled up with zeros. `Tiles` is `amx_tiles`, or what a test puts in its place.
template <class Tiles>
class amx_product {
 public:
  amx_product(const basic_left_factor<std::uint32_t>& a, const basic_row_factor<std::uint32_t>& b,
              const row_target& c, index_t rows, index_t cols, index_t pairs) noexcept
      : a_(a), b_(b), c_(c), rows_(rows), cols_(cols), pairs_(pairs) {}

  void run(product_mode mode) noexcept {
    for (index_t i = 0; i < rows_; i += 2 * amx_side) {
      // A product of no depth is one step too: it sets C to 0.
      for (index_t first = 0; first == 0 || first < pairs_; first += amx_deep * amx_side) {
        const bool is_new = first == 0 && mode == product_mode::assign;
        place_left(i, first);
        for (index_t j = 0; j < cols_; j += 2 * amx_side) {
          const bool is_high = rows_ - i > amx_side;
          const bool is_wide = cols_ - j > amx_side;
          begin<0>(i, j, is_new);
          if (is_wide) begin<1>(i, j, is_new);
          if (is_high) begin<2>(i, j, is_new);
          if (is_high && is_wide) begin<3>(i, j, is_new);
          for (index_t k = 0; k < steps(first); ++k) {
            load_left<0>(k);
            load_right<0>(first + k * amx_side, j);
            Tiles::template add<0, 0>();
            if (is_high) load_left<1>(k);
            if (is_high) Tiles::template add<1, 0>();
            if (!is_wide) continue;
            load_right<1>(first + k * amx_side, j);
            Tiles::template add<0, 1>();
            if (is_high) Tiles::template add<1, 1>();
          }
          end<0>(i, j);
          if (is_wide) end<1>(i, j);
          if (is_high) end<2>(i, j);
          if (is_high && is_wide) end<3>(i, j);
        }
      }
    }
  }

 private:
  /// Where a tile is read from.
  struct source {
    const std::uint32_t* words;
    index_t stride;
  };

  /// g++'s tile instructions don't say that they touch memory.
  static void fence() noexcept { std::atomic_signal_fence(std::memory_order_seq_cst); }

  [[nodiscard]] index_t steps(index_t first) const noexcept {
    return (std::min)(amx_deep, (pairs_ - first + amx_side - 1) / amx_side);
  }

  /// Finds or makes the left tiles of rows i … and words first ….
  void place_left(index_t i, index_t first) noexcept {
    for (index_t x = 0; x < 2 && i + x * amx_side < rows_; ++x) {
      const index_t row = i + x * amx_side;
      for (index_t k = 0; k < steps(first); ++k) {
        const index_t pair = first + k * amx_side;
        const std::uint32_t* at = a_.data + row * a_.row_stride + pair * a_.col_stride;
        const auto place = static_cast<std::size_t>(x * amx_deep + k);
        if (a_.col_stride == 1 && row + amx_side <= rows_ && pair + amx_side <= pairs_) {
          left_[place] = {at, a_.row_stride};
          continue;
        }
        gather_block(at, a_.row_stride, a_.col_stride, rows_ - row, pairs_ - pair, kept_[place]);
        left_[place] = {kept_[place].data(), amx_side};
      }
    }
  }

  template <int X>
  void load_left(index_t k) noexcept {
    load<4 + X>(left_[static_cast<std::size_t>(X * amx_deep + k)]);
  }

  template <int Y>
  void load_right(index_t pair, index_t j) noexcept {
    const index_t col = j + Y * amx_side;
    const std::uint32_t* at = b_.data + pair * b_.stride + col;
    if (pair + amx_side <= pairs_ && col + amx_side <= cols_) return load<6 + Y>({at, b_.stride});
    gather_block(at, b_.stride, 1, pairs_ - pair, cols_ - col, edge_);
    load<6 + Y>({edge_.data(), amx_side});
  }

  template <int Tile>
  static void load(const source& from) noexcept {
    fence();
    Tiles::template load<Tile>(from.words, static_cast<std::size_t>(from.stride) * 4);
    fence();
  }

  /// Rows and columns of C that tile 2x + y stands for.
  struct patch {
    float* at;
    index_t rows;
    index_t cols;

    [[nodiscard]] bool is_whole() const noexcept { return rows >= amx_side && cols >= amx_side; }
  };
  template <int Tile>
  [[nodiscard]] patch patch_of(index_t i, index_t j) const noexcept {
    const index_t row = i + Tile / 2 * amx_side;
    const index_t col = j + Tile % 2 * amx_side;
    return {c_.data + row * c_.stride + col, (std::min)(amx_side, rows_ - row),
            (std::min)(amx_side, cols_ - col)};
  }

  template <int Tile>
  void begin(index_t i, index_t j, bool is_new) noexcept {
    if (is_new) return Tiles::template zero<Tile>();
    const patch to = patch_of<Tile>(i, j);
    fence();
    if (to.is_whole()) {
      return Tiles::template load<Tile>(to.at, static_cast<std::size_t>(c_.stride) * 4);
    }
    sums_.fill(0);
    for (index_t r = 0; r < to.rows; ++r) {
      std::copy_n(to.at + r * c_.stride, to.cols, sums_.data() + r * amx_side);
    }
    fence();
    Tiles::template load<Tile>(sums_.data(), amx_side * 4);
  }

  template <int Tile>
  void end(index_t i, index_t j) noexcept {
    const patch to = patch_of<Tile>(i, j);
    fence();
    if (to.is_whole()) {
      Tiles::template store<Tile>(to.at, static_cast<std::size_t>(c_.stride) * 4);
      return fence();
    }
    Tiles::template store<Tile>(sums_.data(), amx_side * 4);
    fence();
    for (index_t r = 0; r < to.rows; ++r) {
      std::copy_n(sums_.data() + r * amx_side, to.cols, to.at + r * c_.stride);
    }
  }

  basic_left_factor<std::uint32_t> a_;
  basic_row_factor<std::uint32_t> b_;
  row_target c_;
  index_t rows_;
  index_t cols_;
  index_t pairs_;
  std::array<source, 2 * amx_deep> left_;
  alignas(64) std::array<amx_block, 2 * amx_deep> kept_;  // 16 KB on the stack
  alignas(64) amx_block edge_;
  alignas(64) std::array<float, amx_side * amx_side> sums_;
};

template <class Tiles>
void multiply_by_amx(const basic_left_factor<std::uint32_t>& a,
                     const basic_row_factor<std::uint32_t>& b, const row_target& c, index_t rows,
                     index_t cols, index_t pairs, product_mode mode) noexcept {
  alignas(64) static constexpr amx_shapes shapes;
  Tiles::configure(shapes.bytes.data());
  amx_product<Tiles>(a, b, c, rows, cols, pairs).run(mode);
  Tiles::release();  // or the system would save the tiles at every switch
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
