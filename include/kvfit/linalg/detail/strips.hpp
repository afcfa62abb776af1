// SPDX-License-Identifier: MIT
/// Matrices cut into strips of neighbouring columns, and products of two such matrices.
///
/// Strips and blocks of products are what threads share: each is written by one of them, in the
/// order of one thread, so that bytes do not depend on how many there are.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// Columns in a strip: whole tiles of every register width.
inline constexpr index_t strip_width = 48;
/// Rows multiplied at a time: a tile's columns of that many stay in the first-level cache.
inline constexpr index_t strip_depth = 128;
/// Rows taken into strips at a time: a strip of that many stays in the second-level cache.
inline constexpr index_t strip_rows = 512;

/// Up to `capacity` rows of a matrix of doubles or floats, as strips that are contiguous each: a
/// product then reads memory front to back, and any left factor is as near as a right one.
template <class Scalar>
class strips {
 public:
  strips() = default;
  strips(index_t capacity, index_t cols) { allocate_buffers(*this, capacity, cols); }

  /// Of capacity × cols numbers, cols rounded up to whole strips.
  void declare(workspace& space, index_t capacity, index_t cols) {
    capacity_ = capacity;
    cols_ = cols;
    space.add(data_, many_times((cols + strip_width - 1) / strip_width, capacity), strip_width);
  }

  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] index_t width(index_t first) const noexcept {
    return (std::min)(strip_width, cols_ - first);
  }
  /// The strip that begins with column `first` = 0, 48, 96, …; its rows are 48 apart.
  [[nodiscard]] Scalar* strip(index_t first) noexcept { return data_.data() + first * capacity_; }
  [[nodiscard]] const Scalar* strip(index_t first) const noexcept {
    return data_.data() + first * capacity_;
  }

  /// Fills rows [0, count): `load(i, first, width, to)` writes `width` numbers of row i from column
  /// `first` on.
  template <class Load>
  void fill(index_t count, Load load, const executor_ref& threads = {}) {
    over_pieces(threads, cols_, strip_width, [&](index_t first, index_t wide) noexcept {
      Scalar* to = strip(first);
      for (index_t i = 0; i < count; ++i, to += strip_width) load(i, first, wide, to);
    });
  }

 private:
  index_t capacity_ = 0;
  index_t cols_ = 0;
  matrix_of<Scalar> data_;
};

/// y_i = factor · x_i, in the numbers of y.
template <class Scalar, class Factor>
void load_scaled(const float* x, Factor factor, index_t width, Scalar* y) noexcept {
  const auto one = [&](index_t i) {
    y[i] = static_cast<Scalar>(x[i]) * static_cast<Scalar>(factor);
  };
  if (width == strip_width) {  // a constant count, which compilers turn into registers
    for (index_t i = 0; i < strip_width; ++i) one(i);
  } else {
    for (index_t i = 0; i < width; ++i) one(i);
  }
}

/// y_i += x_i.
inline void add_widened(const float* x, index_t width, double* y) noexcept {
  index_t i = 0;
  for (; i + simd::lanes64 <= width; i += simd::lanes64) {
    simd::store(y + i, simd::load(y + i) + simd::load_widened(x + i));
  }
  for (; i < width; ++i) y[i] += static_cast<double>(x[i]);
}

/// Which blocks of a product are wanted.
enum class part : std::uint8_t { all, upper };

/// `body(i, j)` for the blocks of a product: the first columns of a strip of its left and of its
/// right factor, `rows` and `cols` wide; with `part::upper` only blocks that reach the diagonal.
template <class Body>
void over_blocks(const executor_ref& threads, index_t rows, index_t cols, part wanted, Body body) {
  const index_t down = (rows + strip_width - 1) / strip_width;
  const index_t across = (cols + strip_width - 1) / strip_width;
  threads.run(down * across, [&](index_t block) noexcept {
    const index_t i = block % down;
    const index_t j = block / down;
    if (wanted == part::all || i <= j) body(i * strip_width, j * strip_width);
  });
}

/// C += AᵀB or C −= AᵀB over `count` rows; with `part::upper` only blocks that reach the diagonal.
template <class Scalar>
void multiply_strips(const strips<Scalar>& a, const strips<Scalar>& b, index_t count,
                     const simd::basic_row_target<Scalar>& c, simd::product_mode mode, part wanted,
                     const executor_ref& threads = {}) {
  over_blocks(threads, a.cols(), b.cols(), wanted, [&](index_t i, index_t j) noexcept {
    // On the diagonal the lower left quarter of a block is spared.
    constexpr index_t half = strip_width / 2;
    const auto block = [&](index_t top, index_t height, index_t left) {
      for (index_t k = 0; k < count; k += strip_depth) {
        simd::multiply({a.strip(i) + k * strip_width + top, 1, strip_width},
                       {b.strip(j) + k * strip_width + left, strip_width},
                       {c.data + (i + top) * c.stride + j + left, c.stride}, height,
                       b.width(j) - left, (std::min)(strip_depth, count - k), mode);
      }
    };
    if (wanted == part::upper && i == j && b.width(j) > half) {
      block(0, half, 0);
      block(half, a.width(i) - half, half);
    } else {
      block(0, a.width(i), 0);
    }
  });
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
