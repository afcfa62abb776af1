// SPDX-License-Identifier: MIT
/// The matrix product under logits, outputs, Gram matrices and factors: C = A B, or C += and C -=.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/batch64.hpp"
#include "kvfit/simd/prefetch.hpp"

namespace kvfit::simd::inline KVFIT_ISA {

/// A left factor: element (i, k) lies at data + i · row_stride + k · col_stride. Any strides do, so
/// a transposed matrix is one too; elements are read one by one and spread over a register.
template <class Scalar>
struct basic_left_factor {
  const Scalar* data = nullptr;
  index_t row_stride = 0;
  index_t col_stride = 1;
};

/// A right factor or a product: rows of contiguous numbers, `stride` apart.
template <class Scalar>
struct basic_row_factor {
  const Scalar* data = nullptr;
  index_t stride = 0;
};
template <class Scalar>
struct basic_row_target {
  Scalar* data = nullptr;
  index_t stride = 0;
};

using left_factor = basic_left_factor<float>;
using row_factor = basic_row_factor<float>;
using row_target = basic_row_target<float>;

enum class product_mode { assign, add, subtract };

namespace detail {

// A tile of sums stays in registers: 8 × 3 or 6 × 4 registers of 32, 4 × 3 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr bool has_wide_tiles = true;
#else
inline constexpr bool has_wide_tiles = false;
#endif

/// The register of a scalar.
template <class Scalar>
using register_of = decltype(load(static_cast<const Scalar*>(nullptr)));

/// What a product is made of: here numbers, of which one of A and one of B make a term. Others take
/// several at once (simd/bf16_product.hpp).
template <class Scalar>
struct single_terms {
  using element = Scalar;  ///< of A and of B
  using scalar = Scalar;   ///< of C
  using columns = register_of<Scalar>;

  static constexpr int widest = has_wide_tiles ? 4 : 3;  ///< registers of C side by side
  /// Rows of a tile that is `batches` registers wide.
  static constexpr int tile_rows(int batches) noexcept {
    if (!has_wide_tiles) return 4;
    return batches == 4 ? 6 : 8;
  }

  static columns load_columns(const Scalar* at) noexcept { return load(at); }
  static columns load_first_columns(const Scalar* at, index_t width) noexcept {
    return load_first(at, width, Scalar{0});
  }
  static columns spread(Scalar of_a) noexcept { return columns(of_a); }
  static columns add(columns of_a, columns of_b, columns sum) noexcept {
    return multiply_add(of_a, of_b, sum);
  }
};

/// Calls body(0), …, body(count − 1) with constants, so that arrays they index become registers.
template <int... I, class Body>
[[gnu::always_inline]] inline void unrolled(std::integer_sequence<int, I...>, Body body) {
  (body(std::integral_constant<int, I>{}), ...);
}

// The tool would break every lambda that has an attribute over several lines.
// clang-format off
/// One tile: `Rows` rows of A against `Batches` registers of columns of B. With `IsPartial` the one
/// register has but `width` columns.
template <class Terms, int Rows, int Batches, bool IsPartial>
void product_tile(const basic_left_factor<typename Terms::element>& a,
                  const basic_row_factor<typename Terms::element>& b,
                  const basic_row_target<typename Terms::scalar>& c, index_t depth, product_mode mode,
                  index_t width, fetcher& ahead) noexcept {
  static_assert(!IsPartial || Batches == 1);
  using Scalar = typename Terms::scalar;
  using wide = register_of<Scalar>;
  constexpr auto step = static_cast<index_t>(wide::size);
  constexpr auto rows = std::make_integer_sequence<int, Rows>{};
  constexpr auto batches = std::make_integer_sequence<int, Batches>{};
  std::array<std::array<wide, Batches>, Rows> sums;
  unrolled(rows, [&](auto i) __attribute__((always_inline)) {
    unrolled(batches, [&](auto x) __attribute__((always_inline)) {
      const Scalar* at = c.data + i * c.stride + x * step;
      if (mode == product_mode::assign) {
        sums[i][x] = wide(Scalar{0});
      } else if constexpr (IsPartial) {
        sums[i][x] = load_first(at, width, Scalar{0});
      } else {
        sums[i][x] = load(at);
      }
      // c - ab is the negative of ab - c, to the bit.
      if (mode == product_mode::subtract) sums[i][x] = -sums[i][x];
    });
  });
  const auto* left = a.data;
  const auto* right = b.data;
  fetcher next = ahead;
  for (index_t k = 0; k < depth; ++k) {
    if constexpr (Rows >= 4) next.step();  // where it costs nothing beside the products
    std::array<typename Terms::columns, Batches> columns;
    unrolled(batches, [&](auto x) __attribute__((always_inline)) {
      if constexpr (IsPartial) {
        columns[x] = Terms::load_first_columns(right, width);
      } else {
        columns[x] = Terms::load_columns(right + x * step);
      }
    });
    unrolled(rows, [&](auto i) __attribute__((always_inline)) {
      const auto spread = Terms::spread(left[i * a.row_stride]);
      unrolled(batches, [&](auto x) __attribute__((always_inline)) {
        sums[i][x] = Terms::add(spread, columns[x], sums[i][x]);
      });
    });
    left += a.col_stride;
    right += b.stride;
  }
  ahead = next;
  unrolled(rows, [&](auto i) __attribute__((always_inline)) {
    unrolled(batches, [&](auto x) __attribute__((always_inline)) {
      Scalar* at = c.data + i * c.stride + x * step;
      if (mode == product_mode::subtract) sums[i][x] = -sums[i][x];
      if constexpr (IsPartial) {
        store_first(at, sums[i][x], width);
      } else {
        store(at, sums[i][x]);
      }
    });
  });
}

// clang-format on

template <class Terms>
using tile_function = void (*)(const basic_left_factor<typename Terms::element>&,
                               const basic_row_factor<typename Terms::element>&,
                               const basic_row_target<typename Terms::scalar>&, index_t,
                               product_mode, index_t, fetcher&) noexcept;

/// The tile of `rows` rows, for 1 ≤ rows ≤ Terms::tile_rows(Batches).
template <class Terms, int Batches, bool IsPartial>
tile_function<Terms> tile_of(index_t rows) noexcept {
  constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
    return std::array<tile_function<Terms>, sizeof...(I)>{
        &product_tile<Terms, I + 1, Batches, IsPartial>...};
  }
  (std::make_integer_sequence<int, Terms::tile_rows(Batches)>{});
  return table[static_cast<std::size_t>(rows - 1)];
}

/// C over `depth` elements of A's rows and B's columns.
template <class Terms>
void multiply_any(const basic_left_factor<typename Terms::element>& a,
                  const basic_row_factor<typename Terms::element>& b,
                  const basic_row_target<typename Terms::scalar>& c, index_t rows, index_t cols,
                  index_t depth, product_mode mode, const prefetch_range& next) noexcept {
  constexpr auto step = static_cast<index_t>(register_of<typename Terms::scalar>::size);
  // No more steps than there are: strips are at most 4 registers wide, tiles at most 8 rows high.
  fetcher ahead(next,
                std::max<index_t>(rows / 8, 1) * std::max<index_t>(cols / (4 * step), 1) * depth,
                a.data);
  const auto strip = [&]<int Batches, bool IsPartial>(index_t first, index_t width,
                                                      std::integral_constant<int, Batches>,
                                                      std::bool_constant<IsPartial>) {
    constexpr auto most = static_cast<index_t>(Terms::tile_rows(Batches));
    for (index_t i = 0; i < rows; i += most) {
      const index_t count = rows - i < most ? rows - i : most;
      tile_of<Terms, Batches, IsPartial>(count)(
          {a.data + i * a.row_stride, a.row_stride, a.col_stride}, {b.data + first, b.stride},
          {c.data + i * c.stride + first, c.stride}, depth, mode, width, ahead);
    }
  };
  const auto whole = [&](index_t first, auto batches) {
    strip(first, batches * step, batches, std::false_type{});
    return first + batches * step;
  };
  index_t j = 0;
  while (cols - j >= step) {
    const index_t left = (cols - j) / step;
    // Strips of three registers, of four where threes leave a rest: one register alone is slow.
    if (Terms::widest >= 4 && left >= 4 && left % 3 != 0 && left != 5) {
      j = whole(j, std::integral_constant<int, std::min(Terms::widest, 4)>{});
    } else if (Terms::widest >= 3 && left >= 3) {
      j = whole(j, std::integral_constant<int, std::min(Terms::widest, 3)>{});
    } else if (left >= 2) {
      j = whole(j, std::integral_constant<int, 2>{});
    } else {
      j = whole(j, std::integral_constant<int, 1>{});
    }
  }
  if (j < cols) {
    strip(j, cols - j, std::integral_constant<int, 1>{}, std::true_type{});
  }
}

}  // namespace detail

/// C = A B, C += A B or C -= A B: `rows` × `cols`, over `depth` products.
///
/// Every element is one sum in the order of k, fused where the instruction set has it, whatever the
/// sizes: the same row and column give the same bytes anywhere in a matrix. Nothing overlaps.
/// No packing and no allocation: B is read again for every `tile_rows` rows of A, so callers hand
/// over blocks of B that stay in cache (depth · 3 · lanes floats in the first level). Meanwhile the
/// memory `next` is fetched.
inline void multiply(const left_factor& a, const row_factor& b, const row_target& c, index_t rows,
                     index_t cols, index_t depth, product_mode mode = product_mode::assign,
                     const prefetch_range& next = {}) noexcept {
  detail::multiply_any<detail::single_terms<float>>(a, b, c, rows, cols, depth, mode, next);
}

/// The same in double.
inline void multiply(const basic_left_factor<double>& a, const basic_row_factor<double>& b,
                     const basic_row_target<double>& c, index_t rows, index_t cols, index_t depth,
                     product_mode mode = product_mode::assign) noexcept {
  detail::multiply_any<detail::single_terms<double>>(a, b, c, rows, cols, depth, mode, {});
}

}  // namespace kvfit::simd::inline KVFIT_ISA
