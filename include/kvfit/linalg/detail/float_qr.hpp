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

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// [X; √λ I], or Xᵀ where X is wide and λ = 0, as Q R in fp32. Columns are first brought to entries
/// of about 1 by powers of two, which changes no digit.
class float_qr {
 public:
  /// What one holds for X n × t while it solves for d right-hand sides, the answer in fp32
  /// included.
  static void declare(workspace& space, index_t n, index_t t, index_t d, bool may_have_ridge) {
    const index_t rows = (std::max)(n, t) + (may_have_ridge ? t : 0);
    const index_t cols = may_have_ridge ? t : (std::min)(n, t);
    strip_qr().declare(space, rows, cols);
    space.count(double_bytes(8, cols));  // lengths, and what estimates of conditions take
    space.count(float_bytes(rows, d));
    declare_triangular(space, cols, d);
  }

  /// Solves share right-hand sides among `threads`, too.
  float_qr(const const_matrix_ref& x, double lambda, const executor_ref& threads = {})
      : is_wide_(!(lambda > 0) && x.rows() < x.cols()),
        equations_(x.rows()),
        length_(is_wide_ ? x.rows() : x.cols()),
        qr_(is_wide_ ? x.cols() : x.rows() + (lambda > 0 ? x.cols() : 0), length_.size()),
        threads_(threads) {
    const auto root = static_cast<float>(std::sqrt(lambda));
    const index_t stride = x.outerStride();
    kvfit::vector largest(length_.size());
    std::fill_n(largest.data(), length_.size(), root);
    kvfit::vector inverse(length_.size());
    const auto row = [&](index_t i, index_t first, index_t width, float* to) noexcept {
      if (is_wide_) {
        for (index_t j = 0; j < width; ++j) {
          to[j] = x.data()[(first + j) * stride + i] * inverse[first + j];
        }
      } else if (i < equations_) {
        multiply_each(x.data() + i * stride + first, inverse.data() + first, width, to);
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
              for (index_t i = 0; i < qr_.rows(); ++i) {
                largest[j] = (std::max)(largest[j], std::abs(x.data()[j * stride + i]));
              }
            }
          } else {
            for (index_t i = 0; i < equations_; ++i) {
              keep_largest(x.data() + i * stride + first, width, largest.data() + first);
            }
          }
          for (index_t j = first; j < first + width; ++j) {
            length_[j] = float_unit(static_cast<double>(largest[j]));
            inverse[j] = static_cast<float>(1 / length_[j]);
          }
          for (index_t i = 0; i < qr_.rows(); ++i, to += strip_width) row(i, first, width, to);
        },
        threads);
  }

  [[nodiscard]] double condition() const { return triangular_condition(qr_.r(), length_); }

  /// σ_max(X), as precise as fp32 is and from below. Cost some 40·t² flops.
  [[nodiscard]] double norm() const {
    struct relative_square {
      const float_qr& qr;
      double unit;
      kvfit::vector given;
      kvfit::vector image;
      kvfit::vector back;

      void operator()(const double* u, double* out) {
        const index_t size = given.size();
        for (index_t j = 0; j < size; ++j) {
          given[j] = static_cast<float>(u[j] * (qr.length_[j] / unit));
        }
        multiply_square(qr.qr_.r().data(), size, size, given.data(), back.data(), image.data());
        for (index_t j = 0; j < size; ++j) {
          out[j] = static_cast<double>(back[j]) * (qr.length_[j] / unit);
        }
      }
    };
    const index_t size = length_.size();
    const double unit = simd::largest_size(length_.data(), size);
    relative_square square{*this, unit, kvfit::vector(size), kvfit::vector(size),
                           kvfit::vector(size)};
    return power_iterate(size, {.rounds = 100, .tolerance = 1e-8, .from_ones = true}, square)
               .sigma *
           unit;
  }

  /// min ‖X C − B‖² + λ‖C‖² (tall) or the smallest C with X C = B (wide), B of floats or doubles by
  /// rows. Not finite where R is singular.
  template <class Rhs>
  [[nodiscard]] double_matrix solve(const Rhs& b) const {
    const index_t size = length_.size();
    const index_t rows = qr_.rows();
    const index_t d = b.cols();
    const float* r = qr_.r().data();
    // Row i of B over what its entries are measured in.
    const auto unit_of = [&](index_t i) { return is_wide_ ? length_[i] : 1.0; };
    double largest = 0;
    for (index_t i = 0; i < equations_; ++i) {
      double longest = 0;
      const auto* row = b.data() + i * b.outerStride();
      for (index_t j = 0; j < d; ++j) longest = (std::max)(longest, std::abs(double{row[j]}));
      largest = (std::max)(largest, longest / unit_of(i));
    }
    const double scale = power_of_two(largest);
    kvfit::matrix x(rows, d);
    over_rows(threads_, rows, d, [&](index_t first, index_t count) noexcept {
      for (index_t i = first; i < first + count; ++i) {
        float* to = x.data() + i * d;
        if (i >= equations_) {
          std::fill_n(to, d, 0.0F);
          continue;
        }
        const auto* row = b.data() + i * b.outerStride();
        const double factor = 1 / (unit_of(i) * scale);
        for (index_t j = 0; j < d; ++j) to[j] = static_cast<float>(double{row[j]} * factor);
      }
    });
    if (is_wide_) solve_transposed(r, size, size, x.data(), d, d, threads_);
    const executor_ref threads = threads_.for_work(
        2.0 * static_cast<double>(rows) * static_cast<double>(size) * static_cast<double>(d));
    // In groups of columns, each of which meets all reflections.
    over_pieces(threads, d, columns_at_once(d, threads), [&](index_t at, index_t count) noexcept {
      if (is_wide_) {
        qr_.apply(x.data() + at, d, count);
      } else {
        qr_.apply_transposed(x.data() + at, d, count);
      }
    });
    if (!is_wide_) solve_upper(r, size, size, x.data(), d, d, threads_);
    double_matrix out(is_wide_ ? rows : size, d);
    for (index_t i = 0; i < out.rows(); ++i) {
      widen(x.data() + i * d, is_wide_ ? scale : scale / length_[i], d, out.data() + i * d);
    }
    return out;
  }

 private:
  bool is_wide_;
  index_t equations_;
  Eigen::VectorXd length_;
  strip_qr qr_;
  executor_ref threads_;
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
