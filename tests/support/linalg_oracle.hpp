// SPDX-License-Identifier: MIT
/// Reference answers for linalg: slow, in long double, written to be read.
#pragma once

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <vector>

#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/box.hpp"

namespace oracle {

using real = long double;
using real_matrix = Eigen::Matrix<real, Eigen::Dynamic, Eigen::Dynamic>;
using real_vector = Eigen::Matrix<real, Eigen::Dynamic, 1>;

inline real loss(const kvfit::matrix& m, const kvfit::vector& y, const Eigen::VectorXd& w) {
  return 0.5L * (m.cast<real>() * w.cast<real>() - y.cast<real>()).squaredNorm();
}

/// A x = b by Gaussian elimination with complete pivoting; nothing where A is singular.
inline std::optional<real_vector> solve(real_matrix a, real_vector b) {
  const Eigen::Index size = a.rows();
  std::vector<Eigen::Index> order(static_cast<std::size_t>(size));
  for (std::size_t j = 0; j < order.size(); ++j) order[j] = static_cast<Eigen::Index>(j);
  const real largest = size == 0 ? 0.0L : a.cwiseAbs().maxCoeff();
  for (Eigen::Index k = 0; k < size; ++k) {
    Eigen::Index row = 0;
    Eigen::Index column = 0;
    const real pivot = a.bottomRightCorner(size - k, size - k).cwiseAbs().maxCoeff(&row, &column);
    if (!(pivot > 1e-15L * largest)) return std::nullopt;
    a.row(k).swap(a.row(k + row));
    std::swap(b[k], b[k + row]);
    a.col(k).swap(a.col(k + column));
    std::swap(order[static_cast<std::size_t>(k)], order[static_cast<std::size_t>(k + column)]);
    for (Eigen::Index i = k + 1; i < size; ++i) {
      const real factor = a(i, k) / a(k, k);
      a.row(i) -= factor * a.row(k);
      b[i] -= factor * b[k];
    }
  }
  real_vector x(size);
  for (Eigen::Index k = size - 1; k >= 0; --k) {
    real sum = b[k];
    for (Eigen::Index j = k + 1; j < size; ++j) sum -= a(k, j) * b[j];
    b[k] = sum / a(k, k);
    x[order[static_cast<std::size_t>(k)]] = b[k];
  }
  return x;
}

/// min ‖M w − y‖² over the box by trying every way to put each weight on its lower bound, on its
/// upper one, or between: 3^t linear systems. The optimum is the best of those that stay inside.
inline real_vector bounded_by_enumeration(const kvfit::matrix& m, const kvfit::vector& y,
                                          const kvfit::linalg::box& bounds) {
  const real_matrix full = m.cast<real>();
  const real_vector target = y.cast<real>();
  const Eigen::Index t = m.cols();
  long ways = 1;
  for (Eigen::Index j = 0; j < t; ++j) ways *= 3;
  real best_loss = std::numeric_limits<real>::infinity();
  real_vector best = real_vector::Zero(t);
  for (long way = 0; way < ways; ++way) {
    real_vector w = real_vector::Zero(t);
    std::vector<Eigen::Index> free;
    bool possible = true;
    long digits = way;
    for (Eigen::Index j = 0; j < t; ++j, digits /= 3) {
      if (digits % 3 == 0) {
        free.push_back(j);
        continue;
      }
      const double bound = digits % 3 == 1 ? bounds.lower : bounds.upper;
      possible = possible && std::isfinite(bound);
      w[j] = possible ? bound : 0.0;
    }
    if (!possible) continue;
    real_matrix columns(m.rows(), static_cast<Eigen::Index>(free.size()));
    for (std::size_t k = 0; k < free.size(); ++k) {
      columns.col(static_cast<Eigen::Index>(k)) = full.col(free[k]);
    }
    const auto between =
        solve(columns.transpose() * columns, columns.transpose() * (target - full * w));
    if (!between) continue;
    for (std::size_t k = 0; k < free.size(); ++k) {
      w[free[k]] = (*between)[static_cast<Eigen::Index>(k)];
    }
    if ((w.array() < bounds.lower).any() || (w.array() > bounds.upper).any()) continue;
    const real here = (full * w - target).squaredNorm();
    if (here < best_loss) {
      best_loss = here;
      best = w;
    }
  }
  return best;
}

/// The same by moving one weight at a time to its best place, until none moves.
inline real_vector bounded_by_coordinates(const kvfit::matrix& m, const kvfit::vector& y,
                                          const kvfit::linalg::box& bounds) {
  const real_matrix full = m.cast<real>();
  real_vector w = real_vector::Constant(m.cols(), bounds.clip(0));
  real_vector residual = y.cast<real>() - full * w;
  for (int sweep = 0; sweep < 200000; ++sweep) {
    real largest_move = 0;
    for (Eigen::Index j = 0; j < w.size(); ++j) {
      const real length_sq = full.col(j).squaredNorm();
      if (length_sq == 0) continue;
      const real wished = w[j] + full.col(j).dot(residual) / length_sq;
      const real allowed = std::clamp<real>(wished, bounds.lower, bounds.upper);
      residual -= (allowed - w[j]) * full.col(j);
      largest_move = std::max(largest_move, std::abs(allowed - w[j]));
      w[j] = allowed;
    }
    if (largest_move <= 1e-14L * w.cwiseAbs().maxCoeff()) break;
  }
  return w;
}

/// min ‖X C − Y‖² + λ‖C‖² from the normal equations; X of full column rank or λ > 0.
inline real_matrix least_squares(const kvfit::matrix& x, const kvfit::matrix& y, real lambda = 0) {
  const real_matrix left = x.cast<real>();
  real_matrix square = left.transpose() * left;
  square.diagonal().array() += lambda;
  const real_matrix right = left.transpose() * y.cast<real>();
  real_matrix out(x.cols(), y.cols());
  for (Eigen::Index j = 0; j < y.cols(); ++j) out.col(j) = solve(square, right.col(j)).value();
  return out;
}

/// The smallest C with X C as near to Y as possible: a Jacobi SVD in double without the singular
/// values below `tolerance` of the largest.
inline Eigen::MatrixXd minimum_norm(const kvfit::matrix& x, const kvfit::matrix& y,
                                    double tolerance) {
  Eigen::JacobiSVD<Eigen::MatrixXd> svd(x.cast<double>(),
                                        Eigen::ComputeThinU | Eigen::ComputeThinV);
  svd.setThreshold(tolerance);
  return svd.solve(y.cast<double>());
}

inline kvfit::matrix gaussian(Eigen::Index rows, Eigen::Index columns, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> normal;
  kvfit::matrix out(rows, columns);
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index j = 0; j < columns; ++j) out(i, j) = normal(bits);
  }
  return out;
}

/// exp(score − largest of the row), as attention makes them: all positive, columns much alike
/// where `spread` is small.
inline kvfit::matrix exponentials(Eigen::Index rows, Eigen::Index columns, float spread,
                                  std::uint64_t seed) {
  const Eigen::Index width = 16;
  const kvfit::matrix queries = gaussian(rows, width, seed);
  const kvfit::matrix keys = gaussian(columns, width, seed + 1);
  kvfit::matrix scores = queries * keys.transpose() * (spread / 4);
  for (Eigen::Index i = 0; i < rows; ++i) {
    scores.row(i).array() -= scores.row(i).maxCoeff();
  }
  return scores.array().exp();
}

}  // namespace oracle
