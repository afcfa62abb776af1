// SPDX-License-Identifier: MIT
/// Triangular and symmetric matrices times a vector, and triangular systems of one right-hand side.
///
/// A matrix is given by rows and by its upper triangle, which alone is read: U, `size` × `size`,
/// rows `stride` apart. The lower triangle of a matrix by columns lies in the same places. Each
/// costs size² flops or twice that; nothing is allocated.
#pragma once

#include <algorithm>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/batch64.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// y += factor · x.
inline void add_scaled(double factor, const double* x, double* y, index_t count) noexcept {
  simd::add_scaled(y, factor, x, count);
}
inline void add_scaled(float factor, const float* x, float* y, index_t count) noexcept {
  simd::subtract_scaled(y, -factor, x, count);
}

/// x · y.
[[nodiscard]] inline double dot(const double* x, const double* y, index_t count) noexcept {
  return simd::dot(x, y, count);
}
[[nodiscard]] inline float dot(const float* x, const float* y, index_t count) noexcept {
  return simd::dot32(x, y, count);
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
    const index_t right = (std::min)(top + high, size);
    for (index_t a = top; a < right; ++a) {  // the corner on the diagonal
      y[a] += u[a * stride + a] * x[a];
      for (index_t b = a + 1; b < right; ++b) {
        y[a] += u[a * stride + b] * x[b];
        y[b] += u[a * stride + b] * x[a];
      }
    }
    if (right == size) break;
    const double* row0 = u + top * stride;
    const double* row1 = row0 + stride;
    const double* row2 = row1 + stride;
    const double* row3 = row2 + stride;
    const simd::batch64 x0(x[top]), x1(x[top + 1]), x2(x[top + 2]), x3(x[top + 3]);
    simd::batch64 y0(0.0), y1(0.0), y2(0.0), y3(0.0);
    index_t j = right;
    for (; j + simd::lanes64 <= size; j += simd::lanes64) {
      const auto given = simd::load(x + j);
      const auto s0 = simd::load(row0 + j);
      const auto s1 = simd::load(row1 + j);
      const auto s2 = simd::load(row2 + j);
      const auto s3 = simd::load(row3 + j);
      y0 = simd::multiply_add(s0, given, y0);
      y1 = simd::multiply_add(s1, given, y1);
      y2 = simd::multiply_add(s2, given, y2);
      y3 = simd::multiply_add(s3, given, y3);
      auto sum = simd::multiply_add(s0, x0, simd::load(y + j));
      sum = simd::multiply_add(s1, x1, sum);
      sum = simd::multiply_add(s2, x2, sum);
      simd::store(y + j, simd::multiply_add(s3, x3, sum));
    }
    double rest0 = simd::sum(y0);
    double rest1 = simd::sum(y1);
    double rest2 = simd::sum(y2);
    double rest3 = simd::sum(y3);
    for (; j < size; ++j) {
      rest0 += row0[j] * x[j];
      rest1 += row1[j] * x[j];
      rest2 += row2[j] * x[j];
      rest3 += row3[j] * x[j];
      y[j] += row0[j] * x[top] + row1[j] * x[top + 1] + row2[j] * x[top + 2] + row3[j] * x[top + 3];
    }
    y[top] += rest0;
    y[top + 1] += rest1;
    y[top + 2] += rest2;
    y[top + 3] += rest3;
  }
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
