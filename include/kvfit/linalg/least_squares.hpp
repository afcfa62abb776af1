// SPDX-License-Identifier: MIT
/// Linear least squares with many right-hand sides.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <utility>

#include "kvfit/linalg/detail/least_squares_buffers.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/least_squares_truncated.hpp"
#include "kvfit/linalg/detail/solve_toward.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

namespace detail {

/// min ‖X C − B‖² + λ‖C‖², as exact as double arithmetic on the fp32 data: a
/// `least_squares_solver`.
///
/// A condition number κ up to 1/tolerance (some 2e5) leaves the Gram matrix in double exact enough:
/// its rounding is worth ε₆₄·κ² < 1e-5 in C in the worst case, and ε₆₄·κ in X C. Beyond that κ
/// `solve_dependent` answers.
inline double_matrix solve_ranked(const const_matrix_ref& x, const const_matrix_ref& y,
                                  const double_matrix* start, double lambda, double tolerance,
                                  least_squares_report& report, const executor_ref& threads) {
  const gram_system system(x, right_side(x, y, start, threads), threads);
  report.tier =
      x.rows() < x.cols() ? least_squares_tier::cholesky_dual : least_squares_tier::cholesky;
  double_matrix out;
  const bool solved =
      solve_gram<double>(system.gram, lambda, tolerance, system.right, out, report, threads) &&
      report.condition * tolerance <= 1;
  if (!solved) out = solve_dependent(system.gram, lambda, tolerance, system.right, report, threads);
  return gram_system::unreduced(x, std::move(out), threads);
}

inline least_squares_solver solver_of(least_squares_method method) noexcept {
  return method == least_squares_method::cholesky ? solve_by_cholesky : solve_ranked;
}

}  // namespace detail

/// min_C ‖X C − Y‖²_F + λ‖C‖²_F.
///
/// `x` n × t, `y` n × d, fp32; C is t × d and never NaN. `options.method` is one of
///
/// - `ranked`: the exact answer for the fp32 data as far as double goes (Cholesky factor of the
///   Gram matrix in double); where the data leave a choice (n < t, dependent columns) the smallest
///   such C, or for min(n, t) > 256 dependent columns one held small by a ridge. Costs n·t² to
///   2·n·t² flops.
/// - `cholesky`: from 64 columns on in fp32 with sums in double, errors of some 1e-7 times the
///   square of the condition number (columns scaled alike), where that is below 0.1, else (and
///   where n < 2 t, t ≥ 512) in double. Held small by a ridge where the condition number exceeds
///   1/tolerance. Costs n·t² + t³/3 flops, twice where fp32 did not do.
///
/// Allocates at most (n + 512)·t + 2·t² doubles beside n·d ones; the report says who solved, and
/// with what λ. `threads` share factors, products
/// and right-hand sides (not eigenvectors): same bytes.
[[nodiscard]] inline least_squares_fit least_squares(const const_matrix_ref& x,
                                                     const const_matrix_ref& y,
                                                     const least_squares_options& options = {},
                                                     const executor_ref& threads = {}) {
  return detail::solve_toward(x, y, options, nullptr, detail::solver_of(options.method), threads);
}

/// min_C ‖X C − Y‖²_F + λ‖C − C₀‖²_F: the ridge pulls toward `toward` (t × d), and where the data
/// leave a choice C is the nearest to it.
[[nodiscard]] inline least_squares_fit least_squares(const const_matrix_ref& x,
                                                     const const_matrix_ref& y,
                                                     const least_squares_options& options,
                                                     const const_matrix_ref& toward,
                                                     const executor_ref& threads = {}) {
  return detail::solve_toward(x, y, options, &toward, detail::solver_of(options.method), threads);
}

/// What `least_squares` of n × t and n × d holds, its result included. `may_have_ridge`: a λ > 0
/// may be asked for.
inline void declare_least_squares(workspace& space, index_t n, index_t t, index_t d,
                                  least_squares_method method, bool may_have_ridge) {
  const detail::least_squares_sizes sizes{n, t, d};
  sizes.declare(space);
  sizes.declare_gram_solve(space);
  const bool is_ranked = method != least_squares_method::cholesky;
  if (is_ranked && detail::may_truncate(sizes.small(), may_have_ridge)) {
    sizes.declare_eigenvectors(space);
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
