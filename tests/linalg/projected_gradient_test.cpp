// SPDX-License-Identifier: MIT
#include "kvfit/linalg/projected_gradient.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;

namespace {

bool inside(const bounded_fit& fit, const box& bounds) {
  return fit.weights.allFinite() && fit.weights.minCoeff() >= bounds.lower &&
         fit.weights.maxCoeff() <= bounds.upper;
}

}  // namespace

TEST_CASE("§9.8 weight bounds hold after every stage, zero iterations included",
          "[linalg][gradient]") {
  const kvfit::matrix m = oracle::exponentials(40, 12, 2, 1);
  const kvfit::vector y = oracle::gaussian(40, 1, 2).cwiseAbs() * 5;
  const Eigen::VectorXd start = 30 * oracle::gaussian(12, 1, 3).cast<double>();
  for (const box bounds : {box{1e-12, 20}, box{0.05, 2}, box{0.5, 0.5}}) {
    for (const int iterations : {0, 1, 2, 7, 50}) {
      const auto plain =
          projected_gradient(m, y, start, {.bounds = bounds, .iterations = iterations});
      INFO("box " << bounds.lower << ", " << bounds.upper << "; iterations " << iterations);
      CHECK(inside(plain, bounds));
      if (iterations > 0) continue;
      Eigen::VectorXd clipped = start;
      bounds.clip(clipped);
      CHECK(plain.weights == clipped);
      CHECK(plain.report.objective == plain.report.start_objective);
    }
  }
}

TEST_CASE("plain steps are those of attention-matching §4.3, written out", "[linalg][gradient]") {
  const kvfit::matrix m = oracle::exponentials(60, 10, 1, 4);
  const kvfit::vector y = oracle::gaussian(60, 1, 5).cwiseAbs();
  const box bounds{1e-3, 3};
  const Eigen::MatrixXd exact = oracle::to_double(m);
  const Eigen::VectorXd target = y.cast<double>();
  const double sigma = largest_singular_value(m, {.rounds = 3, .seed = 8}).sigma;
  Eigen::VectorXd w = Eigen::VectorXd::Constant(10, 0.4);
  for (int step = 0; step < 5; ++step) {
    const Eigen::VectorXd gradient =
        oracle::transposed_product(exact, oracle::product(exact, w) - target);
    w -= gradient / std::max(sigma * sigma, 1e-6);
    bounds.clip(w);
  }
  const auto fit = projected_gradient(m, y, Eigen::VectorXd::Constant(10, 0.4),
                                      {.bounds = bounds, .iterations = 5, .power = {.seed = 8}});
  CHECK(fit.report.iterations == 5);
  CHECK(oracle::distance(fit.weights, w) < 1e-12);
  CHECK(fit.report.objective == Approx(oracle::loss(m, y, w)));
}

TEST_CASE("more plain steps never raise the loss", "[linalg][gradient]") {
  const kvfit::matrix m = oracle::exponentials(80, 20, 2, 6);
  const kvfit::vector y = oracle::gaussian(80, 1, 7).cwiseAbs() * 3;
  double before = std::numeric_limits<double>::infinity();
  for (int iterations = 0; iterations < 12; ++iterations) {
    const auto fit =
        projected_gradient(m, y, Eigen::VectorXd::Ones(20), {.iterations = iterations});
    CHECK(fit.report.objective <= before);
    before = fit.report.objective;
  }
}

TEST_CASE("a step that is too long is reported and the best weights are returned",
          "[linalg][gradient]") {
  const kvfit::matrix m = oracle::exponentials(80, 20, 1, 8);
  const kvfit::vector y = 20 * m.rowwise().mean();
  const auto fit = projected_gradient(m, y, Eigen::VectorXd::Constant(20, 1.1),
                                      {.iterations = 30, .sigma = 0.1});
  CHECK(fit.report.status == bounded_status::diverged);
  CHECK(fit.weights.allFinite());
  CHECK(fit.report.objective <= fit.report.start_objective);
  CHECK(fit.report.objective == Approx(oracle::loss(m, y, fit.weights)));
}

TEST_CASE("§9.9 gradient steps on hard matrices stay finite and inside", "[linalg][gradient]") {
  kvfit::matrix m = oracle::exponentials(6, 9, 1, 10);  // n < t
  const auto kind = GENERATE(0, 1, 2, 3, 4);
  if (kind == 1) m.col(4) = m.col(2);
  if (kind == 2) m.setZero();
  if (kind == 3) m *= 1e18F;
  if (kind == 4) m *= 1e-18F;
  const kvfit::vector y = kvfit::vector::Constant(6, kind == 3 ? 1e18F : 1.0F);
  const box bounds{1e-12, 1e3};
  const auto fit = projected_gradient(m, y, Eigen::VectorXd::Ones(9), {.bounds = bounds});
  INFO("kind " << kind << ", status " << name(fit.report.status));
  CHECK(inside(fit, bounds));
  CHECK(std::isfinite(fit.report.objective));
  CHECK(std::isfinite(fit.report.kkt_residual));
  CHECK(fit.report.objective <= fit.report.start_objective);
}

TEST_CASE("§9.10 NaN and infinity in matrix, target or start are rejected with finite weights",
          "[linalg][gradient]") {
  const float bad =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const box bounds{1e-12, 20};
  const kvfit::matrix clean = oracle::exponentials(10, 4, 1, 11);
  const kvfit::vector target = kvfit::vector::Ones(10);
  kvfit::matrix m = clean;
  m(3, 2) = bad;
  kvfit::vector y = target;
  y[5] = bad;
  const Eigen::VectorXd start = Eigen::VectorXd::Ones(4);
  for (const bounded_fit& fit : {projected_gradient(m, target, start, {.bounds = bounds}),
                                 projected_gradient(clean, y, start, {.bounds = bounds})}) {
    CHECK(fit.report.status == bounded_status::non_finite_input);
    CHECK(fit.weights == start);
  }
  Eigen::VectorXd bad_start = start;
  bad_start[1] = static_cast<double>(bad);
  CHECK(inside(projected_gradient(clean, target, bad_start, {.bounds = bounds}), bounds));
}

TEST_CASE("same input, same bytes from gradient steps", "[linalg][gradient]") {
  const kvfit::matrix m = oracle::exponentials(64, 20, 1, 12);
  const kvfit::vector y = kvfit::vector::Ones(64);
  const Eigen::VectorXd start = Eigen::VectorXd::Ones(20);
  CHECK(projected_gradient(m, y, start).weights == projected_gradient(m, y, start).weights);
}
