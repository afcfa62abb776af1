// SPDX-License-Identifier: MIT
/// Linear least squares with many right-hand sides.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "kvfit/linalg/detail/least_squares_cholesky.hpp"
#include "kvfit/linalg/detail/least_squares_qr.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

/// λ for a ridge: ridge·‖X‖₂², ridge·‖X‖_F²/t, or ridge itself. ‖X‖₂ comes
/// from seeded power iteration to about four digits. Cost at most 160·n·t flops.
template <class = void>
[[nodiscard]] inline double ridge_lambda(const const_matrix_ref& x, ridge_mode mode, double ridge) {
  switch (mode) {
    case ridge_mode::none:
      return 0;
    case ridge_mode::fixed:
      return ridge;
    case ridge_mode::frobenius: {
      double norm_sq = 0;
      for (Eigen::Index i = 0; i < x.rows(); ++i) {
        norm_sq += x.row(i).cast<double>().squaredNorm();
      }
      return x.cols() == 0 ? 0 : ridge * norm_sq / static_cast<double>(x.cols());
    }
    case ridge_mode::spectral: {
      const double sigma = largest_singular_value(x, {.rounds = 40, .tolerance = 1e-6}).sigma;
      return ridge * sigma * sigma;
    }
  }
  return 0;
}

namespace detail {

/// fp32 of `exact`, clamped to what fp32 holds; false where something had to be.
template <class = void>
inline bool round_to_float(const double_matrix& exact, kvfit::matrix& out) {
  constexpr double largest = std::numeric_limits<float>::max();
  bool fits = true;
  out.resize(exact.rows(), exact.cols());
  for (Eigen::Index i = 0; i < exact.rows(); ++i) {
    for (Eigen::Index j = 0; j < exact.cols(); ++j) {
      const double value = exact(i, j);
      fits = fits && std::abs(value) <= largest;
      out(i, j) = static_cast<float>(value != value ? 0.0 : std::clamp(value, -largest, largest));
    }
  }
  return fits;
}

/// C₀ + argmin_D ‖X D − (Y − X C₀)‖² + λ‖D‖²; `toward` null stands for C₀ = 0.
template <class = void>
inline least_squares_fit solve_toward(const const_matrix_ref& x, const const_matrix_ref& y,
                                      const least_squares_options& options,
                                      const const_matrix_ref* toward, const executor_ref& threads) {
  assert(x.rows() == y.rows());
  assert(toward == nullptr || (toward->rows() == x.cols() && toward->cols() == y.cols()));
  const Eigen::Index n = x.rows();
  const Eigen::Index t = x.cols();
  least_squares_fit out;
  least_squares_report& report = out.report;
  out.coefficients = kvfit::matrix::Zero(t, y.cols());
  const auto is_finite = [&threads](const const_matrix_ref& m) {
    return all_finite(m.data(), m.outerStride(), m.rows(), m.cols(), threads);
  };
  if (!is_finite(x) || !is_finite(y) || (toward != nullptr && !is_finite(*toward))) {
    report.status = least_squares_status::non_finite_input;
    report.finite = false;
    return out;
  }
  if (toward != nullptr) out.coefficients = *toward;
  if (n == 0 || t == 0 || y.cols() == 0) return out;

  const double tolerance = options.rank_tolerance > 0
                               ? options.rank_tolerance
                               : static_cast<double>(std::numeric_limits<float>::epsilon()) *
                                     std::sqrt(static_cast<double>(std::max(n, t)));
  report.lambda = ridge_lambda(x, options.mode, options.ridge);
  const bool has_ridge = report.lambda > 0;

  double_matrix solution;
  if (options.method == least_squares_method::qr_unpivoted && toward == nullptr) {
    solution = solve_unpivoted(x, y, report.lambda, tolerance, report, threads);
  } else {
    double_matrix right(n, y.cols());
    over_rows(threads, n, y.cols(), [&](index_t first, index_t count) noexcept {
      right.middleRows(first, count) = y.middleRows(first, count).cast<double>();
    });
    if (toward != nullptr) right = residual_of(x, toward->cast<double>(), right, threads);
    switch (options.method) {
      case least_squares_method::qr:
        solution = solve_ranked(x, right, report.lambda, tolerance, report, threads);
        break;
      case least_squares_method::qr_unpivoted:
        solution = solve_unpivoted(x, right, report.lambda, tolerance, report, threads);
        break;
      case least_squares_method::cholesky:
        solution = solve_by_cholesky(x, right, report.lambda, tolerance, report, threads);
        break;
    }
  }
  const bool is_unique = has_ridge || n >= t;
  if (!is_unique || report.rank < std::min(n, t) || report.escalated ||
      report.condition * tolerance > 1) {
    report.status = least_squares_status::rank_deficient;
  }
  if (toward != nullptr) solution += toward->cast<double>();
  report.finite = round_to_float(solution, out.coefficients);
  if (!report.finite) report.status = least_squares_status::overflow;
  return out;
}

}  // namespace detail

/// min_C ‖X C − Y‖²_F + λ‖C‖²_F.
///
/// `x` n × t, `y` n × d, fp32; C is t × d and never NaN.
///
/// - `qr`: the exact answer for the fp32 data as far as double goes (Cholesky factor of the Gram
///   matrix in double, or a QR in fp32 corrected to double where n < 2 t); where the data leave a
///   choice (n < t, dependent columns) the smallest such C, or for min(n, t) > 256 dependent
///   columns one held small by a ridge. Costs n·t² to 2·n·t² flops.
/// - `qr_unpivoted`: Householder QR in fp32, errors of some 1e-7 times the condition number. Costs
///   2·n·t² flops (n + t rows with a ridge).
/// - `cholesky`: from 64 columns on in fp32 with sums in double, errors of some 1e-7 times the
///   square of the condition number (columns scaled alike), where that is below 0.1, else (and
///   where n < 2 t, t ≥ 512) in double. Held small by a ridge where the condition number exceeds
///   1/tolerance. Costs n·t² + t³/3 flops, twice where fp32 did not do.
///
/// Allocates at most (n + 512)·t + 2·t² doubles beside n·d ones; the report says who solved, and
/// with what λ. `threads` share factors, products and right-hand sides (not
/// eigenvectors): same bytes.
template <class = void>
[[nodiscard]] inline least_squares_fit least_squares(const const_matrix_ref& x,
                                                     const const_matrix_ref& y,
                                                     const least_squares_options& options = {},
                                                     const executor_ref& threads = {}) {
  return detail::solve_toward(x, y, options, nullptr, threads);
}

namespace detail {

/// What the solvers below `least_squares` hold beside x, right-hand side and answer, at most: n × t
/// and n × d; `may_have_ridge`: λ > 0 may be asked for.
struct solver_bytes {
  index_t n;
  index_t t;
  index_t d;
  bool may_have_ridge;

  [[nodiscard]] constexpr index_t small() const noexcept { return std::min(n, t); }
  [[nodiscard]] constexpr double answer() const noexcept { return double_bytes(t, d); }

  /// A Gram matrix, its factor and the solve.
  [[nodiscard]] constexpr double by_gram() const noexcept {
    const index_t m = small();
    const double right = n < t ? double_bytes(n, d) : answer();
    return double_bytes(2, m, m) + right + double_bytes(8, m) +
           std::max({strips_bytes(n < t ? t : n, m), moment_bytes(n, t, d) + answer(),
                     triangular_bytes(m, std::max(m, d)) + double_bytes(4, m, d)});
  }
  [[nodiscard]] constexpr double by_float_qr() const noexcept {
    const index_t extra = may_have_ridge ? t : 0;
    const index_t rows = std::max(n, t) + extra;
    const index_t cols = may_have_ridge ? t : small();
    const double solving = float_bytes(2, rows, d) + 3 * answer() + double_bytes(2, small(), d);
    const double correcting = double_bytes(n, d) + double_bytes(64, t) + moment_bytes(n, t, d) +
                              4 * answer() + triangular_bytes(cols, d);
    // The triangle's own Gram matrix and factor, where it is ill-conditioned.
    const double squaring = float_bytes(2, cols, cols) + double_bytes(cols, cols) +
                            triangular_bytes(cols, cols) + float_bytes(rows, d) + 4 * answer();
    return strip_qr_bytes(rows, cols) + std::max({solving, correcting, squaring});
  }
  [[nodiscard]] constexpr double by_eigenvectors() const noexcept {
    const index_t m = small();
    const double right = n < t ? double_bytes(n, d) : answer();
    return double_bytes(4, m, m) + right + double_bytes(2, m, d) + double_bytes(8, m) +
           packed_bytes(m, m, m);
  }

  [[nodiscard]] constexpr double most(least_squares_method method) const noexcept {
    const double truncated = may_truncate(small(), may_have_ridge) ? by_eigenvectors() : 0;
    switch (method) {
      case least_squares_method::cholesky:
        return by_gram();
      case least_squares_method::qr_unpivoted:
        return std::max({by_float_qr(), by_gram(), truncated});
      case least_squares_method::qr:
        break;
    }
    const bool is_square = t >= 512 && n >= t && n < 2 * t;
    return std::max({by_gram(), is_square ? by_float_qr() : 0, truncated});
  }
};

}  // namespace detail

/// Bytes that `least_squares` of n × t and n × d holds at most, its result included.
/// `may_have_ridge`: a λ > 0 may be asked for.
constexpr double least_squares_bytes(index_t n, index_t t, index_t d, least_squares_method method,
                                     bool may_have_ridge) noexcept {
  const detail::solver_bytes solver{n, t, d, may_have_ridge};
  const double toward = double_bytes(n, d) + double_bytes(64, t);
  return float_bytes(t, d) + double_bytes(n, d) + 2 * solver.answer() +
         std::max(toward, solver.most(method)) + double_bytes(8, t);
}

/// min_C ‖X C − Y‖²_F + λ‖C − C₀‖²_F: the ridge pulls toward `toward` (t × d), and where the data
/// leave a choice C is the nearest to it.
template <class = void>
[[nodiscard]] inline least_squares_fit least_squares(const const_matrix_ref& x,
                                                     const const_matrix_ref& y,
                                                     const least_squares_options& options,
                                                     const const_matrix_ref& toward,
                                                     const executor_ref& threads = {}) {
  return detail::solve_toward(x, y, options, &toward, threads);
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
