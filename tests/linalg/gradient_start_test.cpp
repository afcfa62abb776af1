// SPDX-License-Identifier: MIT
#include "kvfit/linalg/gradient_start.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;

TEST_CASE("gradient steps start from least squares and know the largest singular value",
          "[linalg][gradient_start]") {
  struct shape {
    Eigen::Index n;
    Eigen::Index t;
  };
  const auto [n, t] = GENERATE(shape{60, 1}, shape{60, 12}, shape{200, 100}, shape{20, 20},
                               shape{12, 30});  // the last has fewer rows than columns
  const kvfit::matrix m = oracle::exponentials(n, t, 1, 50);
  const kvfit::vector y = oracle::exponentials(n, 3 * t, 1, 51).rowwise().sum();
  const gradient_start start = find_gradient_start(m, y);
  const Eigen::MatrixXd exact = oracle::to_double(m);
  const Eigen::VectorXd target = y.cast<double>();
  const Eigen::VectorXd sigma = oracle::singular_values(exact);
  INFO(n << " x " << t << ", condition " << sigma[0] / sigma[sigma.size() - 1]);
  CHECK(start.sigma <= sigma[0] * (1 + 1e-6));
  CHECK(start.sigma >= sigma[0] * (1 - 1e-5));
  REQUIRE(start.weights.size() == t);
  const Eigen::VectorXd truth = oracle::solve_by_orthogonal(exact, target);
  CHECK(oracle::residual_norm(exact, start.weights, oracle::product(exact, truth)) <=
        1e-4 * target.norm());
}

TEST_CASE("gradient steps start as near to least squares as double goes, where columns allow it",
          "[linalg][gradient_start]") {
  const auto n = GENERATE(170, 900);
  const auto t = GENERATE(64, 150);
  const kvfit::matrix m = oracle::exponentials(n, t, 3, 52);
  const kvfit::vector y = oracle::exponentials(n, 2 * t, 3, 53).rowwise().sum();
  const Eigen::MatrixXd exact = oracle::to_double(m);
  const Eigen::VectorXd target = y.cast<double>();
  const Eigen::VectorXd truth = oracle::solve_by_qr(exact, target);
  gradient_start start;
  INFO(n << " x " << t);
  REQUIRE(detail::start_by_gram(m, y, {}, start));
  const Eigen::MatrixXd image = oracle::product(exact, truth);
  CHECK(oracle::residual_norm(exact, start.weights, image) <= 1e-6 * image.norm());
  const gradient_start found = find_gradient_start(m, y);
  CHECK(found.weights == start.weights);
  CHECK(found.sigma == start.sigma);
}

TEST_CASE("columns that nearly coincide are left to QR", "[linalg][gradient_start]") {
  kvfit::matrix m = oracle::exponentials(400, 90, 2, 54);
  m.col(50) = m.col(20) + 1e-5F * m.col(51);
  const kvfit::vector y =
      m.rowwise().sum();  // or the answer would be as large as the columns differ
  gradient_start none;
  REQUIRE_FALSE(detail::start_by_gram(m, y, {}, none));
  const gradient_start start = find_gradient_start(m, y);
  const Eigen::MatrixXd exact = oracle::to_double(m);
  const Eigen::VectorXd target = y.cast<double>();
  const Eigen::VectorXd truth = oracle::solve_by_pivoted_qr(exact, target);
  CHECK(oracle::residual_norm(exact, start.weights, oracle::product(exact, truth)) <=
        1e-4 * target.norm());
  const double sigma = oracle::singular_values(exact)[0];
  CHECK(start.sigma <= sigma * (1 + 1e-6));
  CHECK(start.sigma >= sigma * (1 - 1e-5));
  m.col(3).setZero();
  CHECK(find_gradient_start(m, y).weights.allFinite());
}

TEST_CASE("§9.9 a matrix of zeros, or with NaN, gives finite weights to start from",
          "[linalg][gradient_start]") {
  kvfit::matrix m = kvfit::matrix::Zero(8, 3);
  const kvfit::vector y = kvfit::vector::Ones(8);
  CHECK(find_gradient_start(m, y).weights.allFinite());
  m(2, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK(find_gradient_start(m, y).weights.allFinite());
}
