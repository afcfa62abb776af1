// SPDX-License-Identifier: MIT
/// What the least-squares solvers hold, stage by stage.
#pragma once

#include <algorithm>

#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/gram.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// For X n × t and Y n × d.
struct least_squares_sizes {
  index_t n;
  index_t t;
  index_t d;

  /// Equations of the smaller side.
  [[nodiscard]] constexpr index_t small() const noexcept { return (std::min)(n, t); }

  /// What `solve_toward` holds beside a solver: fp32 answer, right-hand side, C₀ and the solution.
  void declare(workspace& space) const {
    space.count(float_bytes(t, d) + double_bytes(n, d) + double_bytes(2, t, d));
    space.count(double_bytes(8, t));
    const workspace::phase ridge(space);
    space.count(double_bytes(64, t));
  }

  /// A Gram matrix, its factor and the solve.
  void declare_gram_solve(workspace& space) const {
    const workspace::phase solving(space);
    const index_t m = small();
    {
      const workspace::phase forming(space);
      gram_buffers().declare(space, n < t ? t : n, m);
    }
    space.count(double_bytes(m, m) + right() + double_bytes(8, m));
    {
      const workspace::phase products(space);  // XᵀB, or Xᵀ Z
      moment_buffers().declare(space, n, t, d);
      space.count(double_bytes(t, d));
    }
    shifted_factor<double>().declare(space, m);
    declare_triangular(space, m, (std::max)(m, d));
    space.count(double_bytes(4, m, d));
  }

  /// A Gram matrix, its copy and its eigenvectors.
  void declare_eigenvectors(workspace& space) const {
    const workspace::phase solving(space);
    const index_t m = small();
    space.count(double_bytes(3, m, m) + right() + double_bytes(2, m, d) + double_bytes(8, m));
  }

 private:
  [[nodiscard]] double right() const noexcept { return double_bytes(n < t ? n : t, d); }
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
