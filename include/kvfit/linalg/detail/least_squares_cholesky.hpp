// SPDX-License-Identifier: MIT
/// Least squares by the Cholesky factor of the smaller Gram matrix.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/linalg/detail/solve_toward.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/least_squares_options.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/linalg/power_iteration.hpp"
#include "kvfit/linalg/triangular_condition.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// The largest power of two that is not above x; 1 where x has none.
inline double power_of_two(double x) noexcept {
  return x > 0 && std::isfinite(x) ? std::ldexp(1.0, std::ilogb(x)) : 1.0;
}

/// The same where fp32 holds it and its inverse.
inline double float_unit(double x) noexcept {
  return std::clamp(power_of_two(x), 0x1p-120, 0x1p120);
}

/// Row i of X times factors_i.
inline void scale_rows(double_matrix& x, const Eigen::VectorXd& factors) noexcept {
  const index_t cols = x.cols();
  for (index_t i = 0; i < x.rows(); ++i) simd::scale(x.data() + i * cols, factors[i], cols);
}

/// `factor` · x in fp32, and in double.
inline void narrow(const double* x, double factor, index_t count, float* out) noexcept {
  for (index_t i = 0; i < count; ++i) out[i] = static_cast<float>(x[i] * factor);
}
inline void widen(const float* x, double factor, index_t count, double* out) noexcept {
  for (index_t i = 0; i < count; ++i) out[i] = static_cast<double>(x[i]) * factor;
}

/// G + λI = UᵀU in double or fp32. Columns are first brought to lengths between 1 and 2 by powers
/// of two, which changes no digit, and keeps squares within fp32.
template <class Scalar>
class shifted_factor {
 public:
  explicit shifted_factor(const executor_ref& threads = {}) : threads_(threads) {}

  /// Of `size` equations.
  void declare(workspace& space, index_t size) {
    space.add(factor_, size, size);
    space.add_vectors(size, length_, inverse_);
  }

  /// Reads the lower triangle of `gram`. False: not positive definite in this arithmetic.
  [[nodiscard]] bool compute(const Eigen::MatrixXd& gram, double lambda) {
    const index_t size = gram.rows();
    allocate_buffers(*this, size);
    for (index_t j = 0; j < size; ++j) {
      length_[j] = power_of_two(std::sqrt(gram(j, j) + lambda));
      inverse_[j] = 1 / length_[j];
    }
    over_rows(threads_, size, size, [&](index_t first, index_t count) noexcept {
      // Columns of the lower triangle: rows of the upper one.
      for (index_t j = first; j < first + count; ++j) {
        const double* column = gram.data() + j * size;
        Scalar* row = factor_.data() + j * size;
        const double own = inverse_[j];
        for (index_t i = j; i < size; ++i) {
          row[i] = static_cast<Scalar>(column[i] * (own * inverse_[i]));
        }
        row[j] = static_cast<Scalar>((column[j] + lambda) * own * own);
      }
    });
    return factor_upper(factor_.data(), size, size, threads_);
  }

  /// Estimate of σ_max/σ_min of what G is the square of, and the same with columns of equal length.
  [[nodiscard]] double condition() const { return triangular_condition(factor_, length_); }
  [[nodiscard]] double scaled_condition() const { return triangular_condition(factor_); }

  /// Length of column j outside the span of those before it.
  [[nodiscard]] double pivot(index_t j) const {
    return static_cast<double>(factor_(j, j)) * length_[j];
  }
  /// How many of them are above `least`.
  [[nodiscard]] index_t pivots_above(double least) const {
    index_t out = 0;
    for (index_t j = 0; j < factor_.rows(); ++j) out += pivot(j) > least ? 1 : 0;
    return out;
  }
  [[nodiscard]] double largest_pivot() const {
    double out = 0;
    for (index_t j = 0; j < factor_.rows(); ++j) out = (std::max)(out, pivot(j));
    return out;
  }

  /// (G + λI)⁻¹ x.
  [[nodiscard]] double_matrix solve(double_matrix x) const {
    const index_t size = factor_.rows();
    const index_t d = x.cols();
    scale_rows(x, inverse_);
    const auto solve_in_place = [&](Scalar* numbers) {
      solve_transposed(factor_.data(), size, size, numbers, d, d, threads_);
      solve_upper(factor_.data(), size, size, numbers, d, d, threads_);
    };
    if constexpr (std::is_same_v<Scalar, double>) {
      solve_in_place(x.data());
    } else {
      // fp32 holds the ratios of a system's numbers; its own range would not.
      const double unit = power_of_two(simd::largest_size(x.data(), size * d));
      matrix_of<Scalar> narrowed(size, d);
      narrow(x.data(), 1 / unit, size * d, narrowed.data());
      solve_in_place(narrowed.data());
      widen(narrowed.data(), unit, size * d, x.data());
    }
    scale_rows(x, inverse_);
    return x;
  }

 private:
  matrix_of<Scalar> factor_;  // U, in the upper triangle
  Eigen::VectorXd length_;
  Eigen::VectorXd inverse_;
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
  report.rank = factor.pivots_above(tolerance * factor.largest_pivot());
  if (report.condition * tolerance > 1) {
    report.rank = std::min<index_t>(report.rank, gram.rows() - 1);
    if (!(lambda > 0)) return false;
  }
  x = factor.solve(right);
  return true;
}

/// The same with λ raised to tolerance·σ²_max, and ten times more as often as needed: a direction
/// of noise, some tolerance·σ_max long, is then inverted to no more than 1/σ_max.
inline double_matrix solve_with_ridge(const Eigen::MatrixXd& gram, double lambda, double tolerance,
                                      const double_matrix& right, least_squares_report& report,
                                      const executor_ref& threads = {}) {
  report.escalated = true;
  // From equal components, which suits the matrices met here (no negative entries) and costs two
  // rounds; where it does not suit, no column is longer than σ_max.
  const double estimate =
      largest_singular_value_of_gram(gram, {.rounds = 20, .tolerance = 1e-2, .from_ones = true})
          .sigma;
  double longest_sq = 0;
  for (index_t j = 0; j < gram.rows(); ++j) longest_sq = (std::max)(longest_sq, gram(j, j));
  const double sigma = (std::max)(estimate, std::sqrt(longest_sq));
  shifted_factor<double> factor(threads);
  // The rank shows with a shift just above rounding: what depends on earlier columns keeps a
  // squared pivot of about the shift.
  const double probe = tolerance * tolerance * sigma * sigma;
  if (report.rank == 0 && probe > 0 && factor.compute(gram, probe)) {
    report.rank = factor.pivots_above(std::sqrt(10 * probe));
  }
  // A zero matrix has no scale: any λ will do.
  lambda = (std::max)(10 * lambda, sigma > 0 ? tolerance * sigma * sigma : 1.0);
  for (int attempt = 0; attempt < 20; ++attempt, lambda *= 10) {
    if (factor.compute(gram, lambda)) break;
  }
  report.condition = factor.condition();
  report.lambda = lambda;
  return factor.solve(right);
}

/// max |x_ij|; 0 of an empty X.
inline double largest_entry(const const_matrix_ref& x, const executor_ref& executor = {}) {
  const index_t t = x.cols();
  kvfit::vector largest;
  largest.setZero(t);
  const executor_ref threads = executor.for_work(8.0 * static_cast<double>(x.size()));
  constexpr index_t columns = 4 * strip_width;
  over_pieces(threads, t, columns, [&](index_t first, index_t count) noexcept {
    for (index_t i = 0; i < x.rows(); ++i) {
      keep_largest(x.data() + i * x.outerStride() + first, count, largest.data() + first);
    }
  });
  float out = 0;
  for (index_t j = 0; j < t; ++j) out = (std::max)(out, largest[j]);
  return static_cast<double>(out);
}

/// The lower triangle of XᵀX, products in fp32 (see `float_gram_into`), X of any scale.
inline Eigen::MatrixXd float_gram(const const_matrix_ref& x, const executor_ref& threads) {
  const index_t t = x.cols();
  Eigen::MatrixXd square;
  const double unit = float_unit(largest_entry(x, threads));
  float_gram_into(x, static_cast<float>(1 / unit), square, threads);
  if (unit == 1) return square;
  over_rows(threads, t, t, [&](index_t first, index_t count) noexcept {
    for (index_t j = first; j < first + count; ++j) {
      simd::scale(square.data() + j * t + j, unit * unit, t - j);
    }
  });
  return square;
}

/// XᵀB, products in fp32, summed over 128 rows in fp32 and on in double. Both are brought to
/// entries of about 1 first, by powers of two.
inline double_matrix float_moment(const const_matrix_ref& x, const double_matrix& b,
                                  const executor_ref& executor = {}) {
  const index_t n = x.rows();
  const index_t t = x.cols();
  const index_t d = b.cols();
  const executor_ref threads = executor.for_work(
      2.0 * static_cast<double>(t) * static_cast<double>(d) * static_cast<double>(strip_depth));
  double_matrix out;
  out.setZero(t, d);
  const double x_unit = float_unit(largest_entry(x, executor));
  const double b_unit = power_of_two(simd::largest_size(b.data(), n * d));
  const auto x_inverse = static_cast<float>(1 / x_unit);
  const index_t most = (std::min)(strip_depth, n);
  kvfit::matrix left(most, t);
  kvfit::matrix right(most, d);
  kvfit::matrix sums(t, d);
  for (index_t top = 0; top < n; top += most) {
    const index_t count = (std::min)(most, n - top);
    for (index_t i = 0; i < count; ++i) {
      const float* from = x.data() + (top + i) * x.outerStride();
      float* to = left.data() + i * t;
      for (index_t j = 0; j < t; ++j) to[j] = from[j] * x_inverse;
    }
    narrow(b.data() + top * d, 1 / b_unit, count * d, right.data());
    over_pieces(threads, t, strip_depth, [&](index_t first, index_t many) noexcept {
      float* to = sums.data() + first * d;
      simd::multiply({left.data() + first, 1, t}, {right.data(), d}, {to, d}, many, d, count);
      add_widened(to, many * d, out.data() + first * d);
    });
  }
  simd::scale(out.data(), x_unit * b_unit, t * d);
  return out;
}

/// A matrix that is large and less than twice as tall as wide: of attention weights such a one is
/// nearly always too ill-conditioned for fp32.
inline bool is_nearly_square(const const_matrix_ref& x) noexcept {
  return x.cols() >= 512 && x.rows() >= x.cols() && x.rows() < 2 * x.cols();
}

/// Systems below this size are solved in double throughout: it costs nothing there.
inline constexpr index_t smallest_float_system = 64;

/// The normal equations of the smaller side, in double: XᵀX C = XᵀB, or XXᵀ Z = B with C = XᵀZ.
struct gram_system {
  Eigen::MatrixXd gram;  // both triangles
  double_matrix right;

  gram_system(const const_matrix_ref& x, const double_matrix& b, const executor_ref& threads)
      : gram(x.rows() < x.cols() ? row_gram(x, threads) : linalg::gram(x, {}, threads)),
        right(x.rows() < x.cols() ? b : moment(x, b, threads)) {}

  /// C of the solution of the smaller side.
  [[nodiscard]] static double_matrix unreduced(const const_matrix_ref& x, double_matrix solution,
                                               const executor_ref& threads) {
    if (x.rows() >= x.cols()) return solution;
    return moment(x, solution, threads);
  }
};

/// (XᵀX + λI)⁻¹XᵀB, or Xᵀ(XXᵀ + λI)⁻¹B where X is wide: a `least_squares_solver`.
///
/// A λ > 0 that was asked for stays as it is unless the factorization fails. Without one, and from
/// 64 columns on, products and factor are in fp32 (summed up in double) where the condition number
/// allows it; all else is in double. A system worse conditioned than 1/tolerance gets the ridge of
/// `solve_with_ridge`. Sets tier, rank, lambda, escalated and condition.
inline double_matrix solve_by_cholesky(const const_matrix_ref& x, const const_matrix_ref& y,
                                       const double_matrix* start, double lambda, double tolerance,
                                       least_squares_report& report, const executor_ref& threads) {
  const double_matrix b = right_side(x, y, start, threads);
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
  const gram_system system(x, b, threads);
  if (!solve_gram<double>(system.gram, lambda, tolerance, system.right, out, report, threads)) {
    out = solve_with_ridge(system.gram, lambda, tolerance, system.right, report, threads);
  }
  return gram_system::unreduced(x, std::move(out), threads);
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
