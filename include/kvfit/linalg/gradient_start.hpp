// SPDX-License-Identifier: MIT
/// Where projected gradient steps start, and how long they may be.
#pragma once

#include <Eigen/Core>

#include "kvfit/linalg/detail/least_squares_qr.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

/// What `projected_gradient` is given.
struct gradient_start {
  Eigen::VectorXd weights;  ///< argmin ‖M w − y‖, as `qr_unpivoted` finds it
  double sigma = 0;         ///< σ_max(M), from below, to some six digits
};

/// Both from one QR factor of M (n × t), which must not have negative entries; where n < t, or the
/// factor is of no use, by `least_squares` and power iteration. Cost 2·n·t² flops, which `threads`
/// share: same bytes.
template <class = void>
[[nodiscard]] inline gradient_start find_gradient_start(const const_matrix_ref& m,
                                                        const kvfit::vector& y,
                                                        const loop& threads = {}) {
  if (m.rows() >= m.cols() && m.cols() > 0 && y.allFinite() &&
      detail::all_finite(m.data(), m.outerStride(), m.rows(), m.cols(), threads)) {
    detail::float_qr<> qr(m, 0, threads);
    gradient_start out{qr.solve(y).col(0), qr.norm()};
    if (out.weights.allFinite()) return out;
  }
  const kvfit::matrix right = y;
  const power_options converged{.rounds = 100, .tolerance = 1e-8, .from_ones = true};
  return {least_squares(m, right, {.method = least_squares_method::qr_unpivoted}, threads)
              .coefficients.col(0)
              .cast<double>(),
          largest_singular_value(m, converged).sigma};
}

/// Bytes that `find_gradient_start` of n × t holds at most, its result included.
constexpr double gradient_start_bytes(index n, index t) noexcept {
  return double_bytes(2, t) + double_bytes(2, n) +
         least_squares_bytes(n, t, 1, least_squares_method::qr_unpivoted, false);
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
