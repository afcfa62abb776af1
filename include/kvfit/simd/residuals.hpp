// SPDX-License-Identifier: MIT
/// What is missing column by column: its squares, its products with what should be there, and it
/// itself, scaled.
#pragma once

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// For every column i of the `rows` × `cols` matrices Y (wanted) and A (there), e = y - a:
///
///     squares_i = sum_k e_ki²,   along_i = sum_k e_ki y_ki,   a_ki <- factors_i e_ki
///
/// Rows of Y and A lie `stride` apart. fp32 sums in the order of k, with the same bytes at any
/// offset; relative error of `squares` at most (rows + 3) 2^-24. Allocates nothing.
inline void scaled_residuals(const float* y, float* a, index_t stride, index_t rows, index_t cols,
                             const float* factors, float* squares, float* along) noexcept {
  const auto column = [&](index_t i, auto read, auto write) {
    const batch factor = read(factors + i);
    batch square(0.0f);
    batch product(0.0f);
    for (index_t k = 0; k < rows; ++k) {
      const batch wanted = read(y + k * stride + i);
      const batch missing = wanted - read(a + k * stride + i);
      square = multiply_add(missing, missing, square);
      product = multiply_add(missing, wanted, product);
      write(a + k * stride + i, missing * factor);
    }
    write(squares + i, square);
    write(along + i, product);
  };
  index_t i = 0;
  for (; i + lanes <= cols; i += lanes) {
    column(
        i, [](const float* from) { return load(from); }, [](float* to, batch x) { store(to, x); });
  }
  if (i < cols) {
    const index_t left = cols - i;
    column(
        i, [left](const float* from) { return load_first(from, left, 0.0f); },
        [left](float* to, batch x) { store_first(to, x, left); });
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
