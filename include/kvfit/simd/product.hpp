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

namespace kvfit::simd {
inline namespace KVFIT_ISA {

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

/// The columns of a tile: registers X = 0, 1, … side by side, and what is done to one row of sums.
/// Written out by packs: loops and lambdas in their place cost compilers twice the time. With
/// `IsPartial` the one register has but `width` columns.
template <class Terms, bool IsPartial, int... X>
struct tile_columns {
  static_assert(!IsPartial || sizeof...(X) == 1);
  using scalar = typename Terms::scalar;
  using wide = register_of<scalar>;
  using sums = std::array<wide, sizeof...(X)>;
  using factors = std::array<typename Terms::columns, sizeof...(X)>;
  static constexpr auto step = static_cast<index_t>(wide::size);

  [[gnu::always_inline]] static inline wide read_register(const scalar* at,
                                                          index_t width) noexcept {
    if constexpr (IsPartial) {
      return load_first(at, width, scalar{0});
    } else {
      return load(at);
    }
  }
  [[gnu::always_inline]] static inline void write_register(scalar* at, wide x,
                                                           index_t width) noexcept {
    if constexpr (IsPartial) {
      store_first(at, x, width);
    } else {
      store(at, x);
    }
  }

  /// A row of C to begin with.
  [[gnu::always_inline]] static inline void read(sums& row, const scalar* at, product_mode mode,
                                                 index_t width) noexcept {
    if (mode == product_mode::assign) {
      ((row[X] = wide(scalar{0})), ...);
    } else {
      ((row[X] = read_register(at + X * step, width)), ...);
    }
    // c - ab is the negative of ab - c, to the bit.
    if (mode == product_mode::subtract) ((row[X] = -row[X]), ...);
  }
  [[gnu::always_inline]] static inline void write(sums& row, scalar* at, product_mode mode,
                                                  index_t width) noexcept {
    if (mode == product_mode::subtract) ((row[X] = -row[X]), ...);
    (write_register(at + X * step, row[X], width), ...);
  }

  /// A row of B.
  [[gnu::always_inline]] static inline void take(factors& of_b,
                                                 const typename Terms::element* right,
                                                 index_t width) noexcept {
    if constexpr (IsPartial) {
      of_b[0] = Terms::load_first_columns(right, width);
    } else {
      ((of_b[X] = Terms::load_columns(right + X * step)), ...);
    }
  }
  [[gnu::always_inline]] static inline void add(sums& row, typename Terms::columns of_a,
                                                const factors& of_b) noexcept {
    ((row[X] = Terms::add(of_a, of_b[X], row[X])), ...);
  }
};

/// One tile: rows I = 0, 1, … of A against some columns of B.
template <class Terms, class Columns, int... I>
void product_tile(const basic_left_factor<typename Terms::element>& a,
                  const basic_row_factor<typename Terms::element>& b,
                  const basic_row_target<typename Terms::scalar>& c, index_t depth,
                  product_mode mode, index_t width, fetcher& ahead) noexcept {
  std::array<typename Columns::sums, sizeof...(I)> sums;
  (Columns::read(sums[I], c.data + I * c.stride, mode, width), ...);
  const auto* left = a.data;
  const auto* right = b.data;
  fetcher next = ahead;
  for (index_t k = 0; k < depth; ++k) {
    if constexpr (sizeof...(I) >= 4) next.step();  // where it costs nothing beside the products
    typename Columns::factors columns;
    Columns::take(columns, right, width);
    (Columns::add(sums[I], Terms::spread(left[I * a.row_stride]), columns), ...);
    left += a.col_stride;
    right += b.stride;
  }
  ahead = next;
  (Columns::write(sums[I], c.data + I * c.stride, mode, width), ...);
}

template <class Terms, class Columns, int... I>
void product_tile(std::integer_sequence<int, I...> /*rows*/,
                  const basic_left_factor<typename Terms::element>& a,
                  const basic_row_factor<typename Terms::element>& b,
                  const basic_row_target<typename Terms::scalar>& c, index_t depth,
                  product_mode mode, index_t width, fetcher& ahead) noexcept {
  product_tile<Terms, Columns, I...>(a, b, c, depth, mode, width, ahead);
}

/// C over `depth` elements for some columns: as many rows at once as a tile has, then 4, and the
/// rest.
template <class Terms, bool IsPartial, int... X>
void product_strip(const basic_left_factor<typename Terms::element>& a,
                   const basic_row_factor<typename Terms::element>& b,
                   const basic_row_target<typename Terms::scalar>& c, index_t rows, index_t depth,
                   product_mode mode, index_t width, fetcher& ahead) noexcept {
  using columns = tile_columns<Terms, IsPartial, X...>;
  constexpr int most = Terms::tile_rows(static_cast<int>(sizeof...(X)));
  for (index_t i = 0; i < rows;) {
    const index_t left = rows - i;
    const basic_left_factor<typename Terms::element> from{a.data + i * a.row_stride, a.row_stride,
                                                          a.col_stride};
    const basic_row_target<typename Terms::scalar> to{c.data + i * c.stride, c.stride};
    if (left >= most) {
      product_tile<Terms, columns>(std::make_integer_sequence<int, most>{}, from, b, to, depth,
                                   mode, width, ahead);
      i += most;
    } else if (left >= 4) {
      product_tile<Terms, columns, 0, 1, 2, 3>(from, b, to, depth, mode, width, ahead);
      i += 4;
    } else if (left == 3) {
      product_tile<Terms, columns, 0, 1, 2>(from, b, to, depth, mode, width, ahead);
      i += 3;
    } else if (left == 2) {
      product_tile<Terms, columns, 0, 1>(from, b, to, depth, mode, width, ahead);
      i += 2;
    } else {
      product_tile<Terms, columns, 0>(from, b, to, depth, mode, width, ahead);
      i += 1;
    }
  }
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
  for (index_t j = 0; j < cols;) {
    const index_t left = (cols - j) / step;
    const basic_row_factor<typename Terms::element> right{b.data + j, b.stride};
    const basic_row_target<typename Terms::scalar> to{c.data + j, c.stride};
    // Strips of three registers, of four where threes leave a rest: one register alone is slow.
    index_t batches = std::min<index_t>({left, 3, Terms::widest});
    if (Terms::widest >= 4 && left >= 4 && left % 3 != 0 && left != 5) batches = 4;
    if (batches == 0) {
      product_strip<Terms, true, 0>(a, right, to, rows, depth, mode, cols - j, ahead);
      return;
    }
    if (batches == 1) product_strip<Terms, false, 0>(a, right, to, rows, depth, mode, step, ahead);
    if (batches == 2) {
      product_strip<Terms, false, 0, 1>(a, right, to, rows, depth, mode, step, ahead);
    }
    if constexpr (Terms::widest >= 3) {
      if (batches == 3) {
        product_strip<Terms, false, 0, 1, 2>(a, right, to, rows, depth, mode, step, ahead);
      }
    }
    if constexpr (Terms::widest >= 4) {
      if (batches == 4) {
        product_strip<Terms, false, 0, 1, 2, 3>(a, right, to, rows, depth, mode, step, ahead);
      }
    }
    j += batches * step;
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

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
