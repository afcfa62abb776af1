// SPDX-License-Identifier: MIT
#include "kvfit/linalg/gram.hpp"

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;
using oracle::exact_transposed_product;
using oracle::largest_share;

TEST_CASE("both Gram sides and the moment agree with long double products", "[linalg][gram]") {
  const auto n = GENERATE(1, 7, 255, 256, 257, 520);
  const auto t = GENERATE(1, 5, 130);
  const kvfit::matrix m = oracle::gaussian(n, t, 1);
  const kvfit::vector y = oracle::gaussian(n, 1, 2);
  INFO("n " << n << ", t " << t);
  CHECK(largest_share(gram(m), exact_transposed_product(m, m)) < 1e-14);
  CHECK(largest_share(row_gram(m), exact_transposed_product(m.transpose(), m.transpose())) < 1e-14);
  const Eigen::VectorXd wide = y.cast<double>();
  CHECK(largest_share(moment(m, wide.data()), exact_transposed_product(m, y)) < 1e-14);
  const kvfit::matrix narrow = oracle::gaussian(n, 3, 20);
  const kvfit::double_matrix sides = narrow.cast<double>();
  CHECK(largest_share(moment(m, sides), exact_transposed_product(m, narrow)) < 1e-14);
  CHECK(gram(m) == gram(m).transpose());
  CHECK(row_gram(m) == row_gram(m).transpose());
}

TEST_CASE("row factors act as if the rows had been scaled beforehand", "[linalg][gram]") {
  const kvfit::matrix m = oracle::gaussian(300, 9, 3);
  const kvfit::vector y = oracle::gaussian(300, 1, 4);
  std::vector<double> scale(300);
  for (std::size_t i = 0; i < scale.size(); ++i)
    scale[i] = std::ldexp(1.0, static_cast<int>(i % 5));
  kvfit::matrix scaled = m;
  kvfit::vector target = y;
  for (Eigen::Index i = 0; i < 300; ++i) {  // powers of two: exact in fp32
    scaled.row(i) *= static_cast<float>(scale[static_cast<std::size_t>(i)]);
    target[i] *= static_cast<float>(scale[static_cast<std::size_t>(i)]);
  }
  const normal_equations by_factor = form_normal_equations(m, y, scale);
  const normal_equations beforehand = form_normal_equations(scaled, target);
  CHECK(by_factor.gram == beforehand.gram);
  CHECK(by_factor.moment == beforehand.moment);
  CHECK(by_factor.target_sq == beforehand.target_sq);
}

TEST_CASE("a Gram matrix brought up to date is the one made anew", "[linalg][gram]") {
  const kvfit::index_t n = GENERATE(1, 40, 700);
  const std::vector<kvfit::index_t> changed =
      GENERATE(std::vector<kvfit::index_t>{}, std::vector<kvfit::index_t>{3},
               std::vector<kvfit::index_t>{0, 5, 6, 89}, std::vector<kvfit::index_t>{2, 4, 17, 50});
  CAPTURE(n, changed.size());
  kvfit::matrix m = oracle::gaussian(n, 90, 8);
  std::vector<double> scale(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < scale.size(); ++i) scale[i] = 0.1 + static_cast<double>(i % 7);
  Eigen::MatrixXd updated = gram(m, scale);
  const kvfit::matrix other = oracle::gaussian(n, 90, 9);
  for (const kvfit::index_t column : changed) m.col(column) = other.col(column);
  update_gram(m, scale, changed, updated.data());
  const Eigen::MatrixXd anew = gram(m, scale);
  CHECK((updated - anew).norm() <= 1e-14 * anew.norm());
  CHECK(updated == updated.transpose());
}

TEST_CASE("the normal equations give the loss of any weights", "[linalg][gram]") {
  const kvfit::matrix m = oracle::gaussian(50, 6, 5);
  const kvfit::vector y = oracle::gaussian(50, 1, 6);
  const Eigen::VectorXd w = oracle::gaussian(6, 1, 7).cast<double>();
  const normal_equations problem = form_normal_equations(m, y);
  const Eigen::VectorXd image = oracle::product(problem.gram, w);
  const double loss = 0.5 * w.dot(image) - problem.moment.dot(w) + 0.5 * problem.target_sq;
  CHECK(loss == Approx(oracle::loss(m, y, w)).epsilon(1e-12));
}

TEST_CASE("strided rows and double right-hand sides are read in place", "[linalg][gram]") {
  const kvfit::matrix wide = oracle::gaussian(20, 12, 8);
  const kvfit::matrix copied = wide.middleCols(3, 4);
  const Eigen::VectorXd y = oracle::gaussian(20, 1, 9).cast<double>();
  CHECK(gram(wide.middleCols(3, 4)) == gram(copied));
  CHECK(row_gram(wide.middleCols(3, 4)) == row_gram(copied));
  CHECK(moment(wide.middleCols(3, 4), y.data()) == moment(copied, y.data()));
  const kvfit::double_matrix sides = y;
  CHECK(moment(wide.middleCols(3, 4), sides) == moment(copied, sides));
}

TEST_CASE("§9.9 norms of 1e±18 neither overflow nor vanish in the Gram matrix", "[linalg][gram]") {
  for (const float scale : {1e-18F, 1e18F}) {
    const kvfit::matrix m = scale * oracle::gaussian(40, 5, 10);
    const Eigen::MatrixXd products = gram(m);
    CHECK(products.allFinite());
    CHECK(products.diagonal().minCoeff() > 0);
  }
}

TEST_CASE("empty matrices have empty products", "[linalg][gram]") {
  CHECK(gram(kvfit::matrix(0, 3)) == Eigen::MatrixXd::Zero(3, 3));
  CHECK(gram(kvfit::matrix(3, 0)).size() == 0);
  CHECK(row_gram(kvfit::matrix(3, 0)) == Eigen::MatrixXd::Zero(3, 3));
  CHECK(form_normal_equations(kvfit::matrix(0, 2), kvfit::vector(0)).target_sq == 0);
}
