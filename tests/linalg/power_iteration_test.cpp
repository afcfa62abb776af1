// SPDX-License-Identifier: MIT
#include "kvfit/linalg/power_iteration.hpp"

#include <limits>

#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/solve_positive_definite.hpp"
#include "kvfit/linalg/triangular_condition.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;

TEST_CASE("power iteration approaches the largest singular value from below", "[linalg][power]") {
  const kvfit::matrix m = oracle::exponentials(120, 40, 2, 1);
  const double truth = oracle::singular_values(oracle::to_double(m))[0];
  double before = 0;
  for (const int rounds : {0, 1, 3, 10, 50}) {
    const power_estimate estimate = largest_singular_value(m, {.rounds = rounds});
    CHECK(estimate.rounds == rounds);
    CHECK(estimate.sigma >= before * (1 - 1e-12));
    CHECK(estimate.sigma <= truth * (1 + 1e-12));
    before = estimate.sigma;
  }
  CHECK(largest_singular_value(m).sigma > 0.9 * truth);  // three rounds, as published
  CHECK(before == Approx(truth).epsilon(1e-9));
}

TEST_CASE("the matrix and its Gram matrix have the same largest singular value",
          "[linalg][power]") {
  const kvfit::matrix m = oracle::gaussian(60, 20, 2);
  const power_options options{.rounds = 7, .seed = 5};
  CHECK(largest_singular_value(m, options).sigma ==
        Approx(largest_singular_value_of_gram(gram(m), options).sigma).epsilon(1e-12));
}

TEST_CASE("same seed, same bytes, and another seed, another start", "[linalg][power]") {
  CHECK(seeded_unit_vector(33, 9) == seeded_unit_vector(33, 9));
  CHECK(seeded_unit_vector(33, 9) != seeded_unit_vector(33, 10));
  CHECK(seeded_unit_vector(33, 9).norm() == Approx(1));
  const kvfit::matrix m = oracle::gaussian(30, 10, 3);
  CHECK(largest_singular_value(m, {.rounds = 3, .seed = 4}).sigma ==
        largest_singular_value(m, {.rounds = 3, .seed = 4}).sigma);
  CHECK(largest_singular_value(m, {.rounds = 0, .seed = 4}).sigma !=
        largest_singular_value(m, {.rounds = 0, .seed = 5}).sigma);
}

TEST_CASE("power iteration stops early on a zero matrix and on convergence", "[linalg][power]") {
  const power_estimate zero = largest_singular_value(kvfit::matrix::Zero(5, 4));
  CHECK(zero.sigma == 0);
  CHECK(zero.rounds == 0);
  CHECK(largest_singular_value(kvfit::matrix(3, 0)).sigma == 0);
  const kvfit::matrix identity = kvfit::matrix::Identity(6, 6);
  CHECK(largest_singular_value(identity, {.rounds = 100, .tolerance = 1e-6}).rounds == 1);
}

TEST_CASE("§9.10 power iteration of NaN reports it, and huge norms stay finite",
          "[linalg][power]") {
  kvfit::matrix m = oracle::gaussian(8, 4, 4);
  CHECK(largest_singular_value(1e18F * m).sigma == Approx(1e18 * largest_singular_value(m).sigma));
  m(2, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(largest_singular_value(m).finite);
  CHECK(largest_singular_value(m).sigma == 0);
}

TEST_CASE("a triangular factor's condition is estimated from below, within a factor of three",
          "[linalg][condition]") {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    Eigen::MatrixXd r = oracle::to_double(oracle::gaussian(30, 30, seed));
    r.diagonal().array() += 3;
    const Eigen::VectorXd sigma = oracle::singular_values(oracle::upper_triangle(r));
    const double truth = sigma[0] / sigma[29];
    const double found = triangular_condition(kvfit::double_matrix(r));
    INFO("true " << truth << ", estimated " << found);
    CHECK(found <= truth * (1 + 1e-9));
    CHECK(found >= truth / 3);
  }
  CHECK(triangular_condition(kvfit::double_matrix(0, 0)) == 1);
  CHECK(triangular_condition<double>(kvfit::double_matrix::Zero(2, 2)) ==
        std::numeric_limits<double>::infinity());
}
