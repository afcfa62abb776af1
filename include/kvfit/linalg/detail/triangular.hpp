// SPDX-License-Identifier: MIT
/// Cholesky factors and triangular systems, nearly all of it matrix products.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// Below this size triangles are taken row by row.
inline constexpr index_t triangle_base = 24;

/// Where a triangle is cut in two: about the middle, at whole bases.
constexpr index_t halved(index_t size) noexcept {
  return (size / 2 + triangle_base - 1) / triangle_base * triangle_base;
}

/// Columns that are taken together where `cols` of them can be computed alone: as few as leave work
/// for every thread, whole registers and no more than 96. What one column becomes does not depend
/// on its neighbours, so neither does it on the number of threads.
inline index_t columns_at_once(index_t cols, const executor_ref& threads) noexcept {
  constexpr index_t most = 96;
  constexpr index_t step = 32;
  const index_t pieces =
      (std::max)((cols + most - 1) / most, static_cast<index_t>(threads.threads()));
  const index_t even = (cols + pieces - 1) / std::max<index_t>(pieces, 1);
  return std::clamp((even + step - 1) / step * step, step, most);
}

/// C −= AᵀB for A `depth` × rows and B `depth` × cols, rows of contiguous numbers.
template <class Scalar>
void subtract_product(const simd::basic_row_factor<Scalar>& a,
                      const simd::basic_row_factor<Scalar>& b,
                      const simd::basic_row_target<Scalar>& c, index_t rows, index_t cols,
                      index_t depth, part wanted, const executor_ref& executor = {}) {
  constexpr auto subtract = simd::product_mode::subtract;
  if (rows * cols <= strip_width * strip_width) {  // not worth a copy
    simd::multiply({a.data, 1, a.stride}, b, c, rows, cols, depth, subtract);
    return;
  }
  const auto from = [](const simd::basic_row_factor<Scalar>& m, index_t top) {
    return [&m, top](index_t i, index_t first, index_t width, Scalar* to) {
      std::copy_n(m.data + (top + i) * m.stride + first, width, to);
    };
  };
  const executor_ref threads = executor.for_work(
      2.0 * static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(depth));
  const index_t capacity = (std::min)(depth, strip_rows);
  strips<Scalar> left(capacity, rows);
  if (wanted == part::upper) {
    for (index_t top = 0; top < depth; top += strip_rows) {
      const index_t count = (std::min)(strip_rows, depth - top);
      left.fill(count, from(a, top), threads);
      multiply_strips(left, left, count, c, subtract, part::upper, threads);
    }
    return;
  }
  strips<Scalar> right(capacity, cols);
  for (index_t top = 0; top < depth; top += strip_rows) {
    const index_t count = (std::min)(strip_rows, depth - top);
    left.fill(count, from(a, top), threads);
    right.fill(count, from(b, top), threads);
    multiply_strips(left, right, count, c, subtract, part::all, threads);
  }
}

/// X ← X − (rows above it) for one small triangle: rows of X in order of `row(step)`.
///
/// Uᵀ X = B from the top row down, or U X = B from the bottom row up, in registers.
template <bool IsTransposed, class Scalar>
void solve_base(const Scalar* u, index_t stride, index_t size, Scalar* x, index_t x_stride,
                index_t cols) noexcept {
  using wide = simd::detail::register_of<Scalar>;
  constexpr auto step = static_cast<index_t>(wide::size);
  std::array<Scalar, triangle_base> inverse{};
  for (index_t i = 0; i < size; ++i) inverse[static_cast<std::size_t>(i)] = 1 / u[i * stride + i];
  const auto solve = [&](index_t first, auto load, auto store) {
    for (index_t turn = 0; turn < size; ++turn) {
      const index_t i = IsTransposed ? turn : size - 1 - turn;
      Scalar* at = x + i * x_stride + first;
      auto sum = load(at);
      for (index_t done = 0; done < turn; ++done) {
        const index_t k = IsTransposed ? done : size - 1 - done;
        const wide factor(IsTransposed ? -u[k * stride + i] : -u[i * stride + k]);
        const auto known = load(x + k * x_stride + first);
        for (std::size_t b = 0; b < sum.size(); ++b) {
          sum[b] = simd::multiply_add(factor, known[b], sum[b]);
        }
      }
      const wide scale(inverse[static_cast<std::size_t>(i)]);
      for (auto& part_sum : sum) part_sum = part_sum * scale;
      store(at, sum);
    }
  };
  index_t first = 0;
  for (; first + 4 * step <= cols; first += 4 * step) {
    solve(
        first,
        [&](const Scalar* at) {
          return std::array<wide, 4>{simd::load(at), simd::load(at + step),
                                     simd::load(at + 2 * step), simd::load(at + 3 * step)};
        },
        [&](Scalar* at, const std::array<wide, 4>& sum) {
          for (std::size_t b = 0; b < 4; ++b)
            simd::store(at + static_cast<index_t>(b) * step, sum[b]);
        });
  }
  for (; first < cols; first += step) {
    const index_t width = (std::min)(step, cols - first);
    solve(
        first,
        [&](const Scalar* at) {
          return std::array<wide, 1>{simd::load_first(at, width, Scalar{0})};
        },
        [&](Scalar* at, const std::array<wide, 1>& sum) { simd::store_first(at, sum[0], width); });
  }
}

/// X ← U⁻ᵀ X: U `size` × `size` in the upper triangle (what lies below is not read), X `cols` wide.
/// Cost size² · cols flops; allocates up to 256 · (size + cols) numbers.
template <class Scalar>
void solve_transposed(const Scalar* u, index_t stride, index_t size, Scalar* x, index_t x_stride,
                      index_t cols, const executor_ref& threads = {}) {
  if (size == 0 || cols == 0) return;
  if (size <= triangle_base) return solve_base<true>(u, stride, size, x, x_stride, cols);
  const index_t half = halved(size);
  Scalar* lower = x + half * x_stride;
  solve_transposed(u, stride, half, x, x_stride, cols, threads);
  subtract_product<Scalar>({u + half, stride}, {x, x_stride}, {lower, x_stride}, size - half, cols,
                           half, part::all, threads);
  solve_transposed(u + half * stride + half, stride, size - half, lower, x_stride, cols, threads);
}

/// X ← U⁻¹ X.
template <class Scalar>
void solve_upper(const Scalar* u, index_t stride, index_t size, Scalar* x, index_t x_stride,
                 index_t cols) noexcept {
  if (size == 0 || cols == 0) return;
  if (size <= triangle_base) return solve_base<false>(u, stride, size, x, x_stride, cols);
  const index_t half = halved(size);
  Scalar* lower = x + half * x_stride;
  solve_upper(u + half * stride + half, stride, size - half, lower, x_stride, cols);
  for (index_t k = half; k < size; k += strip_rows) {
    simd::multiply({u + k, stride, 1}, {x + k * x_stride, x_stride}, {x, x_stride}, half, cols,
                   (std::min)(strip_rows, size - k), simd::product_mode::subtract);
  }
  solve_upper(u, stride, half, x, x_stride, cols);
}

/// The same with columns of X shared, each of which is solved alone.
template <class Scalar>
void solve_upper(const Scalar* u, index_t stride, index_t size, Scalar* x, index_t x_stride,
                 index_t cols, const executor_ref& executor) {
  const executor_ref threads = executor.for_work(
      static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(cols));
  over_pieces(threads, cols, columns_at_once(cols, threads),
              [&](index_t first, index_t count) noexcept {
                solve_upper(u, stride, size, x + first, x_stride, count);
              });
}

/// A = UᵀU in place: reads and writes the upper triangle of A alone (and blocks along the
/// diagonal). False where A is not positive definite. Cost size³/3 flops; allocates up to 256 ·
/// size numbers.
template <class Scalar>
[[nodiscard]] bool factor_upper(Scalar* a, index_t stride, index_t size,
                                const executor_ref& threads = {}) {
  if (size <= triangle_base) {
    for (index_t k = 0; k < size; ++k) {
      Scalar* row = a + k * stride;
      if (!(row[k] > 0) || !std::isfinite(row[k])) return false;
      row[k] = std::sqrt(row[k]);
      const Scalar inverse = 1 / row[k];
      for (index_t j = k + 1; j < size; ++j) row[j] *= inverse;
      for (index_t i = k + 1; i < size; ++i) {
        const Scalar factor = -row[i];
        Scalar* below = a + i * stride;
        for (index_t j = i; j < size; ++j) below[j] = std::fma(factor, row[j], below[j]);
      }
    }
    return true;
  }
  const index_t half = halved(size);
  const index_t rest = size - half;
  if (!factor_upper(a, stride, half, threads)) return false;
  Scalar* right = a + half;
  Scalar* corner = a + half * stride + half;
  solve_transposed(a, stride, half, right, stride, rest, threads);
  subtract_product<Scalar>({right, stride}, {right, stride}, {corner, stride}, rest, rest, half,
                           part::upper, threads);
  return factor_upper(corner, stride, rest, threads);
}

/// What a factor or a solve of `size` equations and `cols` right-hand sides works in, at most.
inline void declare_triangular(workspace& space, index_t size, index_t cols) {
  if (size <= triangle_base) return;
  const index_t half = halved(size);
  const index_t capacity = (std::min)(half, strip_rows);
  strips<double>().declare(space, capacity, (std::max)(half, size - half));
  strips<double>().declare(space, capacity, cols);
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
