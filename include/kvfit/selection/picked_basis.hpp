// SPDX-License-Identifier: MIT
/// An orthonormal basis of the columns picked so far, and what it leaves of others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/transpose.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline float* row_of(matrix& m, index_t row) noexcept {
  return m.data() + row * m.cols();
}
inline const float* row_of(const matrix& m, index_t row) noexcept {
  return m.data() + row * m.cols();
}

/// out_i = factor · x_i.
inline void scale_into(float* out, float factor, const float* x, index_t n) noexcept {
  for (index_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

inline matrix transposed(const matrix& m) {
  matrix out(m.cols(), m.rows());
  const std::vector<float> ones(static_cast<std::size_t>(m.cols()), 1.0F);
  simd::transpose_scaled(m.data(), m.cols(), ones.data(), m.cols(), m.rows(), out.data(), m.rows());
  return out;
}

/// Rows of n numbers, orthonormal: one for each pick.
class picked_basis {
 public:
  picked_basis() = default;
  /// Memory for `capacity` rows of n numbers.
  picked_basis(index_t capacity, index_t n) { allocate_buffers(*this, capacity, n); }

  void declare(workspace& space, index_t capacity, index_t n) { space.add(rows_, capacity, n); }

  /// Appends `scale` times `column`, which is of length 1 and orthogonal to the rows before it.
  void append(const float* column, float scale) {
    scale_into(row_of(rows_, size_), scale, column, rows_.cols());
    ++size_;
  }
  /// The row appended last.
  [[nodiscard]] const float* last() const noexcept { return row_of(rows_, size_ - 1); }

  [[nodiscard]] index_t size() const noexcept { return size_; }
  /// Copies of `count` rows from number `first` on.
  [[nodiscard]] matrix rows(index_t first, index_t count) const {
    matrix out(count, rows_.cols());
    std::copy_n(row_of(rows_, first), out.size(), out.data());
    return out;
  }

  /// Takes from the rows of `added` (m × n) what the basis explains of them; twice, for
  /// orthogonality to rounding. Cost 4 · m · n · size multiply-adds.
  void project_out(matrix& added, const executor_ref& threads) const {
    const index_t n = added.cols();
    const index_t many = added.rows();
    if (size_ == 0 || many == 0) return;
    matrix along(size_, many);
    for (int pass = 0; pass < 2; ++pass) {
      const matrix across = transposed(added);
      over_pieces(threads, size_, 64, [&](index_t first, index_t count) noexcept {
        simd::multiply({row_of(rows_, first), n, 1}, {across.data(), many},
                       {row_of(along, first), many}, count, many, n);
      });
      over_pieces(threads, n, 192, [&](index_t first, index_t count) noexcept {
        simd::multiply({along.data(), 1, many}, {rows_.data() + first, n},
                       {added.data() + first, n}, many, count, size_, simd::product_mode::subtract);
      });
    }
  }

 private:
  matrix rows_;
  index_t size_ = 0;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
