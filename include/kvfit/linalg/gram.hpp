// SPDX-License-Identifier: MIT
/// Inner products of a tall matrix's columns, or of its rows, in double.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>

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

/// Rows, or columns, turned into double at a time: 256 × t doubles stay near the cache and give
/// the rank update enough depth to run at matrix-product speed.
inline constexpr Eigen::Index gram_block = 256;

/// Copies the lower triangle onto the upper one.
inline void mirror_lower(Eigen::MatrixXd& square) {
  for (Eigen::Index j = 1; j < square.cols(); ++j) {
    for (Eigen::Index i = 0; i < j; ++i) square(i, j) = square(j, i);
  }
}

/// Rows [first, first + count) of D M in double, into `block` (count × t).
template <class Block>
void load_rows(const const_matrix_ref& m, row_scale scale, Eigen::Index first, Block&& block) {
  block = m.middleRows(first, block.rows()).template cast<double>();
  if (scale.empty()) return;
  for (Eigen::Index i = 0; i < block.rows(); ++i) {
    block.row(i) *= scale[static_cast<std::size_t>(first + i)];
  }
}

}  // namespace detail

/// Writes G = MᵀD²M, the inner products between columns.
///
/// `m` n × t fp32; `scale` empty or n factors; `out` is resized to t × t, both triangles filled.
/// Products are exact in double; sums run over rows in ascending order of 256-row blocks.
/// Cost n·t² flops; allocates min(n, 256) × t doubles, and `out` where its size changes.
inline void gram_into(const const_matrix_ref& m, Eigen::MatrixXd& out, row_scale scale = {}) {
  assert(scale.empty() || static_cast<Eigen::Index>(scale.size()) == m.rows());
  const Eigen::Index n = m.rows();
  out.setZero(m.cols(), m.cols());
  if (m.size() == 0) return;
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> block(
      std::min(n, detail::gram_block), m.cols());
  for (Eigen::Index first = 0; first < n; first += detail::gram_block) {
    const Eigen::Index count = std::min(detail::gram_block, n - first);
    auto rows = block.topRows(count);
    detail::load_rows(m, scale, first, rows);
    out.selfadjointView<Eigen::Lower>().rankUpdate(rows.transpose());
  }
  detail::mirror_lower(out);
}

/// G = MᵀD²M as a new t × t matrix; see `gram_into`.
[[nodiscard]] inline Eigen::MatrixXd gram(const const_matrix_ref& m, row_scale scale = {}) {
  Eigen::MatrixXd out;
  gram_into(m, out, scale);
  return out;
}

/// Writes K = M Mᵀ, the inner products between rows: the small side when n < t.
///
/// `m` n × t fp32; `out` is resized to n × n, both triangles filled. Cost n²·t flops; allocates
/// n × min(t, 256) doubles.
inline void row_gram_into(const const_matrix_ref& m, Eigen::MatrixXd& out) {
  const Eigen::Index t = m.cols();
  out.setZero(m.rows(), m.rows());
  if (m.size() == 0) return;
  Eigen::MatrixXd block(m.rows(), std::min(t, detail::gram_block));
  for (Eigen::Index first = 0; first < t; first += detail::gram_block) {
    const Eigen::Index count = std::min(detail::gram_block, t - first);
    auto columns = block.leftCols(count);
    columns = m.middleCols(first, count).cast<double>();
    out.selfadjointView<Eigen::Lower>().rankUpdate(columns);
  }
  detail::mirror_lower(out);
}

/// K = M Mᵀ as a new n × n matrix; see `row_gram_into`.
[[nodiscard]] inline Eigen::MatrixXd row_gram(const const_matrix_ref& m) {
  Eigen::MatrixXd out;
  row_gram_into(m, out);
  return out;
}

/// MᵀD²Y in double: t × d for an n × d right-hand side (fp32 or double, a vector or a matrix).
///
/// Cost 2·n·t·d flops; allocates min(n, 256) × (t + d) doubles and the answer.
template <class Rhs>
[[nodiscard]] Eigen::Matrix<double, Eigen::Dynamic, Rhs::ColsAtCompileTime> moment(
    const const_matrix_ref& m, const Eigen::MatrixBase<Rhs>& y, row_scale scale = {}) {
  assert(y.rows() == m.rows());
  using column_block = Eigen::Matrix<double, Eigen::Dynamic, Rhs::ColsAtCompileTime>;
  const Eigen::Index n = m.rows();
  column_block out = column_block::Zero(m.cols(), y.cols());
  if (m.size() == 0 || y.cols() == 0) return out;
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> block(
      std::min(n, detail::gram_block), m.cols());
  column_block right(std::min(n, detail::gram_block), y.cols());
  for (Eigen::Index first = 0; first < n; first += detail::gram_block) {
    const Eigen::Index count = std::min(detail::gram_block, n - first);
    auto rows = block.topRows(count);
    detail::load_rows(m, scale, first, rows);
    auto targets = right.topRows(count);
    targets = y.middleRows(first, count).template cast<double>();
    if (!scale.empty()) {
      for (Eigen::Index i = 0; i < count; ++i) {
        targets.row(i) *= scale[static_cast<std::size_t>(first + i)];
      }
    }
    out.noalias() += rows.transpose() * targets;
  }
  return out;
}

/// G, Mᵀy and yᵀy of ½‖D(M w − y)‖², for the solvers that never look at M again.
///
/// `m` n × t fp32; `y` n, fp32 or double; `scale` empty or n factors. Cost n·t² + 2·n·t flops;
/// allocates the t × t answer and min(n, 256) × t doubles.
template <class Rhs>
[[nodiscard]] normal_equations form_normal_equations(const const_matrix_ref& m,
                                                     const Eigen::MatrixBase<Rhs>& y,
                                                     row_scale scale = {}) {
  static_assert(Rhs::ColsAtCompileTime == 1, "y is one column");
  normal_equations out;
  gram_into(m, out.gram, scale);
  out.moment = moment(m, y, scale);
  for (Eigen::Index i = 0; i < y.rows(); ++i) {
    const double s = scale.empty() ? 1.0 : scale[static_cast<std::size_t>(i)];
    const double value = s * static_cast<double>(y.derived().coeff(i));
    out.target_sq += value * value;
  }
  return out;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
