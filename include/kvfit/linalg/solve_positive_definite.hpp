// SPDX-License-Identifier: MIT
/// Matrices in double by rows: products, and symmetric positive definite systems.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/detail/triangular.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

namespace detail {

/// A B for `a` (by its rows, or by its columns where it stands transposed) and the rows of `b`.
inline double_matrix product(const double_matrix& a, bool is_transposed, const double_matrix& b) {
  const index_t rows = is_transposed ? a.cols() : a.rows();
  const index_t depth = is_transposed ? a.rows() : a.cols();
  const index_t stride = a.cols();
  double_matrix out(rows, b.cols());
  simd::multiply({a.data(), is_transposed ? 1 : stride, is_transposed ? stride : 1},
                 {b.data(), b.cols()}, {out.data(), out.cols()}, rows, b.cols(), depth);
  return out;
}

}  // namespace detail

/// Solves A X = B by A = UᵀU (Cholesky): A, t × t, stands in the first columns of the t rows of
/// `system`, B in the `width` columns from `first` ≥ t on. X takes the place of B, U that of A's
/// upper triangle, which alone is read. False where A is not finite or, to rounding, not positive
/// definite; `system` then is of no use any more.
///
/// Cost t³/3 + 2 t² width flops, shared by `threads` (same bytes); allocates up to 256 (t + width)
/// numbers.
[[nodiscard]] inline bool solve_positive_definite(double_matrix& system, index_t first,
                                                  index_t width, const executor_ref& threads = {}) {
  const index_t t = system.rows();
  double* upper = system.data();
  const index_t stride = system.cols();
  if (!detail::factor_upper(upper, stride, t, threads)) return false;
  detail::solve_transposed(upper, stride, t, upper + first, stride, width, threads);
  detail::solve_upper(upper, stride, t, upper + first, stride, width, threads);
  return true;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
