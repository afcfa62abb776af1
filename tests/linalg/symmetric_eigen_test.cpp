// SPDX-License-Identifier: MIT
#include "kvfit/linalg/detail/symmetric_eigen.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

namespace {

using kvfit::double_matrix;
using kvfit::index_t;
using kvfit::linalg::detail::diagonalise;

struct eigen_pairs {
  Eigen::VectorXd values;
  double_matrix vectors;  // a row each
};

/// What `diagonalise` says of A, of which it is given the lower triangle alone.
eigen_pairs pairs_of(const Eigen::MatrixXd& a) {
  Eigen::MatrixXd half = a;
  half.triangularView<Eigen::StrictlyUpper>().setConstant(std::numeric_limits<double>::quiet_NaN());
  eigen_pairs out{{}, double_matrix::Identity(a.rows(), a.rows())};
  REQUIRE(diagonalise(half, out.values, out.vectors));
  REQUIRE(out.values.size() == a.rows());
  return out;
}

/// A = V diag(values) Vᵀ with an orthonormal V, and the values are those that Eigen finds.
void check_pairs(const Eigen::MatrixXd& a) {
  const index_t size = a.rows();
  const eigen_pairs found = pairs_of(a);
  const Eigen::MatrixXd v = found.vectors;
  const double unit = std::numeric_limits<double>::epsilon();
  const double scale = a.cwiseAbs().rowwise().sum().maxCoeff();
  const auto many = static_cast<double>(size);
  const Eigen::MatrixXd turned = v.transpose();
  const Eigen::MatrixXd again = oracle::scaled_product(turned, found.values, turned);
  INFO("size " << size << ", scale " << scale);
  CHECK(oracle::largest_difference(again, a) <= 8 * many * unit * scale);
  CHECK(oracle::largest_difference(oracle::transposed_product(turned, turned),
                                   Eigen::MatrixXd::Identity(size, size)) <= 8 * many * unit);
  Eigen::VectorXd values = found.values;
  std::sort(values.begin(), values.end());
  CHECK(oracle::largest_difference(values, oracle::eigenvalues(a)) <= 8 * many * unit * scale);
}

Eigen::MatrixXd symmetric(index_t size, std::uint64_t seed) {
  const Eigen::MatrixXd any = oracle::to_double(oracle::gaussian(size, size, seed));
  return any + any.transpose();
}

}  // namespace

TEST_CASE("eigenvectors are orthonormal and give the symmetric matrix back, at every size",
          "[linalg][eigen]") {
  const index_t size = GENERATE(range<index_t>(1, 20), 31, 32, 33, 64, 97, 150, 300);
  check_pairs(symmetric(size, static_cast<std::uint64_t>(size)));
}

TEST_CASE("eigenvalues that are equal, zero, graded or of both signs are found",
          "[linalg][eigen]") {
  check_pairs(Eigen::MatrixXd::Zero(7, 7));
  check_pairs(3 * Eigen::MatrixXd::Identity(9, 9));
  check_pairs(Eigen::MatrixXd::Constant(12, 12, 0.25));  // one direction, eleven of length 0
  Eigen::MatrixXd blocks = Eigen::MatrixXd::Zero(10, 10);
  blocks.topLeftCorner(5, 5) = symmetric(5, 1);
  blocks.bottomRightCorner(5, 5) = blocks.topLeftCorner(5, 5);  // each value twice
  check_pairs(blocks);
  const Eigen::MatrixXd low = oracle::to_double(oracle::gaussian(80, 20, 2));
  check_pairs(oracle::product(low, low.transpose()));  // 60 values are noise
  for (const double step : {0.7, -0.7}) {  // from 1 down to 1e-21, and the other way around
    Eigen::MatrixXd graded = symmetric(30, 3);
    for (index_t i = 0; i < 30; ++i) {
      for (index_t j = 0; j < 30; ++j) {
        graded(i, j) *= std::pow(10, -0.5 * step * static_cast<double>(i + j));
      }
    }
    check_pairs(graded);
  }
  Eigen::MatrixXd chain = Eigen::MatrixXd::Zero(40, 40);  // tridiagonal, zero diagonal: ± pairs
  for (index_t i = 0; i + 1 < 40; ++i) chain(i, i + 1) = chain(i + 1, i) = 1;
  check_pairs(chain);
}

TEST_CASE("lengths of 1e±140 neither overflow nor vanish in an eigenproblem", "[linalg][eigen]") {
  check_pairs(1e140 * symmetric(20, 4));
  check_pairs(1e-140 * symmetric(20, 4));
}

TEST_CASE("a right-hand side is turned as the eigenvectors are", "[linalg][eigen]") {
  for (const index_t cols : {1, 3, 8, 37, 70}) {
    const Eigen::MatrixXd a = symmetric(25, 5);
    const double_matrix b = oracle::gaussian(25, cols, 6).cast<double>();
    const eigen_pairs found = pairs_of(a);
    Eigen::MatrixXd square = a;
    Eigen::VectorXd values;
    double_matrix turned = b;
    REQUIRE(diagonalise(square, values, turned));
    CHECK(values == found.values);
    CHECK(oracle::residual_norm(found.vectors, b, turned) <= 1e-13 * b.norm());
  }
}

TEST_CASE("an eigenproblem without rows is done, one that is not finite is not",
          "[linalg][eigen]") {
  Eigen::MatrixXd none(0, 0);
  double_matrix nothing(0, 3);
  Eigen::VectorXd values;
  CHECK(diagonalise(none, values, nothing));
  CHECK(values.size() == 0);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Eigen::MatrixXd a = symmetric(6, 7);
    a(4, 2) = bad;
    double_matrix b = double_matrix::Identity(6, 6);
    CHECK_FALSE(diagonalise(a, values, b));
  }
}

TEST_CASE("columns whose lengths below the diagonal are subnormal are left as they are",
          "[linalg][symmetric_eigen]") {
  Eigen::MatrixXd a = Eigen::Vector4d(1.5, 1e-160, 2e-160, 3e-160).asDiagonal();
  for (Eigen::Index i = 1; i < 4; ++i) a(i, 0) = a(0, i) = 1e-157;  // whose square is subnormal
  const eigen_pairs found = pairs_of(a);
  CHECK(found.values.allFinite());
  CHECK(found.vectors.allFinite());
  CHECK(found.values.maxCoeff() == Approx(1.5));
}
