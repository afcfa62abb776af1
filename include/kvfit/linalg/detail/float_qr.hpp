// SPDX-License-Identifier: MIT
/// The QR factor of a matrix in fp32, whatever the scale of its columns, and what it solves.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "kvfit/core/config.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/strip_qr.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/triangular_condition.hpp"
#include "kvfit/parallel/executor_ref.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// [X; √λ I], or Xᵀ where X is wide and λ = 0, as Q R in fp32. Columns are first brought to entries
/// of about 1 by powers of two, which changes no digit.
template <class = void>
class float_qr {
 public:
  /// Solves share right-hand sides among `threads`, too.
  float_qr(const const_matrix_ref& x, double lambda, const executor_ref& threads = {})
      : is_wide_(!(lambda > 0) && x.rows() < x.cols()),
        equations_(x.rows()),
        length_(is_wide_ ? x.rows() : x.cols()),
        qr_(is_wide_ ? x.cols() : x.rows() + (lambda > 0 ? x.cols() : 0), length_.size()),
        threads_(threads) {
    const auto root = static_cast<float>(std::sqrt(lambda));
    Eigen::ArrayXf largest = Eigen::ArrayXf::Constant(length_.size(), root);
    Eigen::ArrayXf inverse(length_.size());
    const auto row = [&](index_t i, index_t first, index_t width, float* to) noexcept {
      if (is_wide_) {
        for (index_t j = 0; j < width; ++j) to[j] = x(first + j, i) * inverse[first + j];
      } else if (i < equations_) {
        multiply_each(x.data() + i * x.outerStride() + first, inverse.data() + first, width, to);
      } else {
        for (index_t j = 0; j < width; ++j) {
          to[j] = first + j == i - equations_ ? root * inverse[first + j] : 0.0F;
        }
      }
    };
    qr_.factor(
        [&](index_t first, index_t width, float* to) noexcept {
          if (is_wide_) {
            for (index_t j = first; j < first + width; ++j) {
              largest[j] = x.row(j).cwiseAbs().maxCoeff();
            }
          } else {
            for (index_t i = 0; i < equations_; ++i) {
              keep_largest(x.data() + i * x.outerStride() + first, width, largest.data() + first);
            }
          }
          for (index_t j = first; j < first + width; ++j) {
            length_[j] =
                std::clamp(power_of_two(static_cast<double>(largest[j])), 0x1p-120, 0x1p120);
            inverse[j] = static_cast<float>(1 / length_[j]);
          }
          for (index_t i = 0; i < qr_.rows(); ++i, to += strip_width) row(i, first, width, to);
        },
        threads);
  }

  [[nodiscard]] double condition() const { return triangular_condition(qr_.r(), length_); }

  /// σ_max(X), as precise as fp32 is and from below. Cost some 40·t² flops.
  [[nodiscard]] double norm() const {
    const Eigen::VectorXd relative = length_ / unit();
    const index_t size = length_.size();
    kvfit::vector given(size);
    kvfit::vector image(size);
    kvfit::vector back(size);
    const power_estimate found = power_iterate(
        size, {.rounds = 100, .tolerance = 1e-8, .from_ones = true},
        [&](const Eigen::VectorXd& u, Eigen::VectorXd& out) {
          for (index_t j = 0; j < size; ++j) given[j] = static_cast<float>(u[j] * relative[j]);
          multiply_square(qr_.r().data(), size, size, given.data(), back.data(), image.data());
          for (index_t j = 0; j < size; ++j) out[j] = static_cast<double>(back[j]) * relative[j];
        });
    return found.sigma * unit();
  }

  /// R with every column as long as it was, in units of `unit()`.
  [[nodiscard]] double unit() const { return length_.maxCoeff(); }
  [[nodiscard]] kvfit::matrix triangle() const {
    return qr_.r() * (length_ / unit()).template cast<float>().asDiagonal();
  }

  /// The first t rows of QᵀB (tall), to be used with `triangle()`.
  template <class Rhs>
  [[nodiscard]] double_matrix project(const Eigen::MatrixBase<Rhs>& b) {
    double scale = 1;
    const kvfit::matrix right = projected(b, scale);
    return right.topRows(length_.size()).cast<double>() * scale;
  }

  /// min ‖X C − B‖² + λ‖C‖² (tall) or the smallest C with X C = B (wide). Not finite where R is
  /// singular.
  template <class Rhs>
  [[nodiscard]] double_matrix solve(const Eigen::MatrixBase<Rhs>& b) {
    const index_t size = length_.size();
    const index_t d = b.cols();
    double scale = 1;
    const Eigen::VectorXd inverse = length_.cwiseInverse();
    if (!is_wide_) {
      kvfit::matrix right = projected(b, scale);
      solve_upper(qr_.r().data(), size, size, right.data(), d, d, threads_);
      return inverse.asDiagonal() * (right.topRows(size).cast<double>() * scale);
    }
    const double_matrix scaled = inverse.asDiagonal() * b.template cast<double>();
    scale = power_of_two(scaled.cwiseAbs().maxCoeff());
    kvfit::matrix out = kvfit::matrix::Zero(qr_.rows(), d);
    out.topRows(size) = (scaled / scale).cast<float>();
    solve_transposed(qr_.r().data(), size, size, out.data(), d, d, threads_);
    over_columns(
        d, [&](index_t first, index_t count) noexcept { qr_.apply(out.data() + first, d, count); });
    return out.cast<double>() * scale;
  }

  /// (RᵀR)⁻¹ right, for a tall X.
  [[nodiscard]] double_matrix solve_normal(const double_matrix& right) const {
    const index_t size = length_.size();
    const index_t d = right.cols();
    const Eigen::VectorXd inverse = length_.cwiseInverse();
    const double_matrix scaled = inverse.asDiagonal() * right;
    const double scale = power_of_two(scaled.cwiseAbs().maxCoeff());
    kvfit::matrix x = (scaled / scale).cast<float>();
    solve_transposed(qr_.r().data(), size, size, x.data(), d, d, threads_);
    solve_upper(qr_.r().data(), size, size, x.data(), d, d, threads_);
    return inverse.asDiagonal() * (x.cast<double>() * scale);
  }

  /// ‖diag(column lengths) C‖: what C weighs in X C.
  [[nodiscard]] double weight(const double_matrix& c) const {
    return (length_.asDiagonal() * c).norm();
  }

 private:
  template <class Rhs>
  kvfit::matrix projected(const Eigen::MatrixBase<Rhs>& b, double& scale) {
    scale = power_of_two(static_cast<double>(b.cwiseAbs().maxCoeff()));
    const index_t d = b.cols();
    kvfit::matrix right(qr_.rows(), d);
    over_rows(threads_, qr_.rows(), d, [&](index_t first, index_t count) noexcept {
      const index_t given = std::clamp<index_t>(equations_ - first, 0, count);
      right.middleRows(first, given) =
          (b.middleRows(std::min(first, equations_), given).template cast<double>() / scale)
              .template cast<float>();
      right.middleRows(first + given, count - given).setZero();
    });
    over_columns(d, [&](index_t first, index_t count) noexcept {
      qr_.apply_transposed(right.data() + first, d, count);
    });
    return right;
  }

  /// `body(first, count)` for groups of `cols` columns, each of which meets all reflections.
  template <class Body>
  void over_columns(index_t cols, Body body) const {
    const executor_ref threads =
        threads_.for_work(2.0 * static_cast<double>(qr_.rows()) *
                          static_cast<double>(length_.size()) * static_cast<double>(cols));
    over_pieces(threads, cols, columns_at_once(cols, threads), body);
  }

  bool is_wide_;
  index_t equations_;
  Eigen::VectorXd length_;
  strip_qr qr_;
  executor_ref threads_;
};

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
