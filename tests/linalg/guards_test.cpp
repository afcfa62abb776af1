// SPDX-License-Identifier: MIT
// Each case fails where the guard it is named after is taken away (docs/requirements.md, Guards).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kvfit/linalg/bounded_nnls.hpp"
#include "kvfit/linalg/cross_validated_ridge.hpp"
#include "kvfit/linalg/growing_cholesky.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/linalg/power_iteration.hpp"
#include "kvfit/linalg/projected_gradient.hpp"
#include "kvfit/linalg/published_least_squares.hpp"
#include "kvfit/linalg/solve_positive_definite.hpp"
#include "kvfit/linalg/triangular_condition.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;
using oracle::product_in_float;
using oracle::relative_error;

namespace {

constexpr double beyond = std::numeric_limits<double>::infinity();

/// Orthonormal columns times lengths that fall from 1 to 1/condition.
kvfit::matrix conditioned(Eigen::Index n, Eigen::Index t, double condition, std::uint64_t seed) {
  const Eigen::MatrixXd left = oracle::to_double(oracle::gaussian(n, t, seed));
  const Eigen::MatrixXd right = oracle::to_double(oracle::gaussian(t, t, seed + 1));
  const Eigen::MatrixXd u = oracle::orthonormal_columns(left);
  const Eigen::MatrixXd v = oracle::orthonormal_columns(right);
  Eigen::VectorXd lengths(t);
  for (Eigen::Index k = 0; k < t; ++k) {
    lengths[k] = std::pow(condition, -static_cast<double>(k) / static_cast<double>(t - 1));
  }
  return oracle::to_float(oracle::scaled_product(u, lengths, v));
}

}  // namespace

TEST_CASE("O: bounded fits refuse equations that are not finite", "[linalg][guard]") {
  for (const double bad : {beyond, std::numeric_limits<double>::quiet_NaN()}) {
    normal_equations problem{Eigen::MatrixXd::Identity(3, 3), Eigen::VectorXd::Ones(3), 3};
    problem.gram(1, 2) = problem.gram(2, 1) = bad;
    CHECK(bounded_nnls(problem).report.status == bounded_status::non_finite_input);
    problem.gram.setIdentity();
    problem.target_sq = bad;
    CHECK(bounded_nnls(problem).report.status == bounded_status::non_finite_input);
    problem.target_sq = 3;
    problem.moment[1] = bad;
    const auto fit = bounded_nnls(problem, {}, Eigen::VectorXd::Constant(3, 1.5));
    CHECK(fit.report.status == bounded_status::non_finite_input);
    CHECK(fit.weights == Eigen::VectorXd::Constant(3, 1.5));
  }
}

TEST_CASE("O: weights that leave the numbers are not the best ones", "[linalg][guard]") {
  const normal_equations problem{Eigen::MatrixXd::Constant(1, 1, 1e-200),
                                 Eigen::VectorXd::Constant(1, 1e200), 1};
  const auto exact = bounded_nnls(problem);
  CHECK(exact.weights.allFinite());
  CHECK(exact.report.objective <= exact.report.start_objective);
}

TEST_CASE("O: KKT residuals are measured beside the floor's own gradients", "[linalg][guard]") {
  const Eigen::VectorXd moment = Eigen::VectorXd::Constant(2, 1e-3);
  const Eigen::VectorXd sums = Eigen::VectorXd::Constant(2, 40);
  CHECK(kkt_scale(moment, sums, {0.5, 2}) == 20);
  CHECK(kkt_scale(moment, sums, {0, 2}) == 1e-3);
}

TEST_CASE("O: pivoting returns the best point it met, wherever it ends", "[linalg][guard]") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const kvfit::matrix all = oracle::exponentials(40, 300, 0.8F, seed);
    const kvfit::matrix m = all.leftCols(90);
    const kvfit::vector y = all.rowwise().sum();
    const auto problem = form_normal_equations(m, y);
    const Eigen::VectorXd start = Eigen::VectorXd::Constant(90, 3);
    double before = beyond;
    for (int rounds = 0; rounds < 12; ++rounds) {
      const auto fit =
          bounded_nnls(problem, {.bounds = {1e-12, 1096}, .max_iterations = rounds}, start);
      CHECK(fit.report.objective <= fit.report.start_objective);
      CHECK(fit.report.objective <= before);
      before = fit.report.objective;
    }
  }
}

TEST_CASE("O: pivoting ends where its arithmetic does", "[linalg][guard]") {
  // A residual of nothing can't be reached.
  const kvfit::matrix m = oracle::exponentials(60, 20, 1, 5);
  const kvfit::vector y = m.rowwise().sum() + oracle::gaussian(60, 1, 6);
  const auto fit = bounded_nnls(form_normal_equations(m, y), {.tolerance = 1e-300});
  CHECK(fit.report.status == bounded_status::iteration_limit);
  CHECK(fit.report.iterations < 100);
  CHECK(fit.report.kkt_residual < 1e-10);
}

TEST_CASE("O: what no Gram matrix is can't keep pivoting busy, and is said to be dependent",
          "[linalg][guard]") {
  normal_equations problem{Eigen::MatrixXd::Identity(2, 2), Eigen::VectorXd::Ones(2), 2};
  problem.gram(0, 1) = problem.gram(1, 0) = 1e12;
  const auto fit = bounded_nnls(problem, {.bounds = {0, 5}});
  CHECK(fit.weights.allFinite());
  CHECK(fit.report.rank_deficient);
  CHECK(fit.report.iterations < 20);
}

TEST_CASE("O: no loss is below zero by rounding", "[linalg][guard]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const kvfit::matrix m = oracle::exponentials(50, 8, 1, seed);
    const kvfit::vector y = m.rowwise().sum();
    const auto problem = form_normal_equations(m, y);
    CHECK(bounded_nnls(problem).report.objective >= 0);
    CHECK(bounded_nnls(problem, {}, Eigen::VectorXd::Ones(8)).report.objective >= 0);
  }
}

TEST_CASE("O: steps of a matrix next to nothing have a length", "[linalg][guard]") {
  const kvfit::matrix none = kvfit::matrix::Zero(5, 3);
  const auto still = projected_gradient(none, kvfit::vector::Ones(5).eval(),
                                        Eigen::VectorXd::Constant(3, 2), {.bounds = {0.1, 5}});
  CHECK(still.weights == Eigen::VectorXd::Constant(3, 2));
}

TEST_CASE("O: steps out of all numbers leave the best weights before", "[linalg][guard]") {
  const kvfit::matrix m = kvfit::matrix::Constant(4, 2, 1e30F);
  const kvfit::vector y = kvfit::vector::Ones(4);
  const auto fit =
      projected_gradient(m, y, Eigen::VectorXd::Zero(2),
                         {.bounds = {-beyond, beyond}, .iterations = 40, .sigma = 1e-3});
  CHECK(fit.weights.allFinite());
  CHECK(std::isfinite(fit.report.objective));
  CHECK(std::isfinite(fit.report.kkt_residual));
  CHECK(fit.report.objective <= fit.report.start_objective);
  CHECK(fit.report.status == bounded_status::diverged);
}

TEST_CASE("O: rows of zeros do not count in cross-validation", "[linalg][guard]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const kvfit::matrix x = oracle::gaussian(7, 6, seed);
    const kvfit::matrix y =
        2 * oracle::gaussian(7, 2, seed + 50) + product_in_float(x, oracle::gaussian(6, 2, 9));
    kvfit::matrix more_x = kvfit::matrix::Zero(20, 6);
    kvfit::matrix more_y = kvfit::matrix::Zero(20, 2);
    more_x.topRows(7) = x;
    more_y.topRows(7) = y;
    CHECK(cross_validated_ridge(more_x, more_y) == cross_validated_ridge(x, y));
  }
}

TEST_CASE("O: no rounding chooses among ridges that are equally good", "[linalg][guard]") {
  // Orthogonal rows of one length: the criterion is the same for every λ.
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const kvfit::matrix x = 1.37F * kvfit::matrix::Identity(3, 3);
    CHECK(cross_validated_ridge(x, oracle::gaussian(3, 4, seed)) == 0);
  }
}

TEST_CASE("O: a column of zeros does not spoil the choice of a ridge", "[linalg][guard]") {
  kvfit::matrix x = oracle::gaussian(20, 6, 7);
  x.col(3).setZero();
  const kvfit::matrix y =
      3 * oracle::gaussian(20, 2, 8) + product_in_float(x, oracle::gaussian(6, 2, 9));
  CHECK(cross_validated_ridge(x, y) > 0);
}

TEST_CASE("O: columns that fp32 squares can't tell apart are solved in double", "[linalg][guard]") {
  // ε₃₂ κ² is 6: the factor in fp32 would say nothing.
  const kvfit::matrix x = conditioned(300, 80, 1e4, 10);
  const kvfit::matrix y = product_in_float(x, oracle::gaussian(80, 3, 11));
  const auto fit = least_squares(x, y, {.method = least_squares_method::cholesky});
  const Eigen::MatrixXd truth = oracle::solve_by_qr(oracle::to_double(x), oracle::to_double(y));
  CHECK(relative_error(oracle::to_double(fit.coefficients), truth) < 1e-3);
}

TEST_CASE("O: moments beyond fp32 are solved for all the same", "[linalg][guard]") {
  const kvfit::matrix x = oracle::gaussian(400, 70, 12);
  const kvfit::matrix y = 5e36F * product_in_float(x, oracle::gaussian(70, 2, 13));
  const auto fit = least_squares(x, y, {.method = least_squares_method::cholesky});
  const Eigen::MatrixXd truth = oracle::solve_by_qr(oracle::to_double(x), oracle::to_double(y));
  CHECK(relative_error(oracle::to_double(fit.coefficients), truth) < 1e-4);
}

TEST_CASE("O: dependence that no pivot shows is found by the condition", "[linalg][guard]") {
  // Ones on the diagonal and −1 above: pivots of 1, and a condition number of some 2^t.
  const Eigen::Index t = 40;
  kvfit::matrix x = kvfit::matrix::Zero(t, t);
  for (Eigen::Index i = 0; i < t; ++i) {
    x(i, i) = 1;
    x.row(i).tail(t - i - 1).setConstant(-1);
  }
  const kvfit::matrix y = oracle::gaussian(t, 2, 14);
  const auto fit = least_squares(x, y, {.method = least_squares_method::cholesky});
  CHECK(fit.report.status == least_squares_status::rank_deficient);
  CHECK(fit.report.rank < t);
  CHECK(fit.coefficients.cwiseAbs().maxCoeff() < 1e6F);
}

TEST_CASE("O: a ridge that is lost in rounding is raised, and said to be", "[linalg][guard]") {
  kvfit::matrix x = oracle::gaussian(60, 20, 15);
  x.rightCols(10) = x.leftCols(10);
  x.col(19) = x.col(3) - x.col(4);
  const kvfit::matrix y = product_in_float(x, oracle::gaussian(20, 2, 16));
  const auto fit = least_squares(
      x, y, {.method = least_squares_method::cholesky, .mode = ridge_mode::fixed, .ridge = 1e-40});
  CHECK(fit.report.status == least_squares_status::rank_deficient);
  CHECK(fit.coefficients.cwiseAbs().maxCoeff() < 100);
  CHECK((product_in_float(x, fit.coefficients) - y).norm() < 1e-2F * y.norm());
  if (fit.report.escalated) CHECK(fit.report.lambda > 1e-40);
}

TEST_CASE("O: a ridge is scaled by columns too where all of them cancel", "[linalg][guard]") {
  // Power iteration from equal components sees nothing of [a, −a].
  const kvfit::matrix a = oracle::gaussian(30, 1, 17) * 1e-6F;
  kvfit::matrix x(30, 2);
  x << a, -a;
  const auto fit = least_squares(x, a, {.method = least_squares_method::cholesky});
  CHECK(fit.report.lambda < 1e-12);
  CHECK((product_in_float(x, fit.coefficients) - a).norm() < 1e-3F * a.norm());
}

TEST_CASE("O: systems that even a ridge leaves ill-conditioned lose what is noise",
          "[linalg][guard]") {
  const kvfit::matrix x = conditioned(60, 20, 1e9, 18);
  const kvfit::matrix y = oracle::gaussian(60, 2, 19);
  const auto fit = least_squares(x, y, {.mode = ridge_mode::fixed, .ridge = 1e-17});
  CHECK(fit.report.tier == least_squares_tier::truncated);
  CHECK(fit.report.status == least_squares_status::rank_deficient);
}

TEST_CASE("O: full rank that was assumed is doubted where the condition is", "[linalg][guard]") {
  const kvfit::matrix x = conditioned(60, 20, 1e7, 20);
  const kvfit::matrix y = oracle::gaussian(60, 2, 21);
  const auto fit = published_least_squares(x, y);
  CHECK(fit.report.rank == 20);
  CHECK(fit.report.status == least_squares_status::rank_deficient);
}

TEST_CASE("O: lengths whose squares overflow do not end power iteration in nothing",
          "[linalg][guard]") {
  const Eigen::MatrixXd gram = 1e200 * Eigen::MatrixXd::Identity(3, 3);
  CHECK(largest_singular_value_of_gram(gram, {.rounds = 5}).sigma == Approx(1e100));
}

TEST_CASE("O: an infinite pivot is no positive definite system", "[linalg][guard]") {
  kvfit::double_matrix system = kvfit::double_matrix::Identity(3, 4);
  system(1, 1) = beyond;
  CHECK_FALSE(solve_positive_definite(system, 3, 1));
}

TEST_CASE("O: a growing fit takes no number of an infinite column", "[linalg][guard]") {
  growing_cholesky fit(20, 3);
  fit.set_target(oracle::gaussian(20, 1, 22).col(0).cast<double>().eval());
  kvfit::matrix columns = oracle::gaussian(3, 20, 23);
  columns(1, 7) = std::numeric_limits<float>::infinity();
  fit.append(columns.data(), 3);
  CHECK(fit.rank() == 2);
  Eigen::VectorXd weights;
  fit.solve_into(weights);
  Eigen::VectorXd residual;
  fit.residual_into(weights, residual);
  CHECK(weights.allFinite());
  CHECK(residual.allFinite());
}

TEST_CASE("O: a growing fit of columns that nearly depend is corrected by its own residual",
          "[linalg][guard]") {
  const Eigen::Index n = 80;
  const Eigen::Index t = 24;
  kvfit::matrix m = oracle::gaussian(n, t, 24);
  for (Eigen::Index j = 1; j < t; j += 2) m.col(j) = m.col(j - 1) + 1e-5F * m.col(j);
  const kvfit::vector y = oracle::gaussian(n, 1, 25);
  growing_cholesky fit(n, t);
  fit.set_target(y.cast<double>().eval());
  const kvfit::matrix rows = m.transpose();
  fit.append(rows.data(), t);
  REQUIRE(fit.rank() == t);
  Eigen::VectorXd weights;
  fit.solve_into(weights);
  const Eigen::VectorXd truth = oracle::solve_by_pivoted_qr(oracle::to_double(m), y.cast<double>());
  CHECK(relative_error(weights, truth) < 1e-8);
}

TEST_CASE("O: a condition is never below the ratio of its pivots", "[linalg][guard]") {
  kvfit::double_matrix r = kvfit::double_matrix::Identity(6, 6);
  r(4, 4) = 1e-5;
  CHECK(triangular_condition(r, Eigen::VectorXd(), 0) >= 1e5 * (1 - 1e-12));
}
