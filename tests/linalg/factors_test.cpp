// SPDX-License-Identifier: MIT
#include <Eigen/Core>
#include <algorithm>
#include <limits>

#include "kvfit/linalg/detail/strip_qr.hpp"
#include "kvfit/linalg/detail/triangular.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg::detail;

namespace {

/// What `strip_qr` is filled with: the columns of `a`.
auto columns_of(const kvfit::matrix& a) {
  return [&a](kvfit::index_t first, kvfit::index_t width, float* to) noexcept {
    for (kvfit::index_t i = 0; i < a.rows(); ++i, to += strip_width) {
      std::copy_n(a.data() + i * a.cols() + first, width, to);
    }
  };
}

}  // namespace

TEMPLATE_TEST_CASE("a Cholesky factor and its systems give the matrix back", "[linalg][factors]",
                   float, double) {
  using rows_of = Eigen::Matrix<TestType, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const double unit = static_cast<double>(std::numeric_limits<TestType>::epsilon());
  const int size = GENERATE(1, 23, 24, 25, 48, 49, 97, 300);
  const Eigen::MatrixXd tall = oracle::gaussian(2 * size + 10, size, 1).cast<double>();
  const Eigen::MatrixXd exact = oracle::transposed_product(tall, tall);
  rows_of factor = exact.template cast<TestType>();
  REQUIRE(factor_upper(factor.data(), kvfit::index_t{size}, kvfit::index_t{size}));
  const Eigen::MatrixXd u = oracle::upper_triangle(factor.template cast<double>());
  INFO("size " << size);
  CHECK(oracle::relative_error(oracle::transposed_product(u, u), exact) < 20 * unit);
  for (const int columns : {1, 5, 17, 70}) {
    const Eigen::MatrixXd right = oracle::gaussian(size, columns, 2).cast<double>();
    rows_of x = right.template cast<TestType>();
    solve_transposed(factor.data(), kvfit::index_t{size}, kvfit::index_t{size}, x.data(),
                     kvfit::index_t{columns}, kvfit::index_t{columns});
    const Eigen::MatrixXd half = oracle::solve_upper_transposed(u, right);
    CHECK(oracle::relative_error(x.template cast<double>(), half) < 500 * unit);
    solve_upper(factor.data(), kvfit::index_t{size}, kvfit::index_t{size}, x.data(),
                kvfit::index_t{columns}, kvfit::index_t{columns});
    const Eigen::MatrixXd whole = oracle::solve_upper(u, half);
    CHECK(oracle::relative_error(x.template cast<double>(), whole) < 2000 * unit);
  }
  factor = exact.template cast<TestType>();
  factor(size - 1, size - 1) = TestType{-1};
  CHECK_FALSE(factor_upper(factor.data(), kvfit::index_t{size}, kvfit::index_t{size}));
}

TEST_CASE("a QR factor in fp32 gives the matrix back, and Q is orthogonal", "[linalg][factors]") {
  const auto n = GENERATE(50, 130, 700);
  const auto t = GENERATE(1, 15, 16, 17, 47, 48, 49, 102);
  if (t > n) return;
  kvfit::matrix a = oracle::gaussian(n, t, 3);
  if (t > 20) a.col(7) = a.col(3);
  if (t > 20) a.col(9).setZero();
  strip_qr qr(n, t);
  qr.factor(columns_of(a));
  INFO("n " << n << ", t " << t);
  const Eigen::MatrixXd r = qr.r().cast<double>();
  CHECK(oracle::distance(oracle::upper_triangle(r), r) == 0);
  kvfit::matrix back = kvfit::matrix::Zero(n, t);
  back.topRows(t) = qr.r();
  qr.apply(back.data(), kvfit::index_t{t}, kvfit::index_t{t});
  CHECK(oracle::relative_error(oracle::to_double(back), oracle::to_double(a)) < 3e-6);
  const kvfit::matrix b = oracle::gaussian(n, 150, 4);
  kvfit::matrix turned = b;
  qr.apply_transposed(turned.data(), 150, 150);
  CHECK(turned.norm() == Approx(b.norm()).epsilon(1e-5));
  qr.apply(turned.data(), 150, 150);
  CHECK(oracle::relative_error(oracle::to_double(turned), oracle::to_double(b)) < 3e-6);
}
