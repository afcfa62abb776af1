// SPDX-License-Identifier: MIT
/// The ridge that leave-one-out errors call for, in closed form.
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit::linalg::inline KVFIT_ISA {

namespace detail {

/// Rows of X and Y in double, equal ones as one row times the root of their number.
struct distinct_rows {
  Eigen::MatrixXd x;
  Eigen::MatrixXd y;

  distinct_rows(const matrix& given_x, const matrix& given_y)
      : x(given_x.rows(), given_x.cols()), y(given_y.rows(), given_y.cols()) {
    const auto order = [](const matrix& of, index a, index b) {
      const auto size = static_cast<std::size_t>(of.cols()) * sizeof(float);
      return std::memcmp(of.row(a).data(), of.row(b).data(), size);
    };
    std::vector<index> rows(static_cast<std::size_t>(given_x.rows()));
    std::iota(rows.begin(), rows.end(), index{0});
    std::sort(rows.begin(), rows.end(), [&](index a, index b) {
      const int by_x = order(given_x, a, b);
      return by_x != 0 ? by_x < 0 : order(given_y, a, b) < 0;
    });
    index count = 0;
    for (std::size_t first = 0; first < rows.size();) {
      std::size_t end = first + 1;
      while (end < rows.size() && order(given_x, rows[first], rows[end]) == 0 &&
             order(given_y, rows[first], rows[end]) == 0) {
        ++end;
      }
      const double weight = std::sqrt(static_cast<double>(end - first));
      x.row(count) = weight * given_x.row(rows[first]).cast<double>();
      y.row(count) = weight * given_y.row(rows[first]).cast<double>();
      ++count;
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
///     V(λ) = n ‖Y − H Y‖²_F / (n − tr H)²,   H = X (XᵀX + λ I)⁻¹ Xᵀ,
///
/// in closed form the leave-one-out error but for all rows counting alike (equal rows, which know
/// of each other, as one), over λ = m · 10^(k/2),
/// k = −20 … 2, m = ‖X‖²_F / t; 0 where the smallest of them is best, and where X is 0 or something
/// is not finite. From the eigenvalues of the smaller of XᵀX and XXᵀ, in double. For C drawn to C₀
/// pass Y − X C₀.
///
/// Cost n t min(n, t) + 9 min(n, t)³ + n t d flops or so; allocates a copy of X and Y in double and
/// min(n, t)² doubles.
inline double cross_validated_ridge(const matrix& x, const matrix& y) {
  const detail::distinct_rows distinct(x, y);
  const Eigen::MatrixXd& rows = distinct.x;
  const Eigen::MatrixXd& target = distinct.y;
  const auto n = static_cast<double>(rows.rows());
  const double total = target.squaredNorm();
  const double scale = rows.squaredNorm() / static_cast<double>(std::max<index>(rows.cols(), 1));
  if (!(scale > 0) || !std::isfinite(scale) || !std::isfinite(total)) return 0;
  const bool is_tall = rows.rows() >= rows.cols();
  const Eigen::MatrixXd wide = is_tall ? Eigen::MatrixXd(rows.transpose()) : rows;
  const Eigen::MatrixXd gram = wide * wide.transpose();
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(gram);
  if (eigen.info() != Eigen::Success) return 0;
  const Eigen::VectorXd& values = eigen.eigenvalues();
  // ‖uᵀY‖² for every left singular vector u of X, and what lies outside of them.
  const double least = values[values.size() - 1] * 1e-14;
  const Eigen::MatrixXd seen = is_tall ? Eigen::MatrixXd(wide * target) : target;
  Eigen::VectorXd along = (eigen.eigenvectors().transpose() * seen).rowwise().squaredNorm().eval();
  for (Eigen::Index k = 0; is_tall && k < along.size(); ++k) {
    along[k] = values[k] > least ? along[k] / values[k] : 0;
  }
  const double outside = std::max(0.0, total - along.sum());
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
    if (error < least_error) {
      least_error = error;
      best = half_decade == lowest ? 0 : lambda;
    }
  }
  return best;
}

}  // namespace kvfit::linalg::inline KVFIT_ISA
