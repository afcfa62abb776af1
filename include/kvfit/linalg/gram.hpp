// SPDX-License-Identifier: MIT
/// Inner products of a tall matrix's columns, or of its rows, in double.
///
/// `threads` share blocks of the answer: same bytes, whoever they are.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <span>
#include <utility>

#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/linalg/matrix_ref.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// Everything ½‖D(M w − y)‖² depends on: with D = diag(scale),
/// ½‖D(M w − y)‖² = ½ wᵀ gram w − momentᵀ w + ½ target_sq.
struct normal_equations {
  Eigen::MatrixXd gram;    ///< MᵀD²M, t × t, both triangles
  Eigen::VectorXd moment;  ///< MᵀD²y, t
  double target_sq = 0;    ///< yᵀD²y
};

namespace detail {

/// Inner products, and the rows they are made of as strips.
struct gram_buffers {
  Eigen::MatrixXd gram;
  strips<double> rows;

  /// Of the t columns of n × t numbers.
  void declare(workspace& space, index_t n, index_t t) {
    space.add(gram, t, t);
    rows.declare(space, (std::min)(n, strip_rows), t);
  }
};

/// The same of MᵀY, M n × t, Y n × d.
struct moment_buffers {
  double_matrix moment;
  strips<double> rows;

  void declare(workspace& space, index_t n, index_t t, index_t d) {
    space.add(moment, t, d);
    rows.declare(space, (std::min)(n, strip_rows), t);
  }
};

/// Copies the lower triangle onto the upper one, block by block.
inline void mirror_lower(Eigen::MatrixXd& square) noexcept {
  constexpr index_t block = 32;
  const index_t t = square.cols();
  double* numbers = square.data();
  for (index_t left = 0; left < t; left += block) {
    for (index_t top = left; top < t; top += block) {
      for (index_t j = left; j < (std::min)(left + block, t); ++j) {
        for (index_t i = (std::max)(top, j + 1); i < (std::min)(top + block, t); ++i) {
          numbers[i * t + j] = numbers[j * t + i];
        }
      }
    }
  }
}

/// The factor of row i.
inline double factor_of(row_scale scale, index_t i) noexcept {
  return scale.empty() ? 1.0 : scale[static_cast<std::size_t>(i)];
}

/// Takes rows [first, first + count) of D M into strips.
inline void fill_rows(const const_matrix_ref& m, row_scale scale, index_t first, index_t count,
                      const executor_ref& threads, strips<double>& rows) {
  const float* from = m.data() + first * m.outerStride();
  const index_t stride = m.outerStride();
  rows.fill(
      count,
      [=](index_t i, index_t column, index_t width, double* to) {
        load_scaled(from + i * stride + column, factor_of(scale, first + i), width, to);
      },
      threads);
}

/// Operations of a Gram matrix.
constexpr double gram_work(index_t rows, index_t cols) noexcept {
  return static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(cols);
}

/// The lower triangle of G = s² MᵀM (above it stands anything), products in fp32: each sum runs
/// over 128 rows in fp32 and goes on in double, so that entries are good to some 1e-7·√(g_ii g_jj).
/// `s` a power of two. A register holds twice as many floats as doubles, so this is the faster;
/// allocates 512 × t floats and the answer.
inline void float_gram_into(const const_matrix_ref& m, float s, Eigen::MatrixXd& out,
                            const executor_ref& executor = {}) {
  const index_t rows = m.rows();
  const index_t cols = m.cols();
  out.resize(cols, cols);
  if (cols == 0) return;
  if (rows == 0) out.setZero();
  const executor_ref threads = executor.for_work(gram_work((std::min)(rows, strip_rows), cols));
  strips<float> block((std::min)(rows, strip_rows), cols);
  for (index_t top = 0; top < rows; top += strip_rows) {
    const index_t count = (std::min)(strip_rows, rows - top);
    block.fill(
        count,
        [&](index_t i, index_t column, index_t width, float* to) {
          load_scaled(m.data() + (top + i) * m.outerStride() + column, s, width, to);
        },
        threads);
    over_blocks(threads, cols, cols, part::upper, [&](index_t i, index_t j) noexcept {
      const index_t high = block.width(i);
      const index_t wide = block.width(j);
      for (index_t a = 0; top == 0 && a < high; ++a) {
        std::fill_n(out.data() + (i + a) * cols + j, wide, 0.0);
      }
      std::array<float, strip_width * strip_width> sums;
      for (index_t k = 0; k < count; k += strip_depth) {
        simd::multiply({block.strip(i) + k * strip_width, 1, strip_width},
                       {block.strip(j) + k * strip_width, strip_width}, {sums.data(), strip_width},
                       high, wide, (std::min)(strip_depth, count - k));
        for (index_t a = 0; a < high; ++a) {
          add_widened(sums.data() + a * strip_width, wide, out.data() + (i + a) * cols + j);
        }
      }
    });
  }
}

}  // namespace detail

/// G = MᵀD²M, the inner products between columns, t × t, both triangles filled.
///
/// `m` n × t fp32; `scale` empty or n factors. Products are exact in double; sums run over rows in
/// ascending order. Cost n·t² flops; allocates min(n, 512) × t doubles and the answer.
[[nodiscard]] inline Eigen::MatrixXd gram(const const_matrix_ref& m, row_scale scale = {},
                                          const executor_ref& executor = {}) {
  const index_t n = m.rows();
  const index_t t = m.cols();
  assert(scale.empty() || static_cast<index_t>(scale.size()) == n);
  detail::gram_buffers own;
  allocate_buffers(own, n, t);
  Eigen::MatrixXd& out = own.gram;
  out.setZero();
  if (n == 0 || t == 0) return std::move(out);
  const index_t most = (std::min)(n, detail::strip_rows);
  const executor_ref threads = executor.for_work(detail::gram_work(most, t));
  detail::strips<double>& rows = own.rows;
  for (index_t first = 0; first < n; first += most) {
    const index_t count = (std::min)(most, n - first);
    detail::fill_rows(m, scale, first, count, threads, rows);
    // The upper triangle by rows is the lower one by columns.
    detail::multiply_strips<double>(rows, rows, count, {out.data(), t}, simd::product_mode::add,
                                    detail::part::upper, threads);
  }
  detail::mirror_lower(out);
  return std::move(out);
}

/// K = M Mᵀ, the inner products between rows, n × n, both triangles filled: the small side when
/// n < t.
///
/// `m` n × t fp32. Cost n²·t flops; allocates n × min(t, 512) doubles and the answer.
[[nodiscard]] inline Eigen::MatrixXd row_gram(const const_matrix_ref& m,
                                              const executor_ref& executor = {}) {
  const index_t n = m.rows();
  const index_t t = m.cols();
  const index_t stride = m.outerStride();
  detail::gram_buffers own;
  allocate_buffers(own, t, n);
  Eigen::MatrixXd& out = own.gram;
  out.setZero();
  if (n == 0 || t == 0) return std::move(out);
  const index_t most = (std::min)(t, detail::strip_rows);
  const executor_ref threads = executor.for_work(detail::gram_work(most, n));
  detail::strips<double>& columns = own.rows;
  for (index_t first = 0; first < t; first += most) {
    const index_t count = (std::min)(most, t - first);
    const float* from = m.data() + first;
    columns.fill(
        count,
        [=](index_t j, index_t row, index_t width, double* to) {
          for (index_t i = 0; i < width; ++i) {
            to[i] = static_cast<double>(from[(row + i) * stride + j]);
          }
        },
        threads);
    detail::multiply_strips<double>(columns, columns, count, {out.data(), n},
                                    simd::product_mode::add, detail::part::upper, threads);
  }
  detail::mirror_lower(out);
  return std::move(out);
}

/// MᵀY in double, t × d, for Y n × d.
///
/// Cost 2·n·t·d flops; allocates min(n, 512) × t doubles and the answer.
[[nodiscard]] inline double_matrix moment(const const_matrix_ref& m, const double_matrix& y,
                                          const executor_ref& executor = {}) {
  assert(y.rows() == m.rows());
  const index_t n = m.rows();
  const index_t t = m.cols();
  const index_t d = y.cols();
  detail::moment_buffers own;
  allocate_buffers(own, n, t, d);
  double_matrix& out = own.moment;
  out.setZero();
  if (n == 0 || t == 0 || d == 0) return std::move(out);
  const index_t most = (std::min)(n, detail::strip_rows);
  const executor_ref threads = executor.for_work(2.0 * static_cast<double>(most) *
                                                 static_cast<double>(t) * static_cast<double>(d));
  detail::strips<double>& rows = own.rows;
  for (index_t first = 0; first < n; first += most) {
    const index_t count = (std::min)(most, n - first);
    detail::fill_rows(m, {}, first, count, threads, rows);
    over_pieces(threads, t, detail::strip_width, [&](index_t j, index_t wide) noexcept {
      for (index_t k = 0; k < count; k += detail::strip_depth) {
        simd::multiply({rows.strip(j) + k * detail::strip_width, 1, detail::strip_width},
                       {y.data() + (first + k) * d, d}, {out.data() + j * d, d}, wide, d,
                       (std::min)(detail::strip_depth, count - k), simd::product_mode::add);
      }
    });
  }
  return std::move(out);
}

/// Mᵀy in double for a y of n numbers. Cost 2·n·t flops; allocates the answer.
[[nodiscard]] inline Eigen::VectorXd moment(const const_matrix_ref& m, const double* y,
                                            const executor_ref& executor = {}) {
  const index_t n = m.rows();
  const index_t t = m.cols();
  constexpr index_t piece = 512;
  const executor_ref threads =
      executor.for_work(2.0 * static_cast<double>(n) * static_cast<double>(t));
  Eigen::VectorXd out;
  out.setZero(t);
  over_pieces(threads, t, piece, [&](index_t first, index_t count) noexcept {
    detail::add_rows(m.data() + first, m.outerStride(), n, count, y, out.data() + first);
  });
  return out;
}

/// MᵀD²y and yᵀD²y, without G. Cost 2·n·t flops.
[[nodiscard]] inline normal_equations target_of(const const_matrix_ref& m, const kvfit::vector& y,
                                                row_scale scale = {},
                                                const executor_ref& threads = {}) {
  assert(y.size() == m.rows());
  normal_equations out;
  Eigen::VectorXd squared(y.size());  // D² y
  for (index_t i = 0; i < y.size(); ++i) {
    const double s = detail::factor_of(scale, i);
    const double value = s * static_cast<double>(y[i]);
    out.target_sq += value * value;
    squared[i] = s * value;
  }
  out.moment = moment(m, squared.data(), threads);
  return out;
}

/// G, Mᵀy and yᵀy of ½‖D(M w − y)‖², for the solvers that need M no more.
///
/// `m` n × t fp32; `y` n; `scale` empty or n factors. Cost n·t² + 2·n·t flops; allocates the t × t
/// answer, min(n, 512) × t doubles and n more.
[[nodiscard]] inline normal_equations form_normal_equations(const const_matrix_ref& m,
                                                            const kvfit::vector& y,
                                                            row_scale scale = {},
                                                            const executor_ref& threads = {}) {
  normal_equations out = target_of(m, y, scale, threads);
  out.gram = gram(m, scale, threads);
  return out;
}

/// Brings G = MᵀD²M (t × t, row-major) up to date where the columns `changed` of M did change:
/// their rows and columns of G, as `gram` makes them but for rounding. Cost 2·n·t·|changed| flops;
/// allocates min(n, 512) × t + (n + t) × |changed| doubles.
inline void update_gram(const const_matrix_ref& m, row_scale scale,
                        std::span<const index_t> changed, double* gram,
                        const executor_ref& threads = {}) {
  const index_t n = m.rows();
  const index_t t = m.cols();
  const auto many = static_cast<index_t>(changed.size());
  double_matrix scaled(n, many);  // D² of the columns changed
  for (index_t i = 0; i < n; ++i) {
    const double factor = detail::factor_of(scale, i);
    for (index_t c = 0; c < many; ++c) {
      const float x = m.data()[i * m.outerStride() + changed[static_cast<std::size_t>(c)]];
      scaled.data()[i * many + c] = factor * factor * static_cast<double>(x);
    }
  }
  const double_matrix products = moment(m, scaled, threads);
  for (index_t c = 0; c < many; ++c) {
    const index_t column = changed[static_cast<std::size_t>(c)];
    for (index_t j = 0; j < t; ++j) {
      const double product = products.data()[j * many + c];
      gram[j * t + column] = product;
      gram[column * t + j] = product;
    }
  }
}

/// What `update_gram` holds for `many` columns changed.
inline void declare_update(workspace& space, index_t n, index_t t, index_t many) {
  const workspace::phase updating(space);
  detail::moment_buffers().declare(space, n, t, many);
  space.count(double_bytes(n, many));
}

/// What `form_normal_equations` of n × t holds, the answer included.
inline void declare_normal_equations(workspace& space, index_t n, index_t t) {
  detail::gram_buffers().declare(space, n, t);
  space.count(double_bytes(n) + double_bytes(t));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
