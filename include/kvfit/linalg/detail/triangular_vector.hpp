// SPDX-License-Identifier: MIT
/// Triangular and symmetric matrices times a vector, and triangular systems of one right-hand side.
///
/// A matrix is given by rows and by its upper triangle, which alone is read: U, `size` × `size`,
/// rows `stride` apart. The lower triangle of a matrix by columns lies in the same places. Each
/// costs size² flops or twice that; nothing is allocated.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// y += factor · x.
template <class Scalar>
void add_scaled(Scalar factor, const Scalar* x, Scalar* y, index_t count) noexcept {
  using wide = simd::detail::register_of<Scalar>;
  constexpr auto step = static_cast<index_t>(wide::size);
  const wide scale(factor);
  index_t j = 0;
  for (; j + step <= count; j += step) {
    simd::store(y + j, simd::multiply_add(scale, simd::load(x + j), simd::load(y + j)));
  }
  if (j == count) return;
  const wide sum = simd::multiply_add(scale, simd::load_first(x + j, count - j, Scalar{0}),
                                      simd::load_first(y + j, count - j, Scalar{0}));
  simd::store_first(y + j, sum, count - j);
}

/// x · y.
template <class Scalar>
[[nodiscard]] Scalar dot(const Scalar* x, const Scalar* y, index_t count) noexcept {
  using wide = simd::detail::register_of<Scalar>;
  constexpr auto step = static_cast<index_t>(wide::size);
  std::array<wide, 4> sums;
  sums.fill(wide(Scalar{0}));
  index_t j = 0;
  for (; j + 4 * step <= count; j += 4 * step) {
    for (std::size_t b = 0; b < sums.size(); ++b) {
      const index_t at = j + static_cast<index_t>(b) * step;
      sums[b] = simd::multiply_add(simd::load(x + at), simd::load(y + at), sums[b]);
    }
  }
  for (; j < count; j += step) {
    const index_t some = count - j < step ? count - j : step;
    sums[0] = simd::multiply_add(simd::load_first(x + j, some, Scalar{0}),
                                 simd::load_first(y + j, some, Scalar{0}), sums[0]);
  }
  return simd::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// x ← U⁻ᵀ x.
template <class Scalar>
void solve_transposed(const Scalar* u, index_t stride, index_t size, Scalar* x) noexcept {
  for (index_t k = 0; k < size; ++k) {
    const Scalar* row = u + k * stride;
    x[k] /= row[k];
    add_scaled(-x[k], row + k + 1, x + k + 1, size - k - 1);
  }
}

/// x ← U⁻¹ x.
template <class Scalar>
void solve_upper(const Scalar* u, index_t stride, index_t size, Scalar* x) noexcept {
  for (index_t k = size - 1; k >= 0; --k) {
    const Scalar* row = u + k * stride;
    x[k] = (x[k] - dot(row + k + 1, x + k + 1, size - k - 1)) / row[k];
  }
}

/// y = Uᵀ(U x); `image` holds `size` numbers.
template <class Scalar>
void multiply_square(const Scalar* u, index_t stride, index_t size, const Scalar* x, Scalar* y,
                     Scalar* image) noexcept {
  for (index_t k = 0; k < size; ++k) {
    y[k] = 0;
    image[k] = dot(u + k * stride + k, x + k, size - k);
  }
  for (index_t k = 0; k < size; ++k) {
    add_scaled(image[k], u + k * stride + k, y + k, size - k);
  }
}

/// y = S x for the symmetric S whose upper triangle is U.
inline void multiply_symmetric(const double* u, index_t stride, index_t size, const double* x,
                               double* y) noexcept {
  constexpr index_t high = 4;  // rows at a time: y is read and written once for all of them
  for (index_t k = 0; k < size; ++k) y[k] = 0;
  for (index_t top = 0; top < size; top += high) {
    const index_t count = std::min(high, size - top);
    const index_t right = top + count;
    for (index_t a = top; a < right; ++a) {  // the corner on the diagonal
      y[a] += u[a * stride + a] * x[a];
      for (index_t b = a + 1; b < right; ++b) {
        y[a] += u[a * stride + b] * x[b];
        y[b] += u[a * stride + b] * x[a];
      }
    }
    if (right == size) break;
    const double* rows = u + top * stride + right;
    std::array<simd::batch64, 4> sums;
    sums.fill(simd::batch64(0.0));
    const std::array<simd::batch64, 4> factors{simd::batch64(x[top]), simd::batch64(x[top + 1]),
                                               simd::batch64(x[top + 2]),
                                               simd::batch64(x[top + 3])};
    const index_t rest = size - right;
    for (index_t j = 0; j < rest; j += simd::lanes64) {
      const index_t wide = std::min(simd::lanes64, rest - j);
      const bool is_whole = wide == simd::lanes64;
      const double* from = x + right + j;
      double* to = y + right + j;
      const auto given = is_whole ? simd::load(from) : simd::load_first(from, wide, 0.0);
      auto sum = is_whole ? simd::load(to) : simd::load_first(to, wide, 0.0);
      for (std::size_t r = 0; r < sums.size(); ++r) {
        const double* row = rows + static_cast<index_t>(r) * stride + j;
        const auto own = is_whole ? simd::load(row) : simd::load_first(row, wide, 0.0);
        sums[r] = simd::multiply_add(own, given, sums[r]);
        sum = simd::multiply_add(own, factors[r], sum);
      }
      if (is_whole) {
        simd::store(to, sum);
      } else {
        simd::store_first(to, sum, wide);
      }
    }
    for (std::size_t r = 0; r < sums.size(); ++r) {
      y[top + static_cast<index_t>(r)] += simd::sum(sums[r]);
    }
  }
}

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
