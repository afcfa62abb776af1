// SPDX-License-Identifier: MIT
/// The product of factors packed in pairs of bf16, with sums in fp32.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvfit/simd/amx_tiles.hpp"
#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/bf16_amx.hpp"
#include "kvfit/simd/bf16_neon.hpp"
#include "kvfit/simd/bf16_pairs.hpp"
#include "kvfit/simd/prefetch.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// Factors of words, see simd/bf16_pairs.hpp: pair p of A's row i, and of B's column j.
using pair_left_factor = basic_left_factor<std::uint32_t>;
using pair_row_factor = basic_row_factor<std::uint32_t>;

namespace detail {

/// Pairs multiplied as the floats that they are: on any machine.
struct widened_pairs {
  using element = std::uint32_t;
  using scalar = float;
  using columns = batch_pair;

  static constexpr int widest = 2;
  static constexpr int tile_rows(int /*batches*/) noexcept { return 4; }

  static columns load_columns(const std::uint32_t* at) noexcept {
    return widen_words(xsimd::batch<std::uint32_t>::load_unaligned(at));
  }
  static columns load_first_columns(const std::uint32_t* at, index_t width) noexcept {
    std::array<std::uint32_t, batch::size> padded{};
    for (index_t j = 0; j < width; ++j) padded[static_cast<std::size_t>(j)] = at[j];
    return load_columns(padded.data());
  }
  static columns spread(std::uint32_t pair) noexcept {
    return {batch(std::bit_cast<float>(pair << 16U)),
            batch(std::bit_cast<float>(pair & 0xffff0000U))};
  }
  static batch add(const columns& of_a, const columns& of_b, batch sum) noexcept {
    return multiply_add(of_a.odd, of_b.odd, multiply_add(of_a.even, of_b.even, sum));
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)

/// AVX-512 BF16: both terms of a pair by one instruction, which takes subnormal numbers for 0.
struct avx512_pairs {
  using element = std::uint32_t;
  using scalar = float;
  struct columns {
    __m512i words;
  };

  static constexpr int widest = single_terms<float>::widest;
  static constexpr int tile_rows(int batches) noexcept {
    return single_terms<float>::tile_rows(batches);
  }

  static columns load_columns(const std::uint32_t* at) noexcept { return {_mm512_loadu_si512(at)}; }
  static columns load_first_columns(const std::uint32_t* at, index_t width) noexcept {
    return {_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1U << width) - 1U), at)};
  }
  static columns spread(std::uint32_t pair) noexcept {
    return {_mm512_set1_epi32(static_cast<int>(pair))};
  }
  static batch add(columns of_a, columns of_b, batch sum) noexcept {
    return _mm512_dpbf16_ps(sum, (__m512bh)of_a.words, (__m512bh)of_b.words);  // NOLINT(*-cstyle-*)
  }
};

using best_pairs = avx512_pairs;
#else
using best_pairs = widened_pairs;
#endif

}  // namespace detail

/// Multiplies factors packed in pairs:
///
///     C = A B, or C += A B:   c_ij = Σ_p (a_i,2p b_2p,j + a_i,2p+1 b_2p+1,j)
///
/// by AMX where the compiler was told of it and CPU and system have it, else by AVX-512 BF16, by
/// NEON's BFMMLA, or in floats. The four mean the same and round differently: products and sums
/// are fp32, each rounded at most twice a term. Subnormal numbers may count as 0. Every element is
/// one sum in a fixed order whatever the sizes: the same row and column give the same bytes
/// anywhere in a matrix. Allocates nothing.
///
/// Making one asks the system for AMX, which is a call of it: make it once for many products.
class pair_multiplier {
 public:
  pair_multiplier() noexcept : has_amx_(detail::may_use_amx()) {}

  /// `rows` × `cols`, over `pairs` words of each row of A. `mode`: assign or add. Meanwhile the
  /// memory `next` is fetched, except by AMX and BFMMLA.
  void operator()(const pair_left_factor& a, const pair_row_factor& b, const row_target& c,
                  index_t rows, index_t cols, index_t pairs,
                  product_mode mode = product_mode::assign,
                  [[maybe_unused]] const prefetch_range& next = {}) const noexcept {
#if defined(KVFIT_SIMD_AMX)
    if (has_amx_)
      return detail::multiply_by_amx<detail::amx_tiles>(a, b, c, rows, cols, pairs, mode);
#endif
#if defined(KVFIT_SIMD_BFMMLA)
    detail::multiply_by_bfmmla(a, b, c, rows, cols, pairs, mode);
#else
    detail::multiply_any<detail::best_pairs>(a, b, c, rows, cols, pairs, mode, next);
#endif
  }

 private:
  [[maybe_unused]] bool has_amx_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
