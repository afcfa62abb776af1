// SPDX-License-Identifier: MIT
/// The Cholesky factor of the free weights' part of a Gram matrix.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// Factors S G_FF S + shift·I = L Lᵀ for a set F of columns, S = diag(G)^-½ (a unit diagonal: the
/// best scaling up to √t, van der Sluis 1969), and solves with it. Allocates t × t doubles once.
class free_block {
 public:
  explicit free_block(const Eigen::MatrixXd& gram, const executor_ref& threads = {})
      : gram_(gram),
        inverse_length_(gram.cols()),
        right_(gram.cols()),
        factor_(gram.rows(), gram.cols()),
        threads_(threads) {
    for (index_t j = 0; j < gram.cols(); ++j) {
      inverse_length_[j] = gram(j, j) > 0 ? 1 / std::sqrt(gram(j, j)) : 0.0;
    }
    free_.reserve(static_cast<std::size_t>(gram.cols()));
  }

  /// Whether column j is longer than 0; others must stay out of F.
  [[nodiscard]] bool alive(index_t j) const { return inverse_length_[j] > 0; }
  [[nodiscard]] int factorizations() const noexcept { return factorizations_; }

  /// Factors for the columns `wanted`; nothing to do where they and the shift are those of the last
  /// call. False: not positive definite even with this shift.
  bool factor(const std::vector<index_t>& wanted, double shift) {
    if (factored_ && shift == shift_ && wanted == free_) return true;
    free_ = wanted;
    shift_ = shift;
    ++factorizations_;
    const auto size = static_cast<index_t>(free_.size());
    gather(size, shift);
    factored_ = try_factor(size);
    deficient_ = deficient_ || !factored_ || smallest_pivot_sq(size) < shift + 1e-11;
    return factored_;
  }

  /// Whether any factor met a column that the others of F explain but for 3e-6 of its length.
  [[nodiscard]] bool deficient() const noexcept { return deficient_; }

  /// step_F = −(G_FF + shift·diag(G_FF))⁻¹ gradient_F; the others stay as they are. Cost 2·|F|².
  void newton_step(const Eigen::VectorXd& gradient, Eigen::VectorXd& step) {
    assert(factored_);
    const auto size = static_cast<index_t>(free_.size());
    for (index_t a = 0; a < size; ++a) {
      const index_t j = free_[static_cast<std::size_t>(a)];
      right_[a] = -gradient[j] * inverse_length_[j];
    }
    // The lower triangle by columns is the upper one by rows.
    solve_transposed(factor_.data(), factor_.rows(), size, right_.data());
    solve_upper(factor_.data(), factor_.rows(), size, right_.data());
    for (index_t a = 0; a < size; ++a) {
      const index_t j = free_[static_cast<std::size_t>(a)];
      step[j] = right_[a] * inverse_length_[j];
    }
  }

 private:
  void gather(index_t size, double shift) {
    over_rows(threads_, size, size, [&](index_t first, index_t count) noexcept {
      for (index_t a = first; a < first + count; ++a) {
        const index_t column = free_[static_cast<std::size_t>(a)];
        const double scale = inverse_length_[column];
        for (index_t b = a; b < size; ++b) {
          const index_t row = free_[static_cast<std::size_t>(b)];
          factor_(b, a) = gram_(row, column) * scale * inverse_length_[row];
        }
        factor_(a, a) = 1 + shift;
      }
    });
  }

  bool try_factor(index_t size) {
    if (size == 0) return true;
    // The lower triangle by columns is the upper one by rows.
    return factor_upper(factor_.data(), factor_.rows(), size, threads_);
  }

  [[nodiscard]] double smallest_pivot_sq(index_t size) const {
    if (size == 0) return 1;
    double pivot = factor_(0, 0);
    for (index_t j = 1; j < size; ++j) pivot = std::min(pivot, factor_(j, j));
    return pivot * pivot;
  }

  const Eigen::MatrixXd& gram_;
  Eigen::VectorXd inverse_length_;
  Eigen::VectorXd right_;
  Eigen::MatrixXd factor_;
  std::vector<index_t> free_;
  executor_ref threads_;
  double shift_ = 0;
  int factorizations_ = 0;
  bool factored_ = false;
  bool deficient_ = false;
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
