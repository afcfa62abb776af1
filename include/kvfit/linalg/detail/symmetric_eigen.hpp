// SPDX-License-Identifier: MIT
/// Eigenvalues of a symmetric matrix, and a matrix turned into the basis of its eigenvectors.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/detail/triangular_vector.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// A rotation of two neighbouring rows.
struct row_rotation {
  double cosine = 1;
  double sine = 0;
};

/// Rotates the rows top, …, top + count of B in pairs from the last one up: with x = row i and
/// y = row i + 1, row i + 1 ← s x + c y and row i ← c x − s y, by the rotation i − top.
inline void rotate_rows(double_matrix& b, index_t top, index_t count,
                        const row_rotation* rotations) noexcept {
  constexpr index_t step = simd::lanes64;
  const index_t cols = b.cols();
  double* last = b.data() + (top + count) * cols;
  index_t first = 0;
  for (; first + 4 * step <= cols; first += 4 * step) {
    double* row = last + first;
    // The lower row of the next pair stays in registers, named one by one so that it does.
    auto y0 = simd::load(row);
    auto y1 = simd::load(row + step);
    auto y2 = simd::load(row + 2 * step);
    auto y3 = simd::load(row + 3 * step);
    for (index_t k = count - 1; k >= 0; --k, row -= cols) {
      const simd::batch64 c(rotations[k].cosine);
      const simd::batch64 s(rotations[k].sine);
      const double* above = row - cols;
      const auto x0 = simd::load(above);
      const auto x1 = simd::load(above + step);
      const auto x2 = simd::load(above + 2 * step);
      const auto x3 = simd::load(above + 3 * step);
      simd::store(row, simd::multiply_add(s, x0, c * y0));
      simd::store(row + step, simd::multiply_add(s, x1, c * y1));
      simd::store(row + 2 * step, simd::multiply_add(s, x2, c * y2));
      simd::store(row + 3 * step, simd::multiply_add(s, x3, c * y3));
      y0 = simd::multiply_add(c, x0, -(s * y0));
      y1 = simd::multiply_add(c, x1, -(s * y1));
      y2 = simd::multiply_add(c, x2, -(s * y2));
      y3 = simd::multiply_add(c, x3, -(s * y3));
    }
    simd::store(row, y0);
    simd::store(row + step, y1);
    simd::store(row + 2 * step, y2);
    simd::store(row + 3 * step, y3);
  }
  for (; first < cols; first += step) {
    const index_t some = (std::min)(step, cols - first);
    double* row = last + first;
    auto y = simd::load_first(row, some, 0.0);
    for (index_t k = count - 1; k >= 0; --k, row -= cols) {
      const simd::batch64 c(rotations[k].cosine);
      const simd::batch64 s(rotations[k].sine);
      const auto x = simd::load_first(row - cols, some, 0.0);
      simd::store_first(row, simd::multiply_add(s, x, c * y), some);
      y = simd::multiply_add(c, x, -(s * y));
    }
    simd::store_first(row, y, some);
  }
}

/// A = Q T Qᵀ by reflections (Golub & Van Loan 2013, algorithm 8.3.1), T tridiagonal, `diagonal`
/// and `beside` its entries, and B ← QᵀB. Reads and overwrites the lower triangle of A.
inline void tridiagonalise(Eigen::MatrixXd& a, double_matrix& b, Eigen::VectorXd& diagonal,
                           Eigen::VectorXd& beside) {
  const index_t size = a.rows();
  const index_t cols = b.cols();
  Eigen::VectorXd image(size);
  Eigen::VectorXd onto(cols);
  for (index_t k = 0; k < size; ++k) {
    diagonal[k] = a(k, k);
    if (k + 1 == size) break;
    // v, the part of column k below the diagonal, is reflected onto its first entry. The lower
    // triangle by columns is the upper one by rows.
    const index_t rest = size - k - 1;
    double* v = a.data() + k * size + k + 1;
    const double outside = simd::squared_norm(v + 1, rest - 1);
    beside[k] = v[0];
    if (!(outside > (std::numeric_limits<double>::min)())) continue;  // else 2 / ‖v‖² may overflow
    const double length = std::sqrt(v[0] * v[0] + outside);
    beside[k] = v[0] > 0 ? -length : length;
    v[0] -= beside[k];
    const double factor = -1 / (beside[k] * v[0]);  // 2 / ‖v‖²
    // A ← (I − f v vᵀ) A (I − f v vᵀ) = A − v wᵀ − w vᵀ, w = f A v − (f²/2)(vᵀA v) v.
    double* corner = a.data() + (k + 1) * (size + 1);
    double* w = image.data();
    multiply_symmetric(corner, size, rest, v, w);
    const double along = 0.5 * factor * simd::dot(v, w, rest);
    simd::add_scaled(w, -along, v, rest);
    simd::scale(w, factor, rest);
    for (index_t i = 0; i < rest; ++i) {
      double* row = corner + i * size;
      const simd::batch64 by_w(-v[i]);
      const simd::batch64 by_v(-w[i]);
      index_t j = i;
      for (; j + simd::lanes64 <= rest; j += simd::lanes64) {
        const auto once = simd::multiply_add(by_w, simd::load(w + j), simd::load(row + j));
        simd::store(row + j, simd::multiply_add(by_v, simd::load(v + j), once));
      }
      for (; j < rest; ++j) row[j] -= v[i] * w[j] + w[i] * v[j];
    }
    // B ← (I − f v vᵀ) B.
    double* rows = b.data() + (k + 1) * cols;
    std::fill_n(onto.data(), cols, 0.0);
    for (index_t i = 0; i < rest; ++i) simd::add_scaled(onto.data(), v[i], rows + i * cols, cols);
    for (index_t i = 0; i < rest; ++i) {
      simd::add_scaled(rows + i * cols, -factor * v[i], onto.data(), cols);
    }
  }
}

/// A = V diag(values) Vᵀ for the symmetric A, size × size, whose lower triangle alone is read and
/// used up; B ← VᵀB, B of `size` rows, so that row k of it belongs to values[k]; values are in no
/// order. False where A is not finite or the iteration does not end: then both are of no use.
///
/// Reflections to a tridiagonal matrix, then implicit QL steps with Wilkinson's shift (Golub & Van
/// Loan 2013, §8.3). Errors are some ε₆₄ ‖A‖. Cost 4/3 size³ + 8 size² cols
/// flops; allocates 5 · size + cols doubles.
[[nodiscard]] inline bool diagonalise(Eigen::MatrixXd& a, Eigen::VectorXd& values,
                                      double_matrix& b) {
  constexpr double unit = std::numeric_limits<double>::epsilon();
  constexpr int most_steps = 60;  // for one eigenvalue; two or three are the rule
  const index_t size = a.rows();
  assert(a.cols() == size && b.rows() == size);
  values.resize(size);
  // In units of a power of two, so that squares stay within double.
  double largest = 0;
  for (index_t k = 0; k < size; ++k) {
    const double* column = a.data() + k * size + k;
    if (!simd::all_finite(column, size - k)) return false;
    largest = (std::max)(largest, simd::largest_size(column, size - k));
  }
  const int exponent = largest > 0 ? std::clamp(std::ilogb(largest), -1000, 1000) : 0;
  for (index_t k = 0; k < size; ++k) {
    simd::scale(a.data() + k * (size + 1), std::ldexp(1.0, -exponent), size - k);
  }
  Eigen::VectorXd beside(size);
  tridiagonalise(a, b, values, beside);
  double* d = values.data();
  double* e = beside.data();  // e_k beside d_k and d_{k+1}
  double scale = 0;
  for (index_t k = 0; k < size; ++k) {
    scale = (std::max)(scale, std::abs(d[k]) + (k + 1 < size ? std::abs(e[k]) : 0.0));
  }
  std::vector<row_rotation> rotations(static_cast<std::size_t>(size));
  for (index_t first = 0; first < size; ++first) {
    for (int step = 0;; ++step) {
      index_t last = first;  // of the block that begins with `first`
      while (last + 1 < size && std::abs(e[last]) > unit * scale) ++last;
      if (last == first) break;
      if (step == most_steps) return false;
      // The eigenvalue of the block's upper 2 × 2 corner that is nearer to its first entry.
      const double half = 0.5 * (d[first + 1] - d[first]);
      const double reach = half + std::copysign(std::hypot(half, e[first]), half);
      const double shift = d[first] - e[first] / reach * e[first];
      // Chase a bulge from the bottom of the block to its top.
      double x = d[last] - shift;
      double z = e[last - 1];
      for (index_t k = last - 1; k >= first; --k) {
        const double r = std::hypot(x, z);
        const double c = r > 0 ? x / r : 1;
        const double s = r > 0 ? z / r : 0;
        rotations[static_cast<std::size_t>(k - first)] = {c, s};
        if (k + 1 < last) e[k + 1] = r;
        // The 2 × 2 block of rows k and k + 1, turned so that its trace stays.
        const double moved = s * (d[k] - d[k + 1]) + 2 * c * e[k];
        d[k] -= s * moved;
        d[k + 1] += s * moved;
        e[k] = c * moved - e[k];
        if (k > first) {
          x = e[k];
          z = s * e[k - 1];
          e[k - 1] *= c;
        }
      }
      rotate_rows(b, first, last - first, rotations.data());
    }
  }
  simd::scale(d, std::ldexp(1.0, exponent), size);
  return true;
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
