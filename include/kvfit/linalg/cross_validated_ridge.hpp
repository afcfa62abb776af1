// SPDX-License-Identifier: MIT
/// The ridge that generalised cross-validation calls for.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/symmetric_eigen.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/matrix_ref.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

namespace detail {

/// Rows of X and Y that differ, and the root of how often each is there; rows of nothing but zeros
/// are left out.
struct distinct_rows {
  matrix x;
  matrix y;
  std::vector<double> weights;
  std::vector<index_t> rows;  ///< of what was given, equal ones side by side

  /// Of n × t and n × d.
  void declare(workspace& space, index_t n, index_t t, index_t d) {
    space.add(x, n, t);
    space.add(y, n, d);
    space.reserve(weights, n);
    space.add(rows, n);
  }

  distinct_rows() = default;
  distinct_rows(const matrix& given_x, const matrix& given_y) {
    allocate_buffers(*this, given_x.rows(), given_x.cols(), given_y.cols());
    const auto order = [](const matrix& of, index_t a, index_t b) {
      const auto size = static_cast<std::size_t>(of.cols());
      return std::memcmp(of.data() + a * of.cols(), of.data() + b * of.cols(),
                         size * sizeof(float));
    };
    const auto is_zero = [](const matrix& of, index_t row) {
      const float* numbers = of.data() + row * of.cols();
      return std::all_of(numbers, numbers + of.cols(), [](float number) { return number == 0; });
    };
    std::iota(rows.begin(), rows.end(), index_t{0});
    std::sort(rows.begin(), rows.end(), [&](index_t a, index_t b) {
      const int by_x = order(given_x, a, b);
      return by_x != 0 ? by_x < 0 : order(given_y, a, b) < 0;
    });
    index_t count = 0;
    for (std::size_t first = 0; first < rows.size();) {
      const index_t row = rows[first];
      std::size_t end = first + 1;
      while (end < rows.size() && order(given_x, row, rows[end]) == 0 &&
             order(given_y, row, rows[end]) == 0) {
        ++end;
      }
      if (!is_zero(given_x, row) || !is_zero(given_y, row)) {
        std::copy_n(given_x.data() + row * x.cols(), x.cols(), x.data() + count * x.cols());
        std::copy_n(given_y.data() + row * y.cols(), y.cols(), y.data() + count * y.cols());
        weights.push_back(std::sqrt(static_cast<double>(end - first)));
        ++count;
      }
      first = end;
    }
  }

  /// Of X and Y, from the first one on, that count.
  [[nodiscard]] index_t size() const noexcept { return static_cast<index_t>(weights.size()); }
};

}  // namespace detail

/// λ that minimises generalised cross-validation (Golub, Heath & Wahba 1979) of
/// min_C ‖X C − Y‖² + λ ‖C‖²:
///
///     V(λ) = n ‖Y − H Y‖²_F / (n − tr H)²,   H = X (XᵀX + λ I)⁻¹ Xᵀ
///
/// over λ = m · 10^(k/2), k = −20 … 2, m = ‖X‖²_F / t; of equals the smallest. 0 where k = −20 is
/// best, where fewer than two rows differ, where X is 0 and where something is not finite. n counts
/// rows that differ: r equal ones are one, times √r, and rows of zeros none; so saying every row
/// twice doubles λ, as it does the squares. For C drawn to C₀ pass Y − X C₀.
///
/// X n × t, Y n × d, m = min(n, t). Cost n t m + 2 n t d + 4/3 m³ + 8 m² d flops (the eigenvalues
/// of the smaller of XᵀX and XXᵀ); allocates copies of X, Y and Y in double, and m² doubles.
/// `threads` share products: the same bytes at any number of them.
[[nodiscard]] inline double cross_validated_ridge(const matrix& x, const matrix& y,
                                                  const executor_ref& threads = {}) {
  const detail::distinct_rows distinct(x, y);
  const index_t count = distinct.size();
  const index_t t = x.cols();
  const index_t d = y.cols();
  if (count < 2 || t == 0) return 0;
  const const_matrix_ref rows = Eigen::Map<const matrix>(distinct.x.data(), count, t);
  const bool is_tall = count > t;
  // Uᵀ D Y for every left singular vector u of D X: of D X Xᵀ D as it is, or of XᵀD²X by XᵀD²Y.
  double_matrix along(count, d);
  double total = 0;
  for (index_t i = 0; i < count; ++i) {
    const double weight = distinct.weights[static_cast<std::size_t>(i)];
    for (index_t j = 0; j < d; ++j) {
      const double value = weight * static_cast<double>(distinct.y.data()[i * d + j]);
      total += value * value;
      along(i, j) = is_tall ? weight * value : value;
    }
  }
  const index_t size = is_tall ? t : count;
  Eigen::MatrixXd square;
  if (is_tall) {
    square = gram(rows, distinct.weights, threads);
    along = moment(rows, along, threads);
  } else {
    square = row_gram(rows, threads);
    for (index_t i = 0; i < size; ++i) {
      for (index_t j = 0; j < size; ++j) {
        square(j, i) *= distinct.weights[static_cast<std::size_t>(i)] *
                        distinct.weights[static_cast<std::size_t>(j)];
      }
    }
  }
  double scale = 0;
  for (index_t k = 0; k < size; ++k) scale += square(k, k);
  scale /= static_cast<double>(t);
  if (!(scale > 0) || !std::isfinite(scale) || !std::isfinite(total)) return 0;
  Eigen::VectorXd values;
  if (!detail::diagonalise(square, values, along)) return 0;
  const auto n = static_cast<double>(count);
  double largest = 0;
  for (index_t k = 0; k < size; ++k) largest = (std::max)(largest, values[k]);
  // ‖uᵀ D Y‖² for each, and what lies outside of them.
  Eigen::VectorXd squares(size);
  double outside = total;
  for (index_t k = 0; k < size; ++k) {
    squares[k] = simd::squared_norm(along.data() + k * d, d);
    if (is_tall) squares[k] = values[k] > 1e-14 * largest ? squares[k] / values[k] : 0;
    outside -= squares[k];
  }
  outside = is_tall ? (std::max)(0.0, outside) : 0;
  double best = 0;
  double least_error = std::numeric_limits<double>::infinity();
  constexpr int lowest = -20;
  for (int half_decade = lowest; half_decade <= 2; ++half_decade) {
    const double lambda = scale * std::pow(10.0, 0.5 * half_decade);
    double missing = outside;
    double freedom = n - static_cast<double>(size);
    for (index_t k = 0; k < size; ++k) {
      const double left = lambda / ((std::max)(values[k], 0.0) + lambda);
      missing += left * left * squares[k];
      freedom += left;
    }
    const double error = n * missing / (freedom * freedom);
    if (error < least_error * (1 - 1e-12)) {  // no rounding decides
      least_error = error;
      best = half_decade == lowest ? 0 : lambda;
    }
  }
  return best;
}

/// What `cross_validated_ridge` of n × t and n × d holds.
inline void declare_cross_validated_ridge(workspace& space, index_t n, index_t t, index_t d) {
  const index_t m = (std::min)(n, t);
  detail::distinct_rows().declare(space, n, t, d);
  space.count(double_bytes(n, d));  // along
  {
    const workspace::phase forming(space);
    detail::gram_buffers().declare(space, (std::max)(n, t), m);
  }
  space.count(double_bytes(m, m));
  {
    const workspace::phase products(space);
    detail::moment_buffers().declare(space, n, t, d);
  }
  space.count(double_bytes(9, m) + double_bytes(d));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
