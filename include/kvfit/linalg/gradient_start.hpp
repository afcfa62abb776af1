// SPDX-License-Identifier: MIT
/// Where projected gradient steps start, and how long they may be.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kvfit/linalg/detail/float_qr.hpp"
#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"
#include "kvfit/linalg/published_least_squares.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// What `projected_gradient` is given.
struct gradient_start {
  Eigen::VectorXd weights;  ///< argmin ‖M w − y‖, at least as near as the published QR comes to it
  double sigma = 0;         ///< σ_max(M), from below but for rounding, mostly to six digits
};

namespace detail {

/// Rows that `residual_moment` sums up by themselves: 16 groups of them, or fewer.
constexpr index_t summed_rows(index_t rows) noexcept {
  constexpr index_t most = 16;
  return std::max<index_t>(((rows + most - 1) / most + sweep_rows - 1) / sweep_rows * sweep_rows,
                           64);
}

/// Mᵀ(y − M w) in double, in one sweep over the rows of M. `parts`: memory for the groups' sums.
inline double_matrix residual_moment(const const_matrix_ref& m, const kvfit::vector& y,
                                     const Eigen::VectorXd& w, Eigen::MatrixXd& parts,
                                     const executor_ref& executor) {
  const index_t n = m.rows();
  const index_t piece = summed_rows(n);
  const executor_ref threads =
      executor.for_work(32.0 * static_cast<double>(n) * static_cast<double>(m.cols()));
  const index_t t = m.cols();
  const index_t pieces = (n + piece - 1) / piece;
  parts.setZero(t, pieces);
  over_pieces(threads, n, piece, [&](index_t first, index_t count) noexcept {
    double* sum = parts.data() + first / piece * t;
    for_row_groups(m.data() + first * m.outerStride(), m.outerStride(), count, t,
                   [&](const auto& rows, index_t at) {
                     auto residuals = rows.times(w.data());
                     for (std::size_t r = 0; r < residuals.size(); ++r) {
                       const auto i = first + at + static_cast<index_t>(r);
                       residuals[r] = static_cast<double>(y[i]) - residuals[r];
                     }
                     rows.add_to(sum, residuals);
                   });
  });
  double_matrix out(t, 1);
  std::copy_n(parts.data(), t, out.data());
  for (index_t k = 1; k < pieces; ++k) simd::add_scaled(out.data(), 1, parts.data() + k * t, t);
  return out;
}

/// Both from the Gram matrix in fp32: its Cholesky factor, then corrections by it whose residuals
/// are in double (Björck 1987), until they are small. False where the columns, scaled alike, are
/// too near to dependent for that, or too few for it to save time.
inline bool start_by_gram(const const_matrix_ref& m, const kvfit::vector& y,
                          const executor_ref& threads, gradient_start& out) {
  if (m.cols() < smallest_float_system || is_nearly_square(m)) return false;
  const Eigen::MatrixXd square = float_gram(m, threads);
  shifted_factor<float> factor(threads);
  if (!factor.compute(square, 0) || !(factor.scaled_condition() <= largest_float_condition)) {
    return false;
  }
  const index_t t = m.cols();
  const auto length_of = [&square, t](const double* w) {  // of M w, as if columns were orthogonal
    double length_sq = 0;
    for (index_t j = 0; j < t; ++j) length_sq += square(j, j) * w[j] * w[j];
    return std::sqrt(length_sq);
  };
  Eigen::MatrixXd parts;
  Eigen::VectorXd weights;
  weights.setZero(t);
  double before = 1;
  for (int step = 0;; ++step) {
    const double_matrix change = factor.solve(residual_moment(m, y, weights, parts, threads));
    simd::add_scaled(weights.data(), 1, change.data(), t);
    if (step == 0) continue;
    const double length = length_of(weights.data());
    const double share = length > 0 ? length_of(change.data()) / length : 0;
    // The first correction's share is about what a correction leaves of an error.
    if (share < (step == 1 ? 3e-4 : 1e-6)) break;
    if (!(share < 0.25 * before) || step == 6) return false;
    before = share;
  }
  out.weights = weights;
  out.sigma =
      largest_singular_value_of_gram(square, {.rounds = 100, .tolerance = 1e-8, .from_ones = true})
          .sigma;
  return true;
}

}  // namespace detail

/// Both from one factor of M (n × t), which must not have negative entries: of its Gram matrix
/// where the columns allow it (n·t² flops and a few sweeps over M), else by QR (2·n·t² flops more);
/// where n < t, or neither factor is of use, by `published_least_squares` and power
/// iteration. `threads`
/// share all of it: same bytes.
[[nodiscard]] inline gradient_start find_gradient_start(const const_matrix_ref& m,
                                                        const kvfit::vector& y,
                                                        const executor_ref& threads = {}) {
  const index_t n = m.rows();
  const index_t t = m.cols();
  const auto first_column = [t](const auto& x) {
    Eigen::VectorXd out(t);
    for (index_t j = 0; j < t; ++j) out[j] = static_cast<double>(x(j, 0));
    return out;
  };
  const auto right = Eigen::Map<const kvfit::matrix>(y.data(), n, 1);
  gradient_start out;
  if (n >= t && t > 0 && detail::all_finite(y.data(), n, 1, n) &&
      detail::all_finite(m.data(), m.outerStride(), n, t, threads)) {
    if (detail::start_by_gram(m, y, threads, out)) return out;
    const detail::float_qr qr(m, 0, threads);
    out = {first_column(qr.solve(const_matrix_ref(right))), qr.norm()};
    if (simd::all_finite(out.weights.data(), t)) return out;
  }
  const power_options converged{.rounds = 100, .tolerance = 1e-8, .from_ones = true};
  return {first_column(published_least_squares(m, right, {}, threads).coefficients),
          largest_singular_value(m, converged).sigma};
}

/// What `find_gradient_start` of n × t holds, its result included.
inline void declare_gradient_start(workspace& space, index_t n, index_t t) {
  space.count(double_bytes(2, t) + double_bytes(2, n));
  {
    const workspace::phase by_gram(space);
    space.count(double_bytes(t, t) + double_bytes(48, t));  // sixteen sums, and vectors
    {
      const workspace::phase forming(space);
      detail::strips<float>().declare(space, (std::min)(n, detail::strip_rows), t);
    }
    detail::shifted_factor<float>().declare(space, t);
    detail::declare_triangular(space, t, 1);
  }
  const workspace::phase published(space);
  declare_published_least_squares(space, n, t, 1, false);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
