// SPDX-License-Identifier: MIT
/// Inner products of many rows with a few: C = A Bᵀ where both lie row by row.
#pragma once

#include <array>

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd::inline KVFIT_ISA {

namespace detail {

// Rows × rows sums stay in registers, with one register of each row beside: 16 + 5 of 32, or
// 6 + 4 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int product_rows = 4;
inline constexpr int product_columns = 4;
#else
inline constexpr int product_rows = 3;
inline constexpr int product_columns = 2;
#endif

/// `Rows` rows of A with `Columns` rows of B.
template <int Rows, int Columns>
void row_product_tile(const float* a, index a_stride, const float* b, index b_stride, index n,
                      float* out, index out_stride) noexcept {
  std::array<std::array<batch, Columns>, Rows> sums;
  for (auto& row : sums) row.fill(batch(0.0f));
  const auto add = [&](auto read) {
    std::array<batch, Columns> right;
    for (int c = 0; c < Columns; ++c) right[c] = read(b + c * b_stride);
    for (int r = 0; r < Rows; ++r) {
      const batch left = read(a + r * a_stride);
      for (int c = 0; c < Columns; ++c) sums[r][c] = multiply_add(left, right[c], sums[r][c]);
    }
  };
  index i = 0;
  for (; i + lanes <= n; i += lanes) add([i](const float* row) { return load(row + i); });
  if (i < n) add([i, n](const float* row) { return load_first(row + i, n - i, 0.0f); });
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) out[r * out_stride + c] = sum(sums[r][c]);
  }
}

template <int Rows>
void row_product_strip(const float* a, index a_stride, const float* b, index b_stride,
                       index columns, index n, float* out, index out_stride) noexcept {
  index c = 0;
  for (; c + product_columns <= columns; c += product_columns) {
    row_product_tile<Rows, product_columns>(a, a_stride, b + c * b_stride, b_stride, n, out + c,
                                            out_stride);
  }
  for (; c < columns; ++c) {
    row_product_tile<Rows, 1>(a, a_stride, b + c * b_stride, b_stride, n, out + c, out_stride);
  }
}

}  // namespace detail

/// out_rc = sum_i a_ri b_ci for `rows` rows of A and `columns` rows of B, n floats each.
///
/// Rows lie `a_stride`, `b_stride` and `out_stride` apart. fp32; every element is one sum with the
/// same bytes whatever rows and columns stand beside it. Reads A once for all columns, so a few
/// columns (8 to 32) cost little more than one where A comes from memory. Error of an element at
/// most (n / lanes + lanes) 2^-24 sum_i |a_ri b_ci|. Allocates nothing.
inline void row_products(const float* a, index a_stride, index rows, const float* b, index b_stride,
                         index columns, index n, float* out, index out_stride) noexcept {
  index r = 0;
  for (; r + detail::product_rows <= rows; r += detail::product_rows) {
    detail::row_product_strip<detail::product_rows>(a + r * a_stride, a_stride, b, b_stride,
                                                    columns, n, out + r * out_stride, out_stride);
  }
  for (; r < rows; ++r) {
    detail::row_product_strip<1>(a + r * a_stride, a_stride, b, b_stride, columns, n,
                                 out + r * out_stride, out_stride);
  }
}

}  // namespace kvfit::simd::inline KVFIT_ISA
