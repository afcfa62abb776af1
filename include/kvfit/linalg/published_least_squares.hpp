// SPDX-License-Identifier: MIT
/// Least squares as published: Householder QR in fp32, full rank assumed.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <utility>

#include "kvfit/linalg/detail/float_qr.hpp"
#include "kvfit/linalg/detail/least_squares_buffers.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/least_squares_truncated.hpp"
#include "kvfit/linalg/detail/solve_toward.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

namespace detail {

/// A `least_squares_solver`; nothing truncated. An exact zero on R's diagonal leaves
/// `solve_dependent` only.
inline double_matrix solve_unpivoted(const const_matrix_ref& x, const const_matrix_ref& y,
                                     const double_matrix* start, double lambda, double tolerance,
                                     least_squares_report& report, const executor_ref& threads) {
  {
    const float_qr qr(x, lambda, threads);
    double_matrix out = start == nullptr ? qr.solve(y) : qr.solve(right_side(x, y, start, threads));
    if (simd::all_finite(out.data(), out.rows() * out.cols())) {
      report.tier = least_squares_tier::qr_unpivoted;
      report.condition = qr.condition();
      report.rank = lambda > 0 ? x.cols() : (std::min)(x.rows(), x.cols());
      return out;
    }
  }
  const gram_system system(x, right_side(x, y, start, threads), threads);
  return gram_system::unreduced(
      x, solve_dependent(system.gram, lambda, tolerance, system.right, report, threads), threads);
}

}  // namespace detail

/// min_C ‖X C − Y‖²_F + λ‖C‖²_F by Householder QR in fp32, with errors of some 1e-7 times the
/// condition number; where R is singular, as `least_squares` does.
///
/// `x` n × t, `y` n × d, fp32; C is t × d and never NaN. `options.method` is not read. Costs
/// 2·n·t² flops (n + t rows with a ridge); allocates (n + t)·t floats beside n·d doubles. `threads`
/// share all of it: same bytes.
[[nodiscard]] inline least_squares_fit published_least_squares(
    const const_matrix_ref& x, const const_matrix_ref& y, const least_squares_options& options = {},
    const executor_ref& threads = {}) {
  return detail::solve_toward(x, y, options, nullptr, detail::solve_unpivoted, threads);
}

/// The same with λ‖C − C₀‖²_F for C₀ = `toward` (t × d).
[[nodiscard]] inline least_squares_fit published_least_squares(const const_matrix_ref& x,
                                                               const const_matrix_ref& y,
                                                               const least_squares_options& options,
                                                               const const_matrix_ref& toward,
                                                               const executor_ref& threads = {}) {
  return detail::solve_toward(x, y, options, &toward, detail::solve_unpivoted, threads);
}

/// What `published_least_squares` of n × t and n × d holds, its result included. `may_have_ridge`:
/// a λ > 0 may be asked for.
inline void declare_published_least_squares(workspace& space, index_t n, index_t t, index_t d,
                                            bool may_have_ridge) {
  const detail::least_squares_sizes sizes{n, t, d};
  sizes.declare(space);
  {
    const workspace::phase solving(space);
    detail::float_qr::declare(space, n, t, d, may_have_ridge);
    space.count(double_bytes(sizes.small(), d) + double_bytes(2, t, d));
  }
  sizes.declare_gram_solve(space);
  if (detail::may_truncate(sizes.small(), may_have_ridge)) sizes.declare_eigenvectors(space);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
