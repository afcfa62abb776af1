// SPDX-License-Identifier: MIT
#include "kvfit/linalg/adam.hpp"

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/dense.hpp"

using kvfit::linalg::adam;
using kvfit::linalg::adam_options;
using kvfit::linalg::adam_report;

namespace {

/// ½ Σ_i c_i (x_i − i)², c from 1 to 100.
double quadratic_bowl(const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
  double value = 0;
  for (Eigen::Index i = 0; i < x.size(); ++i) {
    const double steepness =
        std::pow(100.0, static_cast<double>(i) / static_cast<double>(x.size() - 1));
    const double off = x[i] - static_cast<double>(i);
    value += 0.5 * steepness * off * off;
    gradient[i] = steepness * off;
  }
  return value;
}

/// The update of one variable as its paper writes it, number by number.
struct scalar_adam {
  double m = 0;
  double v = 0;
  int k = 0;

  double step(double g, const adam_options& options, int steps) {
    m = options.mean_decay * m + (1 - options.mean_decay) * g;
    v = options.square_decay * v + (1 - options.square_decay) * g * g;
    const double m_hat = m / (1 - std::pow(options.mean_decay, k + 1));
    const double v_hat = v / (1 - std::pow(options.square_decay, k + 1));
    const double least = options.learning_rate * options.least_share;
    const double rate =
        least + 0.5 * (options.learning_rate - least) * (1 + std::cos(std::acos(-1.0) * k / steps));
    ++k;
    return -rate * m_hat / (std::sqrt(v_hat) + options.epsilon);
  }
};

}  // namespace

TEST_CASE("Adam takes the steps that its paper writes, one variable at a time", "[linalg][adam]") {
  const auto share = GENERATE(1.0, 0.0, 0.25);
  const adam_options options{.learning_rate = 0.1,
                             .least_share = share,
                             .mean_decay = 0.8,
                             .square_decay = 0.95,
                             .epsilon = 1e-3};
  constexpr int steps = 25;
  std::vector<Eigen::VectorXd> asked;
  const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    asked.push_back(x);
    return quadratic_bowl(x, gradient);
  };
  Eigen::VectorXd x = Eigen::VectorXd::Constant(4, 7.0);
  Eigen::VectorXd expected = x;
  const adam_report report = adam(options).minimise(f, x, steps);
  CHECK(report.steps == steps);
  CHECK(report.evaluations == steps + 1);
  REQUIRE(asked.size() == steps + 1);
  std::vector<scalar_adam> each(4);
  Eigen::VectorXd gradient(4);
  for (std::size_t k = 0; k < asked.size(); ++k) {
    CHECK(oracle::relative_error(asked[k], expected) <= 1e-12);
    quadratic_bowl(expected, gradient);
    for (Eigen::Index i = 0; i < 4; ++i) {
      expected[i] += each[static_cast<std::size_t>(i)].step(gradient[i], options, steps);
    }
  }
}

TEST_CASE("the first step of Adam is as long as the rate, whatever the gradient's size",
          "[linalg][adam]") {
  const auto size = GENERATE(1e-4, 1.0, 1e9);
  const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    gradient.setConstant(size);
    return size * x.sum();
  };
  Eigen::VectorXd x = Eigen::VectorXd::Zero(3);
  adam({.learning_rate = 0.5}).minimise(f, x, 1);
  for (Eigen::Index i = 0; i < 3; ++i) CHECK(x[i] == Approx(-0.5).epsilon(1e-3));
}

TEST_CASE("Adam comes to the minimum of a quadratic, nearer with decay", "[linalg][adam]") {
  const auto distance = [](double share) {
    Eigen::VectorXd x = Eigen::VectorXd::Constant(8, -3.0);
    const adam_report report =
        adam({.learning_rate = 0.1, .least_share = share}).minimise(quadratic_bowl, x, 1000);
    CHECK(report.end < 1e-3 * report.start);
    Eigen::VectorXd gradient(8);
    CHECK(report.end == quadratic_bowl(x, gradient));
    CHECK(report.best_step <= report.steps);
    return oracle::distance(x, Eigen::VectorXd::LinSpaced(8, 0, 7));
  };
  const double with = distance(0);
  INFO("off by " << with << " with decay");
  CHECK(with < 1e-3);
  CHECK(distance(1) < 0.1);
}

TEST_CASE("Adam returns the best point seen, wherever it ends", "[linalg][adam]") {
  const auto rate = GENERATE(0.05, 1.0, 30.0, 1e5);  // the last ones leap over the bowl
  CAPTURE(rate);
  double least = std::numeric_limits<double>::infinity();
  Eigen::VectorXd best;
  const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    const double value = quadratic_bowl(x, gradient);
    if (value < least) {
      least = value;
      best = x;
    }
    return value;
  };
  Eigen::VectorXd x = Eigen::VectorXd::Constant(5, 2.5);
  const adam_report report = adam({.learning_rate = rate}).minimise(f, x, 40);
  CHECK(x == best);
  CHECK(report.end == least);
  CHECK(report.end <= report.start);
  if (rate > 1e3) {
    CHECK(report.best_step == 0);
    CHECK(x == Eigen::VectorXd::Constant(5, 2.5));
  }
}

TEST_CASE("Adam ends when its patience does", "[linalg][adam]") {
  int calls = 0;
  const auto f = [&](const Eigen::VectorXd&, Eigen::VectorXd& gradient) {
    gradient.setOnes();
    const int call = calls++;
    if (call < 5) return 10.0 - call;  // five values that fall by one
    return 6.0 - 1e-3 * call;          // then hardly any lower
  };
  Eigen::VectorXd x = Eigen::VectorXd::Zero(2);
  SECTION("what falls by no more than the improvement doesn't count, but is kept") {
    const adam_report report =
        adam({.learning_rate = 0.1, .patience = 7, .improvement = 0.5}).minimise(f, x, 1000);
    CHECK(report.evaluations == 12);
    CHECK(report.steps == 11);
    CHECK(report.best_step == 11);
    CHECK(report.end == Approx(5.989));
  }
  SECTION("what falls by more begins it anew") {
    const adam_report report =
        adam({.learning_rate = 0.1, .patience = 7, .improvement = 1e-5}).minimise(f, x, 50);
    CHECK(report.steps == 50);
  }
}

TEST_CASE("Adam ends where a value or a gradient isn't finite, at the best point before",
          "[linalg][adam]") {
  const auto beyond =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
               -std::numeric_limits<double>::infinity());
  const bool is_gradient = GENERATE(true, false);
  const auto f = [&](const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    gradient.setOnes();
    if (x[0] > 0.55) return x.sum();
    if (is_gradient) gradient[0] = beyond;
    return is_gradient ? x.sum() : beyond;
  };
  Eigen::VectorXd x = Eigen::VectorXd::Constant(2, 1.0);
  const adam_report report = adam({.learning_rate = 0.1}).minimise(f, x, 100);
  CHECK(report.steps == 5);
  CHECK(report.best_step == (is_gradient ? 5 : 4));
  CHECK(x[0] == Approx(is_gradient ? 0.5 : 0.6));

  Eigen::VectorXd lost = Eigen::VectorXd::Constant(2, 0.25);
  const adam_report nowhere = adam({.learning_rate = 0.1}).minimise(f, lost, 100);
  CHECK(nowhere.steps == 0);
  CHECK(nowhere.evaluations == 1);
  CHECK(lost == Eigen::VectorXd::Constant(2, 0.25));
}

TEST_CASE("no steps of Adam leave x where it is and report its value", "[linalg][adam]") {
  Eigen::VectorXd x = Eigen::VectorXd::Constant(3, 2.0);
  const adam_report report = adam({}).minimise(quadratic_bowl, x, 0);
  CHECK(x == Eigen::VectorXd::Constant(3, 2.0));
  CHECK(report.steps == 0);
  CHECK(report.evaluations == 1);
  CHECK(report.end == report.start);
  Eigen::VectorXd gradient(3);
  CHECK(report.start == quadratic_bowl(x, gradient));
}

TEST_CASE("every run of Adam is the same, to the byte", "[linalg][adam]") {
  const adam descent({.learning_rate = 0.2, .least_share = 0});
  Eigen::VectorXd once = Eigen::VectorXd::Constant(6, 9.0);
  Eigen::VectorXd again = once;
  descent.minimise(quadratic_bowl, once, 77);
  descent.minimise(quadratic_bowl, again, 77);
  CHECK(once == again);
}
