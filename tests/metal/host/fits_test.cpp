// SPDX-License-Identifier: MIT
// Least squares on the device, beside the same in double.
#include <Eigen/Dense>
#include <cmath>

#include "kvfit/metal/least_squares.hpp"
#include "metal/host/fixture.hpp"

using namespace host_tests;

namespace {

kvfit::matrix positive_matrix(std::mt19937& draw, kvfit::index_t rows, kvfit::index_t cols) {
  kvfit::matrix out = random_matrix(draw, rows, cols, 1.5F);
  for (kvfit::index_t k = 0; k < out.size(); ++k) out.data()[k] = std::exp(out.data()[k]);
  return out;
}

}  // namespace

TEST_CASE("Least squares on the device is that in double, at sizes beside every tile",
          "[metal][host][fits]") {
  const fresh start;
  std::mt19937 draw(21);
  for (const bool has_matrices : {true, false}) {
    const kvfit::metal::executor gpu = gpu_with(all_on_gpu(has_matrices));
    struct sizes {
      kvfit::index_t n, t, m;
    };
    for (const sizes& of :
         {sizes{40, 1, 1}, {70, 31, 3}, {90, 33, 66}, {130, 65, 1}, {200, 100, 9}}) {
      INFO(of.n << " x " << of.t << ", " << of.m);
      const kvfit::matrix x = positive_matrix(draw, of.n, of.t);
      const kvfit::matrix y = random_matrix(draw, of.n, of.m);
      const auto found = kvfit::metal::solve_least_squares(*gpu.state().gpu, x, y);
      INFO((found ? last_fault() : found.error().message()));
      REQUIRE(found);
      REQUIRE(*found);
      const Eigen::MatrixXd left = x.cast<double>();
      const Eigen::MatrixXd right = y.cast<double>();
      const Eigen::MatrixXd truth = left.colPivHouseholderQr().solve(right);
      const Eigen::MatrixXd gap = (*found)->coefficients.cast<double>() - truth;
      CHECK((left * gap).norm() <= 1e-4 * (left * truth).norm());
      CHECK(((*found)->gram.cast<double>() - left.transpose() * left).norm() <=
            1e-6 * (left.transpose() * left).norm());
    }
  }
}

TEST_CASE("Dependent columns are left to the CPU", "[metal][host][fits]") {
  const fresh start;
  std::mt19937 draw(22);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  kvfit::matrix x = positive_matrix(draw, 80, 20);
  x.col(7) = x.col(3);
  const kvfit::matrix y = random_matrix(draw, 80, 2);
  const auto found = kvfit::metal::solve_least_squares(*gpu.state().gpu, x, y);
  REQUIRE(found);
  CHECK(!*found);
  x.col(7).setZero();
  const auto zero = kvfit::metal::solve_least_squares(*gpu.state().gpu, x, y);
  REQUIRE(zero);
  CHECK(!*zero);
}
