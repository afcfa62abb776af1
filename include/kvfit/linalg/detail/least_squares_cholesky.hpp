// SPDX-License-Identifier: MIT
/// Least squares by the Cholesky factor of the smaller Gram matrix.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"
#include "kvfit/linalg/triangular_condition.hpp"

namespace kvfit::linalg::inline KVFIT_ISA::detail {

/// The largest power of two that is not above x; 1 where x has none.
inline double power_of_two(double x) noexcept {
  return x > 0 && std::isfinite(x) ? std::ldexp(1.0, std::ilogb(x)) : 1.0;
}

/// The same where fp32 holds it and its inverse.
inline double float_unit(double x) noexcept {
  return std::clamp(power_of_two(x), 0x1p-120, 0x1p120);
}

/// G + λI = UᵀU in double or fp32. Columns are first brought to lengths between 1 and 2 by powers
/// of two, which changes no digit, and keeps squares within fp32.
template <class Scalar>
class shifted_factor {
 public:
  explicit shifted_factor(const executor_ref& threads = {}) : threads_(threads) {}

  /// Reads the lower triangle of `gram`. False: not positive definite in this arithmetic.
  [[nodiscard]] bool compute(const Eigen::MatrixXd& gram, double lambda) {
    const Eigen::Index size = gram.rows();
    length_.resize(size);
    for (Eigen::Index j = 0; j < size; ++j) {
      length_[j] = power_of_two(std::sqrt(gram(j, j) + lambda));
    }
    const Eigen::VectorXd inverse = length_.cwiseInverse();
    factor_.resize(size, size);
    over_rows(threads_, size, size, [&](index_t first, index_t count) noexcept {
      // Columns of the lower triangle: rows of the upper one.
      for (Eigen::Index j = first; j < first + count; ++j) {
        factor_.row(j).tail(size - j) =
            (gram.col(j).tail(size - j).array() * (inverse[j] * inverse.tail(size - j).array()))
                .template cast<Scalar>();
        factor_(j, j) = static_cast<Scalar>((gram(j, j) + lambda) * inverse[j] * inverse[j]);
      }
    });
    return factor_upper(factor_.data(), index_t{size}, index_t{size}, threads_);
  }

  /// Estimate of σ_max/σ_min of what G is the square of, and the same with columns of equal length.
  [[nodiscard]] double condition() const { return triangular_condition(factor_, length_); }
  [[nodiscard]] double scaled_condition() const { return triangular_condition(factor_); }

  /// Lengths of the columns outside the span of those before them.
  [[nodiscard]] Eigen::ArrayXd pivots() const {
    return factor_.diagonal().template cast<double>().array() * length_.array();
  }

  /// (G + λI)⁻¹ right.
  [[nodiscard]] double_matrix solve(const double_matrix& right) const {
    const Eigen::VectorXd inverse = length_.cwiseInverse();
    double_matrix scaled = inverse.asDiagonal() * right;
    // fp32 holds the ratios of a system's numbers; its own range would not.
    const double largest = scaled.size() == 0 ? 0 : scaled.cwiseAbs().maxCoeff();
    const double unit = std::is_same_v<Scalar, double> ? 1 : power_of_two(largest);
    matrix_of<Scalar> x = (scaled / unit).template cast<Scalar>();
    const index_t size = factor_.rows();
    const index_t d = x.cols();
    solve_transposed(factor_.data(), size, size, x.data(), d, d, threads_);
    solve_upper(factor_.data(), size, size, x.data(), d, d, threads_);
    return inverse.asDiagonal() * (x.template cast<double>() * unit);
  }

 private:
  matrix_of<Scalar> factor_;  // U, in the upper triangle
  Eigen::VectorXd length_;
  executor_ref threads_;
};

/// How far fp32 can be trusted with a Gram matrix: relative errors of 1e-7 in it become that times
/// the square of this in the answer, columns scaled to equal length (which Cholesky does by
/// itself).
inline constexpr double largest_float_condition = 700;

/// (G + λI)⁻¹ `right`. Fails, with `x` as it was, where the factorization does, where the condition
/// number exceeds 1/tolerance with no λ asked for, or what fp32 can do. Sets rank and condition.
template <class Scalar>
bool solve_gram(const Eigen::MatrixXd& gram, double lambda, double tolerance,
                const double_matrix& right, double_matrix& x, least_squares_report& report,
                const executor_ref& threads = {}) {
  shifted_factor<Scalar> factor(threads);
  if (!factor.compute(gram, lambda)) return false;
  if (std::is_same_v<Scalar, float> && factor.scaled_condition() > largest_float_condition) {
    return false;
  }
  report.condition = factor.condition();
  const Eigen::ArrayXd pivots = factor.pivots();
  report.rank = (pivots > tolerance * pivots.maxCoeff()).count();
  if (report.condition * tolerance > 1) {
    report.rank = std::min(report.rank, gram.rows() - 1);
    if (!(lambda > 0)) return false;
  }
  x = factor.solve(right);
  return true;
}

/// The same with λ raised to tolerance·σ²_max, and ten times more as often as needed: a direction
/// of noise, some tolerance·σ_max long, is then inverted to no more than 1/σ_max.
template <class Scalar>
double_matrix solve_with_ridge(const Eigen::MatrixXd& gram, double lambda, double tolerance,
                               const double_matrix& right, least_squares_report& report,
                               const executor_ref& threads = {}) {
  report.escalated = true;
  // From equal components, which suits the matrices met here (no negative entries) and costs two
  // rounds; where it does not suit, no column is longer than σ_max.
  const double estimate =
      largest_singular_value_of_gram(gram, {.rounds = 20, .tolerance = 1e-2, .from_ones = true})
          .sigma;
  const double sigma = std::max(estimate, std::sqrt(std::max(gram.diagonal().maxCoeff(), 0.0)));
  shifted_factor<Scalar> factor(threads);
  // The rank shows with a shift just above rounding: what depends on earlier columns keeps a
  // squared pivot of about the shift.
  if constexpr (std::is_same_v<Scalar, double>) {
    const double probe = tolerance * tolerance * sigma * sigma;
    if (report.rank == 0 && probe > 0 && factor.compute(gram, probe)) {
      report.rank = (factor.pivots().square() > 10 * probe).count();
    }
  }
  // A zero matrix has no scale: any λ will do.
  lambda = std::max(10 * lambda, sigma > 0 ? tolerance * sigma * sigma : 1.0);
  for (int attempt = 0; attempt < 20; ++attempt, lambda *= 10) {
    if (factor.compute(gram, lambda)) break;
  }
  if constexpr (std::is_same_v<Scalar, float>) {
    if (report.rank == 0) report.rank = (factor.pivots().square() > 10 * lambda).count();
  }
  report.condition = factor.condition();
  report.lambda = lambda;
  return factor.solve(right);
}

template <class = void>
inline double largest_entry(const const_matrix_ref& x, const executor_ref& executor = {}) {
  Eigen::ArrayXf largest = Eigen::ArrayXf::Zero(x.cols());
  const executor_ref threads = executor.for_work(8.0 * static_cast<double>(x.size()));
  constexpr index_t columns = 4 * strip_width;
  over_pieces(threads, x.cols(), columns, [&](index_t first, index_t count) noexcept {
    for (index_t i = 0; i < x.rows(); ++i) {
      keep_largest(x.data() + i * x.outerStride() + first, count, largest.data() + first);
    }
  });
  return static_cast<double>(largest.maxCoeff());
}

/// The lower triangle of XᵀX, products in fp32 (see `float_gram_into`), X of any scale.
template <class = void>
inline Eigen::MatrixXd float_gram(const const_matrix_ref& x, const executor_ref& threads) {
  Eigen::MatrixXd square;
  const double unit = float_unit(largest_entry(x, threads));
  const auto inverse = static_cast<float>(1 / unit);
  float_gram_into(
      x.rows(), x.cols(),
      [&](index_t i, index_t first, index_t width, float* to) {
        load_scaled(x.data() + i * x.outerStride() + first, inverse, width, to);
      },
      [](index_t) { return index_t{0}; }, square, threads);
  if (unit == 1) return square;
  over_rows(threads, x.cols(), x.cols(), [&](index_t first, index_t count) noexcept {
    for (Eigen::Index j = first; j < first + count; ++j) {
      square.col(j).tail(x.cols() - j) *= unit * unit;
    }
  });
  return square;
}

/// XᵀB, products in fp32, summed over 128 rows in fp32 and on in double. Both are brought to
/// entries of about 1 first, by powers of two.
template <class = void>
inline double_matrix float_moment(const const_matrix_ref& x, const double_matrix& b,
                                  const executor_ref& executor = {}) {
  const index_t t = x.cols();
  const index_t d = b.cols();
  const executor_ref threads = executor.for_work(
      2.0 * static_cast<double>(t) * static_cast<double>(d) * static_cast<double>(strip_depth));
  double_matrix out = double_matrix::Zero(t, d);
  const double x_unit = float_unit(largest_entry(x, executor));
  const double b_unit = b.size() == 0 ? 1 : power_of_two(b.cwiseAbs().maxCoeff());
  kvfit::matrix left;
  kvfit::matrix right;
  kvfit::matrix sums(t, d);
  for (index_t top = 0; top < x.rows(); top += strip_depth) {
    const index_t count = std::min<index_t>(strip_depth, x.rows() - top);
    left = x.middleRows(top, count) * static_cast<float>(1 / x_unit);
    right = (b.middleRows(top, count) / b_unit).cast<float>();
    over_pieces(threads, t, strip_depth, [&](index_t first, index_t many) noexcept {
      float* to = sums.data() + first * d;
      simd::multiply({left.data() + first, 1, t}, {right.data(), d}, {to, d}, many, d, count);
      add_widened(to, many * d, out.data() + first * d);
    });
  }
  return out * (x_unit * b_unit);
}

/// A matrix that is large and less than twice as tall as wide: of attention weights such a one is
/// nearly always too ill-conditioned for fp32.
inline bool is_nearly_square(const const_matrix_ref& x) noexcept {
  return x.cols() >= 512 && x.rows() >= x.cols() && x.rows() < 2 * x.cols();
}

/// Systems below this size are solved in double throughout: it costs nothing there.
inline constexpr index_t smallest_float_system = 64;

/// (XᵀX + λI)⁻¹XᵀB, or Xᵀ(XXᵀ + λI)⁻¹B where X is wide.
///
/// A λ > 0 that was asked for stays as it is unless the factorization fails. Without one, and from
/// 64 columns on, products and factor are in fp32 (summed up in double) where the condition number
/// allows it; all else is in double. A system worse conditioned than 1/tolerance gets the ridge of
/// `solve_with_ridge`. Sets tier, rank, lambda, escalated and condition.
template <class = void>
inline double_matrix solve_by_cholesky(const const_matrix_ref& x, const double_matrix& b,
                                       double lambda, double tolerance,
                                       least_squares_report& report,
                                       const executor_ref& threads = {}) {
  const bool is_wide = x.rows() < x.cols();
  report.tier = is_wide ? least_squares_tier::cholesky_dual : least_squares_tier::cholesky;
  double_matrix out;
  const bool may_be_float = !is_wide && !is_nearly_square(x) && x.cols() >= smallest_float_system;
  if (may_be_float && !(lambda > 0)) {
    const Eigen::MatrixXd square = float_gram(x, threads);
    if (solve_gram<float>(square, 0, tolerance, float_moment(x, b, threads), out, report,
                          threads)) {
      return out;
    }
    report.rank = 0;
  }
  const Eigen::MatrixXd square = is_wide ? row_gram(x, threads) : gram(x, {}, threads);
  const double_matrix right = is_wide ? b : double_matrix(moment(x, b, {}, threads));
  if (!solve_gram<double>(square, lambda, tolerance, right, out, report, threads)) {
    out = solve_with_ridge<double>(square, lambda, tolerance, right, report, threads);
  }
  if (is_wide) out = double_matrix(moment(x, out, {}, threads));
  return out;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA::detail
