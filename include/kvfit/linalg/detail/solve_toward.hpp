// SPDX-License-Identifier: MIT
/// What every least-squares solver does before and after it solves.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// λ for a ridge: ridge·‖X‖₂², ridge·‖X‖_F²/t, or ridge itself. ‖X‖₂ comes
/// from seeded power iteration to about four digits. Cost at most 160·n·t flops.
[[nodiscard]] inline double ridge_lambda(const const_matrix_ref& x, ridge_mode mode, double ridge) {
  switch (mode) {
    case ridge_mode::none:
      return 0;
    case ridge_mode::fixed:
      return ridge;
    case ridge_mode::frobenius: {
      double norm_sq = 0;
      for (index_t i = 0; i < x.rows(); ++i) {
        const float* row = x.data() + i * x.outerStride();
        for (index_t j = 0; j < x.cols(); ++j) {
          norm_sq += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        }
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

/// `rows` × `cols` floats as doubles.
inline double_matrix widened(const const_matrix_ref& x, const executor_ref& threads) {
  const index_t cols = x.cols();
  double_matrix out(x.rows(), cols);
  over_rows(threads, x.rows(), cols, [&](index_t first, index_t count) noexcept {
    for (index_t i = first; i < first + count; ++i) {
      const float* from = x.data() + i * x.outerStride();
      std::copy_n(from, cols, out.data() + i * cols);
    }
  });
  return out;
}

/// B ← B − X C in double.
inline void subtract_image(const const_matrix_ref& x, const double_matrix& c, double_matrix& b,
                           const executor_ref& executor) {
  constexpr index_t high = 32;  // rows taken together
  const index_t t = x.cols();
  const index_t d = c.cols();
  const executor_ref threads = executor.for_work(2.0 * static_cast<double>(x.rows()) *
                                                 static_cast<double>(t) * static_cast<double>(d));
  over_pieces(threads, x.rows(), high, [&](index_t top, index_t count) noexcept {
    std::array<double, static_cast<std::size_t>(high * strip_depth)> rows;
    for (index_t k = 0; k < t; k += strip_depth) {
      const index_t depth = (std::min)(strip_depth, t - k);
      for (index_t i = 0; i < count; ++i) {
        const float* from = x.data() + (top + i) * x.outerStride() + k;
        std::copy_n(from, depth, rows.data() + i * strip_depth);
      }
      simd::multiply({rows.data(), strip_depth, 1}, {c.data() + k * d, d}, {b.data() + top * d, d},
                     count, d, depth, simd::product_mode::subtract);
    }
  });
}

/// B = Y − X C₀ in double; `start` null stands for C₀ = 0.
inline double_matrix right_side(const const_matrix_ref& x, const const_matrix_ref& y,
                                const double_matrix* start, const executor_ref& threads) {
  double_matrix out = widened(y, threads);
  if (start != nullptr) subtract_image(x, *start, out, threads);
  return out;
}

/// fp32 of `exact`, clamped to what fp32 holds; false where something had to be.
inline bool round_to_float(const double_matrix& exact, kvfit::matrix& out) {
  constexpr double largest = (std::numeric_limits<float>::max)();
  bool fits = true;
  const index_t count = exact.rows() * exact.cols();
  out.resize(exact.rows(), exact.cols());
  for (index_t i = 0; i < count; ++i) {
    const double value = exact.data()[i];
    fits = fits && std::abs(value) <= largest;
    out.data()[i] = static_cast<float>(value != value ? 0.0 : std::clamp(value, -largest, largest));
  }
  return fits;
}

/// argmin_C ‖X C − B‖² + λ‖C‖² for B = Y − X `start`, with directions under `tolerance` taken for
/// noise; sets tier, rank, λ, escalated and condition.
using least_squares_solver = double_matrix (*)(const const_matrix_ref& x, const const_matrix_ref& y,
                                               const double_matrix* start, double lambda,
                                               double tolerance, least_squares_report& report,
                                               const executor_ref& threads);

/// C₀ + argmin_D ‖X D − (Y − X C₀)‖² + λ‖D‖² by `solve`; `toward` null stands for C₀ = 0.
inline least_squares_fit solve_toward(const const_matrix_ref& x, const const_matrix_ref& y,
                                      const least_squares_options& options,
                                      const const_matrix_ref* toward, least_squares_solver solve,
                                      const executor_ref& threads) {
  const index_t n = x.rows();
  const index_t t = x.cols();
  const index_t d = y.cols();
  assert(n == y.rows());
  assert(toward == nullptr || (toward->rows() == t && toward->cols() == d));
  least_squares_fit out;
  least_squares_report& report = out.report;
  out.coefficients.setZero(t, d);
  const auto is_finite = [&threads](const const_matrix_ref& m) {
    return all_finite(m.data(), m.outerStride(), m.rows(), m.cols(), threads);
  };
  if (!is_finite(x) || !is_finite(y) || (toward != nullptr && !is_finite(*toward))) {
    report.status = least_squares_status::non_finite_input;
    report.finite = false;
    return out;
  }
  double_matrix start;
  if (toward != nullptr) {
    start = widened(*toward, {});
    round_to_float(start, out.coefficients);
  }
  if (n == 0 || t == 0 || d == 0) return out;

  const double tolerance = options.rank_tolerance > 0
                               ? options.rank_tolerance
                               : static_cast<double>(std::numeric_limits<float>::epsilon()) *
                                     std::sqrt(static_cast<double>((std::max)(n, t)));
  report.lambda = ridge_lambda(x, options.mode, options.ridge);
  const bool has_ridge = report.lambda > 0;
  double_matrix solution =
      solve(x, y, toward == nullptr ? nullptr : &start, report.lambda, tolerance, report, threads);
  const bool is_unique = has_ridge || n >= t;
  if (!is_unique || report.rank < (std::min)(n, t) || report.escalated ||
      report.condition * tolerance > 1) {
    report.status = least_squares_status::rank_deficient;
  }
  if (toward != nullptr) {
    for (index_t i = 0; i < t * d; ++i) solution.data()[i] += start.data()[i];
  }
  report.finite = round_to_float(solution, out.coefficients);
  if (!report.finite) report.status = least_squares_status::overflow;
  return out;
}

}  // namespace detail

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
