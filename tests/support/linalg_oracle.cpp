// SPDX-License-Identifier: MIT
#include "support/linalg_oracle.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <vector>

namespace oracle {

namespace {

using real = long double;
using real_vector = Eigen::Matrix<real, Eigen::Dynamic, 1>;

real_matrix to_real(const kvfit::matrix& a) {
  return a.cast<real>();
}

real_matrix transposed_times(const real_matrix& a, const real_matrix& b) {
  return a.transpose() * b;
}

real_vector times(const real_matrix& a, const real_vector& w) {
  return a * w;
}

/// A x = b by Gaussian elimination with complete pivoting; nothing where A is singular.
std::optional<real_vector> solve(real_matrix a, real_vector b) {
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

}  // namespace

double loss(const kvfit::matrix& m, const kvfit::vector& y, const Eigen::VectorXd& w) {
  const real_vector residual = times(to_real(m), w.cast<real>()) - y.cast<real>();
  return static_cast<double>(0.5L * residual.squaredNorm());
}

real_matrix exact_transposed_product(const kvfit::matrix& a, const kvfit::matrix& b) {
  return transposed_times(to_real(a), to_real(b));
}

double largest_share(const Eigen::MatrixXd& found, const real_matrix& truth) {
  if (truth.size() == 0) return 0;
  const auto scale = std::max<real>(truth.cwiseAbs().maxCoeff(), 1e-300L);
  return static_cast<double>((found.cast<real>() - truth).cwiseAbs().maxCoeff() / scale);
}

double worst_violation(const kvfit::matrix& m, const kvfit::vector& y, const Eigen::VectorXd& w,
                       const kvfit::linalg::box& bounds) {
  const real_matrix full = to_real(m);
  const real_vector residual = times(full, w.cast<real>()) - y.cast<real>();
  const real_vector gradient = transposed_times(full, residual);
  const real_vector moment = transposed_times(full, y.cast<real>());
  real scale = moment.cwiseAbs().maxCoeff();
  const real_vector floor =
      transposed_times(full, full.rowwise().sum()) * static_cast<real>(bounds.lower);
  if (std::isfinite(bounds.lower)) scale = std::max(scale, floor.cwiseAbs().maxCoeff());
  real worst = 0;
  for (Eigen::Index j = 0; j < w.size(); ++j) {
    if (w[j] > bounds.lower && w[j] < bounds.upper) worst = std::max(worst, std::abs(gradient[j]));
    if (w[j] == bounds.lower && w[j] < bounds.upper) worst = std::max(worst, -gradient[j]);
    if (w[j] == bounds.upper && w[j] > bounds.lower) worst = std::max(worst, gradient[j]);
  }
  return static_cast<double>(scale > 0 ? worst / scale : worst);
}

Eigen::VectorXd bounded_by_enumeration(const kvfit::matrix& m, const kvfit::vector& y,
                                       const kvfit::linalg::box& bounds) {
  const real_matrix full = to_real(m);
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
    const real_vector rest = target - times(full, w);
    const auto between = solve(transposed_times(columns, columns), transposed_times(columns, rest));
    if (!between) continue;
    for (std::size_t k = 0; k < free.size(); ++k) {
      w[free[k]] = (*between)[static_cast<Eigen::Index>(k)];
    }
    if ((w.array() < bounds.lower).any() || (w.array() > bounds.upper).any()) continue;
    const real here = (times(full, w) - target).squaredNorm();
    if (here < best_loss) {
      best_loss = here;
      best = w;
    }
  }
  return best.cast<double>();
}

Eigen::VectorXd bounded_by_coordinates(const kvfit::matrix& m, const kvfit::vector& y,
                                       const kvfit::linalg::box& bounds) {
  const real_matrix full = to_real(m);
  real_vector w = real_vector::Constant(m.cols(), bounds.clip(0));
  real_vector residual = y.cast<real>() - times(full, w);
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
  return w.cast<double>();
}

Eigen::MatrixXd least_squares(const kvfit::matrix& x, const kvfit::matrix& y, long double lambda) {
  const real_matrix left = to_real(x);
  real_matrix square = transposed_times(left, left);
  square.diagonal().array() += lambda;
  const real_matrix right = transposed_times(left, to_real(y));
  Eigen::MatrixXd out(x.cols(), y.cols());
  for (Eigen::Index j = 0; j < y.cols(); ++j) {
    out.col(j) = solve(square, right.col(j)).value().cast<double>();
  }
  return out;
}

kvfit::matrix gaussian(Eigen::Index rows, Eigen::Index columns, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> normal;
  kvfit::matrix out(rows, columns);
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index j = 0; j < columns; ++j) out(i, j) = normal(bits);
  }
  return out;
}

kvfit::matrix exponentials(Eigen::Index rows, Eigen::Index columns, float spread,
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
