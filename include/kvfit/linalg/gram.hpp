// SPDX-License-Identifier: MIT
/// Inner products of a tall matrix's columns, or of its rows, in double.
///
/// `threads` share blocks of the answer: same bytes, whoever they are.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "kvfit/linalg/detail/solver_bytes.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/linalg/matrix_ref.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

/// Everything ½‖D(M w − y)‖² depends on: with D = diag(scale),
/// ½‖D(M w − y)‖² = ½ wᵀ gram w − momentᵀ w + ½ target_sq.
struct normal_equations {
  Eigen::MatrixXd gram;    ///< MᵀD²M, t × t, both triangles
  Eigen::VectorXd moment;  ///< MᵀD²y, t
  double target_sq = 0;    ///< yᵀD²y
};

namespace detail {

/// Copies the lower triangle onto the upper one, block by block.
template <class = void>
inline void mirror_lower(Eigen::MatrixXd& square) {
  constexpr Eigen::Index block = 32;
  const Eigen::Index t = square.cols();
  for (Eigen::Index left = 0; left < t; left += block) {
    for (Eigen::Index top = left; top < t; top += block) {
      for (Eigen::Index j = left; j < std::min(left + block, t); ++j) {
        for (Eigen::Index i = std::max(top, j + 1); i < std::min(top + block, t); ++i) {
          square(j, i) = square(i, j);
        }
      }
    }
  }
}

/// The factor of row i.
template <class = void>
inline double factor_of(row_scale scale, Eigen::Index i) {
  return scale.empty() ? 1.0 : scale[static_cast<std::size_t>(i)];
}

/// Calls `use(rows, first, count)` for D M in double, up to 512 rows at a time as strips.
template <class Use>
void for_row_strips(const const_matrix_ref& m, row_scale scale, const executor_ref& threads,
                    Use use) {
  const index_t n = m.rows();
  strips<double> rows(std::min(n, strip_rows), m.cols());
  for (index_t first = 0; first < n; first += strip_rows) {
    const index_t count = std::min(strip_rows, n - first);
    rows.fill(
        count,
        [&](index_t i, index_t column, index_t width, double* to) {
          load_scaled(m.data() + (first + i) * m.outerStride() + column,
                      factor_of(scale, first + i), width, to);
        },
        threads);
    use(std::as_const(rows), first, count);
  }
}

/// Operations of a Gram matrix.
constexpr double gram_work(index_t rows, index_t cols) noexcept {
  return static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(cols);
}

/// The lower triangle of G = MᵀM (above it stands anything) for M = `load`'s `rows` × `cols`
/// floats, products in fp32: each sum runs over 128 rows in fp32 and goes on in double, so that
/// entries are good to some 1e-7·√(g_ii g_jj). `first_column(i)`: the columns before it are 0 from
/// row i on. A register holds twice as many floats as doubles, so this is the faster; allocates 512
/// × t floats and the answer.
template <class Load, class FirstColumn>
void float_gram_into(index_t rows, index_t cols, Load load, FirstColumn first_column,
                     Eigen::MatrixXd& out, const executor_ref& executor = {}) {
  out.resize(cols, cols);
  if (rows == 0) out.setZero();
  if (rows == 0 || cols == 0) return;
  const executor_ref threads = executor.for_work(gram_work(std::min(rows, strip_rows), cols));
  strips<float> block(std::min(rows, strip_rows), cols);
  for (index_t top = 0; top < rows; top += strip_rows) {
    const index_t count = std::min(strip_rows, rows - top);
    const index_t begin = first_column(top) / strip_width * strip_width;
    block.fill(
        count,
        [&](index_t i, index_t column, index_t width, float* to) {
          load(top + i, column, width, to);
        },
        threads);
    over_blocks(threads, cols, cols, part::upper, [&](index_t i, index_t j) noexcept {
      const index_t high = block.width(i);
      const index_t wide = block.width(j);
      for (index_t a = 0; top == 0 && a < high; ++a) {
        std::fill_n(out.data() + (i + a) * cols + j, wide, 0.0);
      }
      if (i < begin) return;
      std::array<float, strip_width * strip_width> sums;
      for (index_t k = 0; k < count; k += strip_depth) {
        simd::multiply({block.strip(i) + k * strip_width, 1, strip_width},
                       {block.strip(j) + k * strip_width, strip_width}, {sums.data(), strip_width},
                       high, wide, std::min(strip_depth, count - k));
        for (index_t a = 0; a < high; ++a) {
          add_widened(sums.data() + a * strip_width, wide, out.data() + (i + a) * cols + j);
        }
      }
    });
  }
}

}  // namespace detail

/// Writes G = MᵀD²M, the inner products between columns.
///
/// `m` n × t fp32; `scale` empty or n factors; `out` is resized to t × t, both triangles filled.
/// Products are exact in double; sums run over rows in ascending order.
/// Cost n·t² flops; allocates min(n, 512) × t doubles, and `out` where its size changes.
template <class = void>
inline void gram_into(const const_matrix_ref& m, Eigen::MatrixXd& out, row_scale scale = {},
                      const executor_ref& executor = {}) {
  assert(scale.empty() || static_cast<Eigen::Index>(scale.size()) == m.rows());
  out.setZero(m.cols(), m.cols());
  if (m.size() == 0) return;
  const executor_ref threads = executor.for_work(
      detail::gram_work(std::min(index_t{m.rows()}, detail::strip_rows), m.cols()));
  detail::for_row_strips(m, scale, threads, [&](const auto& rows, index_t, index_t count) {
    // The upper triangle by rows is the lower one by columns.
    detail::multiply_strips<double>(rows, rows, count, {out.data(), out.rows()},
                                    simd::product_mode::add, detail::part::upper, threads);
  });
  detail::mirror_lower(out);
}

/// G = MᵀD²M as a new t × t matrix; see `gram_into`.
template <class = void>
[[nodiscard]] inline Eigen::MatrixXd gram(const const_matrix_ref& m, row_scale scale = {},
                                          const executor_ref& threads = {}) {
  Eigen::MatrixXd out;
  gram_into(m, out, scale, threads);
  return out;
}

/// Bytes that `gram` of n × t holds at most, the answer included.
constexpr double gram_bytes(index_t n, index_t t) noexcept {
  return double_bytes(t, t) + detail::strips_bytes(n, t);
}

/// Bytes that `moment` of n × t by n × d holds at most, the answer included.
constexpr double moment_bytes(index_t n, index_t t, index_t d) noexcept {
  return double_bytes(t, d) + detail::strips_bytes(n, t) +
         double_bytes(std::min(n, detail::strip_rows), d);
}

/// Bytes that `form_normal_equations` of n × t holds at most, the answer included.
constexpr double normal_equations_bytes(index_t n, index_t t) noexcept {
  return double_bytes(t, t) + moment_bytes(n, t, 1);
}

/// Writes K = M Mᵀ, the inner products between rows: the small side when n < t.
///
/// `m` n × t fp32; `out` is resized to n × n, both triangles filled. Cost n²·t flops; allocates
/// n × min(t, 512) doubles.
template <class = void>
inline void row_gram_into(const const_matrix_ref& m, Eigen::MatrixXd& out,
                          const executor_ref& executor = {}) {
  const index_t t = m.cols();
  const executor_ref threads =
      executor.for_work(detail::gram_work(std::min(t, detail::strip_rows), m.rows()));
  out.setZero(m.rows(), m.rows());
  if (m.size() == 0) return;
  detail::strips<double> columns(std::min(t, detail::strip_rows), m.rows());
  for (index_t first = 0; first < t; first += detail::strip_rows) {
    const index_t count = std::min(detail::strip_rows, t - first);
    columns.fill(
        count,
        [&](index_t j, index_t row, index_t width, double* to) {
          for (index_t i = 0; i < width; ++i) to[i] = static_cast<double>(m(row + i, first + j));
        },
        threads);
    detail::multiply_strips<double>(columns, columns, count, {out.data(), out.rows()},
                                    simd::product_mode::add, detail::part::upper, threads);
  }
  detail::mirror_lower(out);
}

/// K = M Mᵀ as a new n × n matrix; see `row_gram_into`.
template <class = void>
[[nodiscard]] inline Eigen::MatrixXd row_gram(const const_matrix_ref& m,
                                              const executor_ref& threads = {}) {
  Eigen::MatrixXd out;
  row_gram_into(m, out, threads);
  return out;
}

/// MᵀD²Y in double: t × d for an n × d right-hand side (fp32 or double, a vector or a matrix).
///
/// Cost 2·n·t·d flops; allocates min(n, 512) × (t + d) doubles and the answer.
template <class Rhs>
[[nodiscard]] Eigen::Matrix<double, Eigen::Dynamic, Rhs::ColsAtCompileTime> moment(
    const const_matrix_ref& m, const Eigen::MatrixBase<Rhs>& y, row_scale scale = {},
    const executor_ref& executor = {}) {
  assert(y.rows() == m.rows());
  using column_block = Eigen::Matrix<double, Eigen::Dynamic, Rhs::ColsAtCompileTime>;
  const index_t d = y.cols();
  // Yᵀ M by rows is MᵀY by columns.
  column_block out = column_block::Zero(m.cols(), d);
  if (m.size() == 0 || d == 0) return out;
  const index_t most = std::min(index_t{m.rows()}, detail::strip_rows);
  const executor_ref threads = executor.for_work(
      2.0 * static_cast<double>(most) * static_cast<double>(m.cols()) * static_cast<double>(d));
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> right(most, d);
  detail::for_row_strips(m, scale, threads, [&](const auto& rows, index_t first, index_t count) {
    for (index_t i = 0; i < count; ++i) {
      right.row(i) = y.row(first + i).template cast<double>();
      if (!scale.empty()) right.row(i) *= detail::factor_of(scale, first + i);
    }
    over_pieces(threads, rows.cols(), detail::strip_width, [&](index_t j, index_t wide) noexcept {
      for (index_t k = 0; k < count; k += detail::strip_depth) {
        simd::multiply({right.data() + k * d, 1, d},
                       {rows.strip(j) + k * detail::strip_width, detail::strip_width},
                       {out.data() + j, out.rows()}, d, wide,
                       std::min(detail::strip_depth, count - k), simd::product_mode::add);
      }
    });
  });
  return out;
}

/// G, Mᵀy and yᵀy of ½‖D(M w − y)‖², for the solvers that never look at M again.
///
/// `m` n × t fp32; `y` n, fp32 or double; `scale` empty or n factors. Cost n·t² + 2·n·t flops;
/// allocates the t × t answer and min(n, 512) × t doubles.
template <class Rhs>
[[nodiscard]] normal_equations form_normal_equations(const const_matrix_ref& m,
                                                     const Eigen::MatrixBase<Rhs>& y,
                                                     row_scale scale = {},
                                                     const executor_ref& threads = {}) {
  static_assert(Rhs::ColsAtCompileTime == 1, "y is one column");
  normal_equations out;
  gram_into(m, out.gram, scale, threads);
  out.moment = moment(m, y, scale, threads);
  for (Eigen::Index i = 0; i < y.rows(); ++i) {
    const double s = scale.empty() ? 1.0 : scale[static_cast<std::size_t>(i)];
    const double value = s * static_cast<double>(y.derived().coeff(i));
    out.target_sq += value * value;
  }
  return out;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
