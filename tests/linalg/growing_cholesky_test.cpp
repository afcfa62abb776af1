// SPDX-License-Identifier: MIT
#include "kvfit/linalg/growing_cholesky.hpp"

#include <limits>
#include <vector>

#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/growing_qr.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;
using oracle::growing_qr;

namespace {

/// The columns of `m`, each contiguous.
Eigen::MatrixXf by_columns(const kvfit::matrix& m) {
  return m;
}

}  // namespace

TEST_CASE("growing by products equals refitting from scratch", "[linalg][growing_cholesky]") {
  const float spread = GENERATE(1.0F, 0.3F);  // the smaller, the more alike the columns
  const Eigen::MatrixXf m = by_columns(oracle::exponentials(90, 24, spread, 1));
  const kvfit::vector y = oracle::gaussian(90, 1, 2);
  growing_cholesky fit(90, 24);
  growing_qr plain(90, 24);
  fit.set_target(y.cast<double>());
  plain.set_target(y);
  Eigen::VectorXd w;
  Eigen::VectorXd residual;
  for (Eigen::Index t = 1; t <= 24; ++t) {
    REQUIRE(fit.append(m.col(t - 1).data()));
    REQUIRE(plain.append(m.col(t - 1)));
    const Eigen::MatrixXd truth = oracle::least_squares(m.leftCols(t), y);
    fit.solve_into(w);
    INFO("t " << t << ", condition at least " << plain.diagonal_ratio());
    CHECK(oracle::distance(w, truth) <= 1e-14 * 300 * plain.diagonal_ratio() * w.norm());
    fit.residual_into(w, residual);
    const Eigen::MatrixXd image = oracle::product(m.leftCols(t).cast<double>(), w);
    CHECK(oracle::distance(residual, y.cast<double>() - image) < 1e-11);
    CHECK(residual.norm() == Approx(plain.residual_norm()).epsilon(1e-10));
  }
}

TEST_CASE("columns that are nearly dependent keep the residual of QR",
          "[linalg][growing_cholesky]") {
  // Condition 1e5 and more: the products alone would leave a weight six digits.
  const Eigen::MatrixXf m = by_columns(oracle::exponentials(300, 80, 0.05F, 3));
  const kvfit::vector y = oracle::exponentials(300, 500, 0.05F, 4).rowwise().sum();
  growing_cholesky fit(300, 80);
  growing_qr plain(300, 80);
  fit.set_target(y.cast<double>());
  plain.set_target(y);
  for (Eigen::Index j = 0; j < 80; ++j) {
    CHECK(fit.append(m.col(j).data()) == plain.append(m.col(j)));
  }
  Eigen::VectorXd w;
  Eigen::VectorXd residual;
  fit.solve_into(w);
  fit.residual_into(w, residual);
  INFO("condition at least " << plain.diagonal_ratio() << ", residual " << residual.norm());
  CHECK(plain.diagonal_ratio() > 1e3);
  CHECK(residual.norm() <= plain.residual_norm() * (1 + 1e-6));
}

TEST_CASE("§9.9 dependent columns get coefficient zero, and so do those that are no numbers",
          "[linalg][growing_cholesky]") {
  Eigen::MatrixXf m = by_columns(oracle::gaussian(40, 8, 5));
  m.col(2) = m.col(0);
  m.col(4).setZero();
  m.col(5) = 2 * m.col(1) - m.col(3);
  m(7, 6) = std::numeric_limits<float>::quiet_NaN();
  const kvfit::vector y = oracle::gaussian(40, 1, 6);
  growing_cholesky fit(40, 8);
  fit.set_target(y.cast<double>());
  std::vector<bool> independent;
  for (Eigen::Index j = 0; j < 8; ++j) independent.push_back(fit.append(m.col(j).data()));
  CHECK(independent == std::vector<bool>{true, true, false, true, false, false, false, true});
  CHECK(fit.size() == 8);
  CHECK(fit.rank() == 4);
  Eigen::VectorXd w;
  fit.solve_into(w);
  REQUIRE(w.allFinite());
  for (const Eigen::Index j : {2, 4, 5, 6}) CHECK(w[j] == 0);
  Eigen::VectorXd residual;
  fit.residual_into(w, residual);
  for (const Eigen::Index j : {0, 1, 3, 7}) {
    CHECK(std::abs(m.col(j).cast<double>().dot(residual)) <= 1e-12 * m.col(j).norm() * y.norm());
  }
}

TEST_CASE("columns that come together are columns that come one by one",
          "[linalg][growing_cholesky]") {
  Eigen::MatrixXf m = by_columns(oracle::exponentials(70, 31, 0.5F, 8));
  m.col(6) = m.col(2);                                // dependent, within a block
  m(3, 9) = std::numeric_limits<float>::quiet_NaN();  // no number, within a block
  const kvfit::vector y = oracle::gaussian(70, 1, 9);
  kvfit::thread_pool pool(3);
  growing_cholesky together(70, 31, growing_cholesky::default_rank_tolerance, pool);
  growing_cholesky single(70, 31);
  together.set_target(y.cast<double>());
  single.set_target(y.cast<double>());
  Eigen::VectorXd w;
  Eigen::VectorXd expected;
  Eigen::Index size = 0;
  for (const Eigen::Index count : {1, 7, 4, 0, 9, 3, 7}) {
    together.append(m.col(size).data(), count);
    for (Eigen::Index c = 0; c < count; ++c) single.append(m.col(size + c).data());
    size += count;
    REQUIRE(together.size() == size);
    REQUIRE(together.rank() == single.rank());
    together.solve_into(w);
    single.solve_into(expected);
    CHECK(oracle::relative_error(w, expected) <= 1e-9);
  }
  CHECK(together.rank() == 29);
  together.append(nullptr, 0);  // nothing more fits, and nothing more comes
  CHECK(together.size() == 31);
}

TEST_CASE("solutions are as good as QR's whether they are improved or not",
          "[linalg][growing_cholesky]") {
  // Bumps that overlap: no pivot is small, but the inverse of the factor grows with their number.
  const Eigen::Index count = GENERATE(5, 20, 60);
  const double width = GENERATE(1.0, 2.5, 3.5);
  Eigen::MatrixXf m(260, count);
  for (Eigen::Index j = 0; j < count; ++j) {
    for (Eigen::Index i = 0; i < m.rows(); ++i) {
      const double off = (static_cast<double>(i) - 4.0 * static_cast<double>(j) - 8) / (2 * width);
      m(i, j) = static_cast<float>(std::exp(-off * off));
    }
  }
  const kvfit::vector y = oracle::gaussian(260, 1, 12);
  growing_cholesky fit(260, count);
  fit.set_target(y.cast<double>());
  fit.append(m.data(), count);
  REQUIRE(fit.rank() == count);
  Eigen::VectorXd w;
  fit.solve_into(w);
  CHECK(oracle::relative_error(w, oracle::least_squares(m, y)) <= 1e-8);
}

TEST_CASE("no byte depends on the threads that share the products",
          "[linalg][growing_cholesky][threads]") {
  const Eigen::MatrixXf m = by_columns(oracle::exponentials(1200, 200, 0.5F, 10));
  const kvfit::vector y = oracle::gaussian(1200, 1, 11);
  kvfit::thread_pool pool(3);
  growing_cholesky alone(1200, 200);
  growing_cholesky shared(1200, 200, growing_cholesky::default_rank_tolerance, pool);
  Eigen::VectorXd expected[2];
  Eigen::VectorXd got[2];
  for (growing_cholesky* fit : {&alone, &shared}) {
    auto& out = fit == &alone ? expected : got;
    fit->set_target(y.cast<double>());
    fit->append(m.data(), 197);
    fit->append(m.col(197).data(), 3);
    fit->solve_into(out[0]);
    fit->residual_into(out[0], out[1]);
  }
  CHECK(got[0] == expected[0]);
  CHECK(got[1] == expected[1]);
}

TEST_CASE("no more columns count than there are rows", "[linalg][growing_cholesky]") {
  const Eigen::MatrixXf m = by_columns(oracle::gaussian(5, 9, 7));
  const kvfit::vector y = oracle::gaussian(5, 1, 8);
  growing_cholesky fit(5, 9);
  fit.set_target(y.cast<double>());
  for (Eigen::Index j = 0; j < 9; ++j) CHECK(fit.append(m.col(j).data()) == (j < 5));
  Eigen::VectorXd w;
  Eigen::VectorXd residual;
  fit.solve_into(w);
  fit.residual_into(w, residual);
  CHECK(residual.norm() <= 1e-9 * y.norm());
}

TEST_CASE("keeping some columns is growing from these alone", "[linalg][growing_cholesky]") {
  const Eigen::MatrixXf m = by_columns(oracle::exponentials(60, 12, 1, 9));
  const kvfit::vector y = oracle::gaussian(60, 1, 10);
  growing_cholesky fit(60, 12);
  fit.set_target(y.cast<double>());
  for (Eigen::Index j = 0; j < 12; ++j) fit.append(m.col(j).data());
  const std::vector<Eigen::Index> kept = {0, 3, 4, 9, 11};
  fit.keep(kept);
  growing_cholesky alone(60, 12);
  alone.set_target(y.cast<double>());
  for (const Eigen::Index j : kept) alone.append(m.col(j).data());
  REQUIRE(fit.size() == 5);
  Eigen::VectorXd a;
  Eigen::VectorXd b;
  fit.solve_into(a);
  alone.solve_into(b);
  CHECK(a == b);  // to the last bit
  fit.append(m.col(1).data());
  CHECK(fit.size() == 6);
}

TEST_CASE("a new target is fitted by the columns there are", "[linalg][growing_cholesky]") {
  const Eigen::MatrixXf m = by_columns(oracle::exponentials(50, 7, 1, 11));
  const Eigen::VectorXd first = oracle::gaussian(50, 1, 12).cast<double>();
  const Eigen::VectorXd second = oracle::gaussian(50, 1, 13).cast<double>();
  growing_cholesky fit(50, 7);
  growing_cholesky later(50, 7);
  fit.set_target(second);
  later.set_target(first);
  for (Eigen::Index j = 0; j < 7; ++j) {
    fit.append(m.col(j).data());
    later.append(m.col(j).data());
  }
  later.set_target(second);
  Eigen::VectorXd a;
  Eigen::VectorXd b;
  fit.solve_into(a);
  later.solve_into(b);
  CHECK(oracle::relative_error(b, a) <= 1e-11);
}

TEST_CASE("nothing appended, or no rows at all, solves to nothing", "[linalg][growing_cholesky]") {
  growing_cholesky none(3, 2);
  none.set_target(Eigen::Vector3d(1, 2, 3));
  Eigen::VectorXd w;
  Eigen::VectorXd residual;
  none.solve_into(w);
  none.residual_into(w, residual);
  CHECK(w.size() == 0);
  CHECK(residual == Eigen::Vector3d(1, 2, 3));
  growing_cholesky empty(0, 2);
  empty.set_target(Eigen::VectorXd(0));
  const float nothing = 0;
  CHECK_FALSE(empty.append(&nothing));
  empty.solve_into(w);
  CHECK(w.size() == 1);
  CHECK(w[0] == 0);
}
