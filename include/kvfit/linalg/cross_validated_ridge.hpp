// SPDX-License-Identifier: MIT
/// The ridge that generalised cross-validation calls for.
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/solve_positive_definite.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

namespace detail {

/// Rows of X and Y in double, equal ones as one row times the root of their number; rows of nothing
/// but zeros are left out.
struct distinct_rows {
  double_matrix x;
  double_matrix y;

  distinct_rows(const matrix& given_x, const matrix& given_y)
      : x(given_x.rows(), given_x.cols()), y(given_y.rows(), given_y.cols()) {
    const auto order = [](const matrix& of, index_t a, index_t b) {
      const auto size = static_cast<std::size_t>(of.cols()) * sizeof(float);
      return std::memcmp(of.row(a).data(), of.row(b).data(), size);
    };
    std::vector<index_t> rows(static_cast<std::size_t>(given_x.rows()));
    std::iota(rows.begin(), rows.end(), index_t{0});
    std::sort(rows.begin(), rows.end(), [&](index_t a, index_t b) {
      const int by_x = order(given_x, a, b);
      return by_x != 0 ? by_x < 0 : order(given_y, a, b) < 0;
    });
    index_t count = 0;
    for (std::size_t first = 0; first < rows.size();) {
      std::size_t end = first + 1;
      while (end < rows.size() && order(given_x, rows[first], rows[end]) == 0 &&
             order(given_y, rows[first], rows[end]) == 0) {
        ++end;
      }
      const double weight = std::sqrt(static_cast<double>(end - first));
      x.row(count) = weight * given_x.row(rows[first]).cast<double>();
      y.row(count) = weight * given_y.row(rows[first]).cast<double>();
      if (!x.row(count).isZero(0) || !y.row(count).isZero(0)) ++count;
      first = end;
    }
    x.conservativeResize(count, Eigen::NoChange);
    y.conservativeResize(count, Eigen::NoChange);
  }
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
/// X n × t, Y n × d, m = min(n, t). Cost 2 n t m + 2 m² d + some 25 m³ flops (the eigenvectors of
/// the smaller of XᵀX and XXᵀ); allocates two copies of X and Y in double and some 4 m² doubles.
/// The same bytes at any number of threads.
template <class = void>
inline double cross_validated_ridge(const matrix& x, const matrix& y) {
  const detail::distinct_rows distinct(x, y);
  const double_matrix& rows = distinct.x;
  const auto n = static_cast<double>(rows.rows());
  const double total = distinct.y.squaredNorm();
  const double scale = rows.squaredNorm() / static_cast<double>(std::max<index_t>(rows.cols(), 1));
  if (rows.rows() < 2 || !(scale > 0) || !std::isfinite(scale) || !std::isfinite(total)) return 0;
  const bool is_tall = rows.rows() > rows.cols();
  const double_matrix gram = is_tall
                                 ? detail::product(rows, true, rows)
                                 : detail::product(rows, false, double_matrix(rows.transpose()));
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(gram);
  if (eigen.info() != Eigen::Success) return 0;
  const Eigen::VectorXd& values = eigen.eigenvalues();
  // ‖uᵀY‖² for every left singular vector u of X, and what lies outside of them.
  const double_matrix vectors = eigen.eigenvectors();
  Eigen::VectorXd along =
      detail::product(vectors, true, is_tall ? detail::product(rows, true, distinct.y) : distinct.y)
          .rowwise()
          .squaredNorm();
  const double least = values[values.size() - 1] * 1e-14;
  for (Eigen::Index k = 0; is_tall && k < along.size(); ++k) {
    along[k] = values[k] > least ? along[k] / values[k] : 0;
  }
  const double outside = is_tall ? std::max(0.0, total - along.sum()) : 0;
  double best = 0;
  double least_error = std::numeric_limits<double>::infinity();
  constexpr int lowest = -20;
  for (int half_decade = lowest; half_decade <= 2; ++half_decade) {
    const double lambda = scale * std::pow(10.0, 0.5 * half_decade);
    double missing = outside;
    double freedom = n - static_cast<double>(values.size());
    for (Eigen::Index k = 0; k < values.size(); ++k) {
      const double left = lambda / (std::max(values[k], 0.0) + lambda);
      missing += left * left * along[k];
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

/// Bytes that `cross_validated_ridge` of n × t and n × d holds at most.
constexpr double cross_validated_ridge_bytes(index_t n, index_t t, index_t d) noexcept {
  const index_t m = std::min(n, t);
  const double rows = double_bytes(n, t + d) + double_bytes(n);
  const double across = double_bytes(n, t);  // while rows are cut off, or the Gram matrix is made
  return rows +
         std::max(across + double_bytes(m, m), double_bytes(4, m, m) + double_bytes(2, m, d) +
                                                   double_bytes(6, m) + packed_bytes(m, m, m));
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
