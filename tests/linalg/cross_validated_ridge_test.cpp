// SPDX-License-Identifier: MIT
#include "kvfit/linalg/cross_validated_ridge.hpp"

#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"
#include "support/random_matrix.hpp"

using kvfit::linalg::cross_validated_ridge;

namespace {

/// V(λ) from its definition, H as a matrix.
double criterion(const Eigen::MatrixXd& x, const Eigen::MatrixXd& y, double lambda) {
  Eigen::MatrixXd gram = oracle::transposed_product(x, x);
  gram.diagonal().array() += lambda;
  const Eigen::MatrixXd hat = oracle::product(x, oracle::solve_by_ldlt(gram, x.transpose()));
  const auto n = static_cast<double>(x.rows());
  return n * std::pow(oracle::residual_norm(hat, y, y) / (n - hat.trace()), 2);
}

kvfit::matrix noisy(const kvfit::matrix& x, Eigen::Index d, double noise, std::uint64_t seed) {
  const kvfit::matrix truth = kvfit_test::random_matrix(x.cols(), d, seed, 1);
  return oracle::product_in_float(x, truth) +
         kvfit_test::random_matrix(x.rows(), d, seed + 1, static_cast<float>(noise));
}

}  // namespace

TEST_CASE("the ridge is the grid's best by the definition, tall and wide",
          "[linalg][cross_validated_ridge]") {
  struct shape {
    Eigen::Index n;
    Eigen::Index t;
  };
  const auto [n, t] = GENERATE(shape{60, 6}, shape{40, 30}, shape{20, 20}, shape{12, 30});
  const double noise = GENERATE(0.01, 0.3, 3.0);
  const kvfit::matrix x = oracle::exponentials(n, t, 1, 7);
  const kvfit::matrix y = noisy(x, 5, noise, 40);
  const double found = cross_validated_ridge(x, y);
  const Eigen::MatrixXd exact_x = x.cast<double>();
  const Eigen::MatrixXd exact_y = y.cast<double>();
  const double scale = exact_x.squaredNorm() / static_cast<double>(t);
  double best = std::numeric_limits<double>::infinity();
  for (int k = -16; k <= 2; ++k) {  // the definition itself loses its digits below
    best = std::min(best, criterion(exact_x, exact_y, scale * std::pow(10.0, 0.5 * k)));
  }
  INFO(n << " x " << t << ", noise " << noise << ", ridge " << found / scale << " of the scale");
  if (found > scale * 1e-8) {
    CHECK(criterion(exact_x, exact_y, found) <= best * (1 + 1e-6));
  } else {
    CHECK(criterion(exact_x, exact_y, scale * 1e-8) <= best * (1 + 1e-3));
  }
}

TEST_CASE("more noise calls for more ridge, and no noise for none",
          "[linalg][cross_validated_ridge]") {
  const kvfit::matrix x = oracle::exponentials(50, 20, 1, 9);
  CHECK(cross_validated_ridge(x, noisy(x, 8, 0.0, 60)) <= 1e-6 * x.squaredNorm() / 20);
  const double little = cross_validated_ridge(x, noisy(x, 8, 0.1, 60));
  const double much = cross_validated_ridge(x, noisy(x, 8, 10.0, 60));
  CHECK(little < much);
}

TEST_CASE("saying every row twice, in any order, scales the ridge as it does the squares",
          "[linalg][cross_validated_ridge]") {
  const kvfit::matrix x = oracle::exponentials(30, 20, 1, 12);
  const kvfit::matrix y = noisy(x, 4, 0.5, 80);
  kvfit::matrix twice_x(60, 20);
  kvfit::matrix twice_y(60, 4);
  for (Eigen::Index i = 0; i < 30; ++i) {
    for (const Eigen::Index to : {i, 59 - i}) {
      twice_x.row(to) = x.row(i);
      twice_y.row(to) = y.row(i);
    }
  }
  const double once = cross_validated_ridge(x, y);
  REQUIRE(once > 0);
  CHECK(cross_validated_ridge(twice_x, twice_y) == Approx(2 * once));
  // One equal row more is one row of twice the weight, not one more witness.
  kvfit::matrix more_x(31, 20);
  kvfit::matrix more_y(31, 4);
  more_x << x, x.row(3);
  more_y << y, y.row(3);
  kvfit::matrix heavy_x = x;
  kvfit::matrix heavy_y = y;
  heavy_x.row(3) *= std::sqrt(2.0F);
  heavy_y.row(3) *= std::sqrt(2.0F);
  CHECK(cross_validated_ridge(more_x, more_y) == Approx(cross_validated_ridge(heavy_x, heavy_y)));
}

TEST_CASE("§9.9 zeros, dependent columns and what is not finite give a finite ridge",
          "[linalg][cross_validated_ridge]") {
  kvfit::matrix x = oracle::exponentials(30, 10, 1, 11);
  const kvfit::matrix y = noisy(x, 3, 0.5, 70);
  CHECK(cross_validated_ridge(kvfit::matrix::Zero(30, 10), y) == 0);
  CHECK(cross_validated_ridge(x, kvfit::matrix::Zero(30, 3)) == 0);
  CHECK(cross_validated_ridge(x.topRows(1), y.topRows(1)) == 0);
  CHECK(cross_validated_ridge(x.leftCols(1), y) >= 0);
  kvfit::matrix padded_x = kvfit::matrix::Zero(40, 10);  // queries that see nothing
  kvfit::matrix padded_y = kvfit::matrix::Zero(40, 3);
  padded_x.middleRows(5, 30) = x;
  padded_y.middleRows(5, 30) = y;
  CHECK(cross_validated_ridge(padded_x, padded_y) == cross_validated_ridge(x, y));
  x.col(4) = x.col(3);
  const double dependent = cross_validated_ridge(x, y);
  CHECK(std::isfinite(dependent));
  CHECK(dependent >= 0);
  x(3, 3) = std::numeric_limits<float>::quiet_NaN();
  CHECK(cross_validated_ridge(x, y) == 0);
}
