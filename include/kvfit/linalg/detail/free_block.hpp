// SPDX-License-Identifier: MIT
/// The Cholesky factor of the free weights' part of a Gram matrix.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// What a `free_block` of t columns works in.
struct free_block_buffers {
  Eigen::VectorXd inverse_length;
  Eigen::VectorXd right;
  Eigen::MatrixXd factor;
  std::vector<index_t> free;

  void declare(workspace& space, index_t t) {
    space.add_vectors(t, inverse_length, right);
    space.add(factor, t, t);
    space.reserve(free, t);
  }
};

/// Factors S G_FF S + shift·I = L Lᵀ for a set F of columns, S = diag(G)^-½ (a unit diagonal: the
/// best scaling up to √t, van der Sluis 1969), and solves with it. Allocates t × t doubles once.
class free_block {
 public:
  explicit free_block(const Eigen::MatrixXd& gram, const executor_ref& threads = {})
      : gram_(gram), threads_(threads) {
    allocate_buffers(own_, gram.cols());
    for (index_t j = 0; j < gram.cols(); ++j) {
      own_.inverse_length[j] = gram(j, j) > 0 ? 1 / std::sqrt(gram(j, j)) : 0.0;
    }
  }

  /// Whether column j is longer than 0; others must stay out of F.
  [[nodiscard]] bool alive(index_t j) const { return own_.inverse_length[j] > 0; }
  [[nodiscard]] int factorizations() const noexcept { return factorizations_; }

  /// Factors for the columns `wanted`; nothing to do where they and the shift are those of the last
  /// call. False: not positive definite even with this shift.
  bool factor(const std::vector<index_t>& wanted, double shift) {
    if (factored_ && shift == shift_ && wanted == own_.free) return true;
    own_.free = wanted;
    shift_ = shift;
    ++factorizations_;
    const auto size = static_cast<index_t>(own_.free.size());
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
    const auto size = static_cast<index_t>(own_.free.size());
    for (index_t a = 0; a < size; ++a) {
      const index_t j = own_.free[static_cast<std::size_t>(a)];
      own_.right[a] = -gradient[j] * own_.inverse_length[j];
    }
    // The lower triangle by columns is the upper one by rows.
    solve_transposed(own_.factor.data(), own_.factor.rows(), size, own_.right.data());
    solve_upper(own_.factor.data(), own_.factor.rows(), size, own_.right.data());
    for (index_t a = 0; a < size; ++a) {
      const index_t j = own_.free[static_cast<std::size_t>(a)];
      step[j] = own_.right[a] * own_.inverse_length[j];
    }
  }

 private:
  void gather(index_t size, double shift) {
    over_rows(threads_, size, size, [&](index_t first, index_t count) noexcept {
      for (index_t a = first; a < first + count; ++a) {
        const index_t column = own_.free[static_cast<std::size_t>(a)];
        const double scale = own_.inverse_length[column];
        for (index_t b = a; b < size; ++b) {
          const index_t row = own_.free[static_cast<std::size_t>(b)];
          own_.factor(b, a) = gram_(row, column) * scale * own_.inverse_length[row];
        }
        own_.factor(a, a) = 1 + shift;
      }
    });
  }

  bool try_factor(index_t size) {
    if (size == 0) return true;
    // The lower triangle by columns is the upper one by rows.
    return factor_upper(own_.factor.data(), own_.factor.rows(), size, threads_);
  }

  [[nodiscard]] double smallest_pivot_sq(index_t size) const {
    if (size == 0) return 1;
    double pivot = own_.factor(0, 0);
    for (index_t j = 1; j < size; ++j) pivot = (std::min)(pivot, own_.factor(j, j));
    return pivot * pivot;
  }

  const Eigen::MatrixXd& gram_;
  free_block_buffers own_;
  executor_ref threads_;
  double shift_ = 0;
  int factorizations_ = 0;
  bool factored_ = false;
  bool deficient_ = false;
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
