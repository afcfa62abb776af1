// SPDX-License-Identifier: MIT
#include "kvfit/linalg/lbfgs.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;

namespace {

/// ½ (x − centre)ᵀ A (x − centre), A with eigenvalues spread evenly in logarithm from 1 to
/// `condition`; counts how often it is asked.
struct convex_quadratic {
  convex_quadratic(Eigen::Index size, double condition, std::uint64_t seed)
      : centre(oracle::gaussian(size, 1, seed).col(0).cast<double>()) {
    const Eigen::MatrixXd directions =
        oracle::orthonormal_columns(oracle::to_double(oracle::gaussian(size, size, seed + 1)));
    Eigen::VectorXd eigenvalues(size);
    for (Eigen::Index i = 0; i < size; ++i) {
      eigenvalues[i] = std::pow(condition, static_cast<double>(i) / static_cast<double>(size - 1));
    }
    hessian = oracle::scaled_product(directions, eigenvalues, directions);
  }
  double operator()(const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    ++calls;
    gradient = oracle::product(hessian, x - centre);
    return 0.5 * gradient.dot(x - centre);
  }

  Eigen::VectorXd centre;
  Eigen::MatrixXd hessian;
  int calls = 0;
};

double rosenbrock(const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
  const double along = 1 - x[0];
  const double across = x[1] - x[0] * x[0];
  gradient[0] = -2 * along - 400 * x[0] * across;
  gradient[1] = 200 * across;
  return along * along + 100 * across * across;
}

}  // namespace

TEST_CASE("L-BFGS finds the minimum of an ill-conditioned quadratic", "[linalg][lbfgs]") {
  const auto memory = GENERATE(3, 10, 40);
  CAPTURE(memory);
  convex_quadratic f(30, 1e4, 1);
  Eigen::VectorXd x = Eigen::VectorXd::Zero(30);
  lbfgs descent({.memory = memory});
  const lbfgs_report first = descent.minimise(f, x, 200);
  INFO("after 200 steps at a share of " << first.end / first.start);
  CHECK(first.end < 1e-5 * first.start);  // steepest descent is at 1e-3 then
  CHECK(first.evaluations < 2 * first.steps);
  const lbfgs_report rest = descent.minimise(f, x, 800);
  const double distance = oracle::relative_error(x, f.centre);
  INFO("after 1000 steps off by a share of " << distance);
  CHECK(distance < 1e-5);
  CHECK(rest.end < 1e-12 * first.start);
}

TEST_CASE("L-BFGS follows Rosenbrock's valley to its end", "[linalg][lbfgs]") {
  Eigen::VectorXd x(2);
  x << -1.2, 1;
  const lbfgs_report report = lbfgs({}).minimise(rosenbrock, x, 200);
  INFO("ends at (" << x[0] << ", " << x[1] << ") after " << report.steps << " steps");
  CHECK(std::abs(x[0] - 1) < 1e-6);
  CHECK(std::abs(x[1] - 1) < 1e-6);
  CHECK(report.start == Approx(24.2));
  CHECK(report.end < 1e-12);
  CHECK(report.steps < 100);
}

TEST_CASE("every step of L-BFGS descends, whatever the first step and the memory",
          "[linalg][lbfgs]") {
  const auto first_step = GENERATE(1e-6, 1.0, 1e6);
  const auto memory = GENERATE(1, 10);
  CAPTURE(first_step, memory);
  Eigen::VectorXd x(2);
  x << -1.2, 1;
  lbfgs descent({.memory = memory, .first_step = first_step});
  Eigen::VectorXd gradient(2);
  double before = rosenbrock(x, gradient);
  for (int k = 0; k < 60; ++k) {
    const Eigen::VectorXd old = x;
    const lbfgs_report report = descent.minimise(rosenbrock, x, 1);  // one run a step: same path
    Eigen::VectorXd unused(2);
    CHECK(report.start == Approx(before));
    CHECK(report.end == rosenbrock(x, unused));
    if (report.steps == 0) break;
    CHECK(report.end <= before + 1e-4 * gradient.dot(x - old) + 1e-15 * before);
    CHECK(report.end < before);
    before = rosenbrock(x, gradient);
  }
  CHECK(before < 4.2);  // out of the steep wall at least: the valley starts near 4
}

TEST_CASE("a run in one piece is the run in single steps, to the byte", "[linalg][lbfgs]") {
  Eigen::VectorXd whole(2);
  whole << -1.2, 1;
  Eigen::VectorXd pieces = whole;
  lbfgs({}).minimise(rosenbrock, whole, 12);
  lbfgs descent({});
  for (int k = 0; k < 12; ++k) descent.minimise(rosenbrock, pieces, 1);
  CHECK(whole == pieces);
}

TEST_CASE("the first trial step is as long as asked", "[linalg][lbfgs]") {
  std::vector<Eigen::VectorXd> asked;
  const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    asked.push_back(x);
    gradient = x;
    return 0.5 * x.squaredNorm();
  };
  const Eigen::VectorXd start = Eigen::VectorXd::Constant(4, 10.0);
  Eigen::VectorXd x = start;
  lbfgs({.first_step = 0.25}).minimise(f, x, 1);
  REQUIRE(asked.size() == 2);
  CHECK(oracle::distance(asked[1], start) == Approx(0.25).epsilon(1e-12));
  CHECK((asked[1].array() < start.array()).all());
}

TEST_CASE("L-BFGS doesn't cross a wall of values that aren't finite", "[linalg][lbfgs]") {
  const auto beyond =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
               -std::numeric_limits<double>::infinity());
  const auto first_step = GENERATE(1.0, 50.0);
  CAPTURE(beyond, first_step);

  SECTION("with the minimum on this side, it is found") {
    // x − log x in every element: the minimum is 1, a step of 50 from 20 leaps over the wall at 0.
    int crossed = 0;
    const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
      gradient = 1 - x.array().inverse();
      if ((x.array() > 0).all()) return x.sum() - x.array().log().sum();
      ++crossed;
      return beyond;
    };
    Eigen::VectorXd x(3);
    x << 20, 0.01, 5;
    const lbfgs_report report = lbfgs({.first_step = first_step}).minimise(f, x, 300);
    CHECK((x.array() - 1).abs().maxCoeff() < 1e-6);
    CHECK(report.end == Approx(3));
    if (first_step > 20) CHECK(crossed > 0);
  }
  SECTION("with the minimum behind it, the run ends before it") {
    int crossed = 0;
    const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
      gradient = 2 * x.array() + 2;
      if ((x.array() >= 0.125).all()) return (x.array() + 1).square().sum();
      ++crossed;
      return beyond;
    };
    Eigen::VectorXd x = Eigen::VectorXd::Constant(3, 4.0);
    const lbfgs_report report = lbfgs({.first_step = first_step}).minimise(f, x, 300);
    CHECK(crossed > 0);
    CHECK(x.minCoeff() >= 0.125);
    CHECK(report.end == (x.array() + 1).square().sum());
    CHECK(report.end < 0.5 * report.start);
  }
}

TEST_CASE("L-BFGS that starts beyond the wall stays there", "[linalg][lbfgs]") {
  int calls = 0;
  const auto f = [&](const Eigen::VectorXd&, Eigen::VectorXd& gradient) {
    ++calls;
    gradient.setOnes();
    return std::numeric_limits<double>::quiet_NaN();
  };
  Eigen::VectorXd x = Eigen::VectorXd::Constant(2, 3.0);
  const lbfgs_report report = lbfgs({}).minimise(f, x, 10);
  CHECK(x == Eigen::VectorXd::Constant(2, 3.0));
  CHECK(calls == 1);
  CHECK(report.evaluations == 1);
  CHECK(report.steps == 0);
  CHECK(std::isnan(report.start));
  CHECK(std::isnan(report.end));
}

TEST_CASE("no steps leave x where it is and report its value", "[linalg][lbfgs]") {
  convex_quadratic f(5, 10, 2);
  const Eigen::VectorXd start = Eigen::VectorXd::Constant(5, 2.0);
  Eigen::VectorXd x = start;
  const lbfgs_report report = lbfgs({}).minimise(f, x, 0);
  CHECK(x == start);
  CHECK(report.steps == 0);
  CHECK(report.evaluations == 1);
  CHECK(f.calls == 1);
  Eigen::VectorXd gradient(5);
  CHECK(report.start == f(start, gradient));
  CHECK(report.end == report.start);
}

TEST_CASE("at a minimum L-BFGS takes no step", "[linalg][lbfgs]") {
  convex_quadratic f(5, 10, 3);
  Eigen::VectorXd x = f.centre;
  const lbfgs_report report = lbfgs({}).minimise(f, x, 10);
  CHECK(x == f.centre);
  CHECK(report.steps == 0);
  CHECK(report.evaluations == 1);
  CHECK(report.end == 0);
}

TEST_CASE("L-BFGS where the gradient lies gives up and leaves x", "[linalg][lbfgs]") {
  const auto f = [](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    gradient = -2 * x;  // points down where the value goes up
    return x.squaredNorm();
  };
  const Eigen::VectorXd start = Eigen::VectorXd::Constant(2, 1.0);
  Eigen::VectorXd x = start;
  const lbfgs_report report = lbfgs({}).minimise(f, x, 10);
  CHECK(x == start);
  CHECK(report.steps == 0);
  CHECK(report.evaluations == 21);  // the start and twenty halvings
  CHECK(report.end == report.start);
}

TEST_CASE("L-BFGS counts its steps and evaluations, and ends at the last step's value",
          "[linalg][lbfgs]") {
  const auto steps = GENERATE(1, 2, 7, 25);
  convex_quadratic f(12, 1e3, 4);
  const Eigen::VectorXd start = Eigen::VectorXd::Zero(12);
  Eigen::VectorXd x = start;
  const lbfgs_report report = lbfgs({}).minimise(f, x, steps);
  CHECK(report.steps == steps);
  CHECK(report.evaluations == f.calls);
  CHECK(report.evaluations >= steps + 1);
  Eigen::VectorXd gradient(12);
  CHECK(report.start == f(start, gradient));
  CHECK(report.end == f(x, gradient));
  CHECK(report.end < report.start);
}

TEST_CASE("what L-BFGS learned of one function serves a slightly different one",
          "[linalg][lbfgs]") {
  constexpr int functions = 12;
  double log_ratio = 0;
  for (std::uint64_t seed = 1; seed <= functions; ++seed) {
    convex_quadratic f(12, 1e3, seed);
    convex_quadratic other = f;
    other.centre += 0.01 * oracle::gaussian(12, 1, seed + 40).col(0).cast<double>();
    const Eigen::MatrixXd change = oracle::to_double(oracle::gaussian(12, 12, seed + 80));
    other.hessian += 1e-3 * oracle::product(change, change.transpose());

    Eigen::VectorXd x = Eigen::VectorXd::Zero(12);
    lbfgs experienced({.memory = 20});
    experienced.minimise(f, x, 15);
    Eigen::VectorXd with = x;
    Eigen::VectorXd without = x;
    const lbfgs_report known = experienced.minimise(other, with, 6);
    const lbfgs_report anew = lbfgs({.memory = 20}).minimise(other, without, 6);
    REQUIRE(known.start == anew.start);
    INFO("from " << known.start << " to " << known.end << ", anew to " << anew.end);
    CHECK(known.end < anew.end);
    log_ratio += std::log(known.end / anew.end);
  }
  CHECK(std::exp(log_ratio / functions) < 0.4);
}

TEST_CASE("what L-BFGS learned of one function does no harm on quite another", "[linalg][lbfgs]") {
  convex_quadratic f(12, 1e3, 6);
  convex_quadratic other(12, 1e3, 7);
  other.hessian *= 1e4;
  Eigen::VectorXd x = Eigen::VectorXd::Zero(12);
  lbfgs descent({});
  descent.minimise(f, x, 40);
  const lbfgs_report report = descent.minimise(other, x, 500);
  CHECK(report.end < 1e-9 * report.start);
  CHECK(oracle::relative_error(x, other.centre) < 1e-3);
}
