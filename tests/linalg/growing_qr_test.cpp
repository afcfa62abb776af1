// SPDX-License-Identifier: MIT
#include "support/growing_qr.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using oracle::growing_qr;

TEST_CASE("growing one column at a time equals refitting from scratch", "[linalg][qr]") {
  const kvfit::matrix m = oracle::exponentials(90, 24, 1, 1);
  const kvfit::vector y = oracle::gaussian(90, 1, 2);
  growing_qr fit(90, 24);
  fit.set_target(y);
  for (Eigen::Index t = 1; t <= 24; ++t) {
    REQUIRE(fit.append(m.col(t - 1)));
    const Eigen::MatrixXd truth = oracle::least_squares(m.leftCols(t), y);
    const Eigen::VectorXd w = fit.solve();
    INFO("t " << t << ", condition at least " << fit.diagonal_ratio());
    CHECK(oracle::distance(w, truth) <= 1e-14 * 100 * fit.diagonal_ratio() * w.norm());
    const Eigen::VectorXd residual =
        y.cast<double>() - oracle::product(oracle::to_double(m.leftCols(t)), w);
    CHECK(fit.residual_norm() == Approx(residual.norm()).epsilon(1e-12));
    CHECK(oracle::distance(fit.residual(), residual) < 1e-11);
  }
}

TEST_CASE("blocks of any width give what single columns give", "[linalg][qr]") {
  const kvfit::matrix m = oracle::exponentials(130, 100, 1, 3);
  const kvfit::vector y = oracle::gaussian(130, 1, 4);
  growing_qr single(130, 100);
  single.set_target(y);
  for (Eigen::Index j = 0; j < 100; ++j) single.append(m.col(j));
  for (const Eigen::Index width : {2, 15, 16, 32, 33, 100}) {
    growing_qr blocks(130, 100);
    blocks.set_target(y);
    for (Eigen::Index j = 0; j < 100; j += width) {
      const Eigen::Index count = std::min<Eigen::Index>(width, 100 - j);
      CHECK(blocks.append_block(m.middleCols(j, count)) == count);
    }
    INFO("width " << width);
    CHECK(blocks.residual_norm() == Approx(single.residual_norm()).epsilon(1e-10));
    CHECK(oracle::relative_error(blocks.solve(), single.solve()) <= 1e-8);
    const Eigen::MatrixXd products = oracle::transposed_product(blocks.basis(), blocks.basis());
    CHECK(oracle::largest_difference(products, Eigen::MatrixXd::Identity(100, 100)) < 1e-13);
  }
}

TEST_CASE("§9.9 dependent columns are reported and get coefficient zero", "[linalg][qr]") {
  kvfit::matrix m = oracle::gaussian(40, 7, 5);
  m.col(2) = m.col(0);
  m.col(4).setZero();
  m.col(5) = 2 * m.col(1) - m.col(3);
  const kvfit::vector y = oracle::gaussian(40, 1, 6);
  const bool is_block = GENERATE(false, true);
  growing_qr fit(40, 7);
  fit.set_target(y);
  if (is_block) {
    CHECK(fit.append_block(m) == 4);
  } else {
    const bool independent[] = {true, true, false, true, false, false, true};
    for (Eigen::Index j = 0; j < 7; ++j) CHECK(fit.append(m.col(j)) == independent[j]);
  }
  CHECK(fit.size() == 7);
  CHECK(fit.rank() == 4);
  const Eigen::VectorXd w = fit.solve();
  REQUIRE(w.size() == 7);
  CHECK(w[2] == 0);
  CHECK(w[4] == 0);
  CHECK(w[5] == 0);
  kvfit::matrix kept(40, 4);
  kept << m.col(0), m.col(1), m.col(3), m.col(6);
  const Eigen::MatrixXd truth = oracle::least_squares(kept, y);
  CHECK(w[0] == Approx(truth(0, 0)));
  CHECK(w[6] == Approx(truth(3, 0)));
}

TEST_CASE("§9.9 columns beyond n are dependent, and the fit is then exact", "[linalg][qr]") {
  const kvfit::matrix m = oracle::gaussian(5, 9, 7);
  const kvfit::vector y = oracle::gaussian(5, 1, 8);
  growing_qr fit(5, 9);
  fit.set_target(y);
  CHECK(fit.append_block(m) == 5);
  CHECK(fit.size() == 9);
  CHECK(fit.residual_norm() < 1e-12);
  CHECK(oracle::residual_norm(oracle::to_double(m), fit.solve(), y.cast<double>()) < 1e-10);
}

TEST_CASE("§9.10 columns of NaN or infinity are refused and leave the fit finite", "[linalg][qr]") {
  kvfit::matrix m = oracle::gaussian(20, 4, 9);
  m(3, 1) = std::numeric_limits<float>::quiet_NaN();
  m(4, 2) = std::numeric_limits<float>::infinity();
  growing_qr fit(20, 4);
  fit.set_target(oracle::gaussian(20, 1, 10).col(0));
  CHECK(fit.append_block(m) == 2);
  CHECK(fit.solve().allFinite());
  CHECK(fit.residual().allFinite());
}

TEST_CASE("§9.9 columns of norm 1e±18 side by side are told apart by direction, not length",
          "[linalg][qr]") {
  kvfit::matrix m = oracle::gaussian(30, 4, 11);
  m.col(0) *= 1e18F;
  m.col(1) *= 1e-18F;
  m.col(2) *= 1e18F;
  const kvfit::vector y = oracle::gaussian(30, 1, 12);
  growing_qr fit(30, 4);
  fit.set_target(y);
  CHECK(fit.append_block(m) == 4);
  growing_qr plain(30, 4);
  plain.set_target(y);
  plain.append_block(oracle::gaussian(30, 4, 11));
  CHECK(fit.residual_norm() == Approx(plain.residual_norm()).epsilon(1e-6));
}

TEST_CASE("clearing a growing QR and setting another target start afresh", "[linalg][qr]") {
  const kvfit::matrix m = oracle::gaussian(25, 6, 13);
  const kvfit::vector first = oracle::gaussian(25, 1, 14);
  const kvfit::vector second = oracle::gaussian(25, 1, 15);
  growing_qr fit(25, 6);
  fit.set_target(first);
  fit.append_block(m);
  fit.clear();
  CHECK(fit.size() == 0);
  CHECK(fit.solve().size() == 0);
  CHECK(fit.residual_norm() == Approx(first.cast<double>().norm()));
  fit.append_block(m.leftCols(3));
  fit.set_target(second);
  growing_qr fresh(25, 6);
  fresh.set_target(second);
  fresh.append_block(m.leftCols(3));
  CHECK(fit.residual_norm() == Approx(fresh.residual_norm()));
  CHECK(oracle::distance(fit.solve(), fresh.solve()) < 1e-13);
}

TEST_CASE("same columns, same bytes", "[linalg][qr]") {
  const kvfit::matrix m = oracle::exponentials(70, 40, 1, 16);
  const auto run = [&] {
    growing_qr fit(70, 40);
    fit.set_target(m.col(3) + m.col(7));
    fit.append_block(m);
    return fit.solve();
  };
  CHECK(run() == run());
}

TEST_CASE("a growing QR without rows or columns is empty", "[linalg][qr]") {
  growing_qr none(0, 3);
  CHECK_FALSE(none.append(Eigen::VectorXf(0)));
  CHECK(none.solve() == Eigen::VectorXd::Zero(1));
  CHECK(none.residual_norm() == 0);
  const growing_qr nothing(4, 0);
  CHECK(nothing.solve().size() == 0);
}
