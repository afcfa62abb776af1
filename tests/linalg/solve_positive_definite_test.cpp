// SPDX-License-Identifier: MIT
#include "kvfit/linalg/solve_positive_definite.hpp"

#include <Eigen/Core>
#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/random_matrix.hpp"

using kvfit::double_matrix;
using kvfit::linalg::solve_positive_definite;

TEST_CASE("positive definite systems are solved where they lie, the gap beside A unread",
          "[linalg][solve_positive_definite]") {
  const Eigen::Index t = GENERATE(1, 7, 24, 25, 100);
  const Eigen::Index gap = GENERATE(0, 5);
  const Eigen::Index width = GENERATE(1, 16, 33);
  const Eigen::MatrixXd factor = oracle::to_double(kvfit_test::random_matrix(t + 10, t, 3, 1));
  const Eigen::MatrixXd a = oracle::transposed_product(factor, factor);
  const Eigen::MatrixXd b = oracle::to_double(kvfit_test::random_matrix(t, width, 4, 1));
  double_matrix system =
      double_matrix::Constant(t, t + gap + width, std::numeric_limits<double>::quiet_NaN());
  system.leftCols(t) = a;
  system.leftCols(t).triangularView<Eigen::StrictlyLower>().setConstant(1e30);
  system.rightCols(width) = b;
  REQUIRE(solve_positive_definite(system, t + gap, width));
  const Eigen::MatrixXd expected = oracle::solve_by_cholesky(a, b);
  CHECK(oracle::relative_error(system.rightCols(width), expected) <= 1e-9);
}

TEST_CASE("what is not positive definite is said to be so", "[linalg][solve_positive_definite]") {
  double_matrix system = double_matrix::Zero(30, 31);
  system.leftCols(30).setIdentity();
  system(20, 20) = -1;
  CHECK_FALSE(solve_positive_definite(system, 30, 1));
  system.leftCols(30).setIdentity();
  system(29, 29) = std::numeric_limits<double>::quiet_NaN();
  CHECK_FALSE(solve_positive_definite(system, 30, 1));
}
