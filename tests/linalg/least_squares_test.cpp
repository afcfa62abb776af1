// SPDX-License-Identifier: MIT
#include "kvfit/linalg/least_squares.hpp"

#include <Eigen/Core>
#include <limits>
#include <optional>

#include "kvfit/linalg/published_least_squares.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;
using oracle::product_in_float;
using oracle::residual_norm;
using oracle::to_double;
using method = least_squares_method;
using tier = least_squares_tier;
using status = least_squares_status;

namespace {

using any_method = std::optional<method>;
constexpr any_method published = std::nullopt;

/// By `least_squares`, or by `published_least_squares`, which has one method.
least_squares_fit solve(const kvfit::matrix& x, const kvfit::matrix& y,
                        any_method how = method::ranked, ridge_mode mode = ridge_mode::none,
                        double ridge = 0) {
  if (!how) return published_least_squares(x, y, {.mode = mode, .ridge = ridge});
  return least_squares(x, y, {.method = *how, .mode = mode, .ridge = ridge});
}

/// Rows that sum to 1, as attention's do.
kvfit::matrix softmax_rows(Eigen::Index n, Eigen::Index t, float spread, std::uint64_t seed) {
  kvfit::matrix x = oracle::exponentials(n, t, spread, seed);
  for (Eigen::Index i = 0; i < n; ++i) x.row(i) /= x.row(i).sum();
  return x;
}

double difference(const kvfit::matrix& found, const Eigen::MatrixXd& truth) {
  return oracle::relative_error(to_double(found), truth);
}

/// ‖found − expected‖ ≤ tolerance · min(‖found‖, ‖expected‖), in fp32.
bool is_near(const kvfit::matrix& found, const kvfit::matrix& expected, float tolerance) {
  return found.isApprox(expected, tolerance);
}

/// The smallest C with X C as near to Y as possible, without singular values below `tolerance`.
Eigen::MatrixXd minimum_norm(const kvfit::matrix& x, const kvfit::matrix& y, double tolerance) {
  return oracle::solve_by_svd(to_double(x), to_double(y), tolerance);
}

double spectral_norm(const kvfit::matrix& x) {
  return oracle::singular_values(to_double(x))[0];
}

}  // namespace

TEST_CASE("every method agrees with the long double normal equations", "[linalg][least_squares]") {
  const any_method how =
      GENERATE(any_method(method::ranked), published, any_method(method::cholesky));
  const kvfit::matrix x = softmax_rows(80, 12, 2, 1);
  const kvfit::matrix y = oracle::gaussian(80, 5, 2);
  const auto fit = solve(x, y, how);
  CHECK(difference(fit.coefficients, oracle::least_squares(x, y)) < 1e-6);
  CHECK(fit.report.status == status::solved);
  CHECK(fit.report.rank == 12);
  CHECK(fit.report.lambda == 0);
  CHECK_FALSE(fit.report.escalated);
  const Eigen::VectorXd sigma = oracle::singular_values(to_double(x));
  CHECK(fit.report.condition <= sigma[0] / sigma[11] * 1.001);
  CHECK(fit.report.condition >= sigma[0] / sigma[11] / 3);
}

TEST_CASE("§9.9 the report names the solver that was used", "[linalg][least_squares]") {
  const kvfit::matrix tall = oracle::gaussian(20, 6, 3);
  const kvfit::matrix wide = oracle::gaussian(6, 20, 4);
  const kvfit::matrix y20 = oracle::gaussian(20, 2, 5);
  const kvfit::matrix y6 = oracle::gaussian(6, 2, 6);
  kvfit::matrix doubled = tall;
  doubled.col(3) = doubled.col(1);
  CHECK(solve(tall, y20).report.tier == tier::cholesky);
  CHECK(solve(wide, y6).report.tier == tier::cholesky_dual);
  CHECK(solve(doubled, y20).report.tier == tier::truncated);
  CHECK(solve(tall, y20, published).report.tier == tier::qr_unpivoted);
  CHECK(solve(tall, y20, method::cholesky).report.tier == tier::cholesky);
  CHECK(solve(wide, y6, method::cholesky).report.tier == tier::cholesky_dual);
}

TEST_CASE("n < t gives the exact fit of smallest norm", "[linalg][least_squares]") {
  const any_method how =
      GENERATE(any_method(method::ranked), published, any_method(method::cholesky));
  const kvfit::matrix x = oracle::gaussian(9, 30, 7);
  const kvfit::matrix y = oracle::gaussian(9, 4, 8);
  const auto fit = solve(x, y, how);
  CHECK((product_in_float(x, fit.coefficients) - y).norm() < 1e-5F * y.norm());
  CHECK(difference(fit.coefficients, minimum_norm(x, y, 1e-9)) < 1e-6);
  CHECK(fit.report.rank == 9);
  CHECK(fit.report.status == status::rank_deficient);
}

TEST_CASE("§9.9 dependent columns get the answer of smallest norm", "[linalg][least_squares]") {
  const bool is_wide = GENERATE(false, true);
  kvfit::matrix x = oracle::gaussian(40, 10, 9);
  x.col(4) = x.col(2);
  x.col(7).setZero();
  x.col(8) = x.col(0) + x.col(1);
  if (is_wide) x = x.transpose().eval();
  const kvfit::matrix y = oracle::gaussian(x.rows(), 3, 10);
  const auto fit = least_squares(x, y);
  CHECK(fit.report.status == status::rank_deficient);
  CHECK(fit.report.rank == 7);
  CHECK(difference(fit.coefficients, minimum_norm(x, y, 1e-6)) < 1e-4);

  // Cholesky holds them small by a ridge, and says how large; fp32 noise keeps a tenth of its say.
  const auto ridged = least_squares(x, y, {.method = method::cholesky});
  CHECK(ridged.report.status == status::rank_deficient);
  CHECK(ridged.report.escalated);
  CHECK(ridged.report.lambda > 0);
  CHECK(ridged.report.rank == 7);
  CHECK(difference(ridged.coefficients, minimum_norm(x, y, 1e-6)) < 1e-2);
}

TEST_CASE("§9.9 coefficients stay bounded by what the data supports", "[linalg][least_squares]") {
  // Columns equal but for fp32 rounding: fitting their difference would take weights of 1e7.
  const auto how = GENERATE(method::ranked, method::cholesky);
  const kvfit::matrix base = softmax_rows(100, 10, 1, 11);
  kvfit::matrix x(100, 20);
  x << base, base;
  const kvfit::matrix noise = oracle::gaussian(100, 10, 12);
  x.rightCols(10).array() *= 1 + 6e-8F * noise.array();
  const kvfit::matrix y = oracle::gaussian(100, 3, 13);
  const auto fit = least_squares(x, y, {.method = how});
  INFO("rank " << fit.report.rank << ", largest " << fit.coefficients.cwiseAbs().maxCoeff());
  CHECK(fit.report.status == status::rank_deficient);
  CHECK(fit.coefficients.cwiseAbs().maxCoeff() <
        2 * least_squares(base, y).coefficients.cwiseAbs().maxCoeff());
}

TEST_CASE("λ follows its formula in every ridge mode", "[linalg][least_squares]") {
  const kvfit::matrix x = 3 * softmax_rows(50, 8, 2, 14);
  const double sigma = spectral_norm(x);
  const auto norm_sq = static_cast<double>(x.squaredNorm());
  CHECK(ridge_lambda(x, ridge_mode::none, 0.1) == 0);
  CHECK(ridge_lambda(x, ridge_mode::fixed, 0.1) == 0.1);
  CHECK(ridge_lambda(x, ridge_mode::frobenius, 0.1) == Approx(0.1 * norm_sq / 8).epsilon(1e-6));
  CHECK(ridge_lambda(x, ridge_mode::spectral, 0.1) == Approx(0.1 * sigma * sigma).epsilon(1e-4));
}

TEST_CASE("every method solves the ridge problem it was given", "[linalg][least_squares]") {
  const any_method how =
      GENERATE(any_method(method::ranked), published, any_method(method::cholesky));
  const auto mode = GENERATE(ridge_mode::spectral, ridge_mode::frobenius, ridge_mode::fixed);
  const auto n = GENERATE(6, 40);
  const kvfit::matrix x = softmax_rows(n, 15, 2, 15);
  const kvfit::matrix y = oracle::gaussian(n, 3, 16);
  const auto fit = solve(x, y, how, mode, 1e-3);
  CHECK(fit.report.lambda == ridge_lambda(x, mode, 1e-3));
  CHECK(fit.report.status == status::solved);
  CHECK_FALSE(fit.report.escalated);
  const auto truth = oracle::least_squares(x, y, fit.report.lambda);
  CHECK(difference(fit.coefficients, truth) < 1e-5);
}

TEST_CASE("§9.11 a fixed ridge is used as given, on small systems too", "[linalg][least_squares]") {
  const kvfit::matrix x = 1e-4F * oracle::gaussian(30, 4, 17);
  const kvfit::matrix y = oracle::gaussian(30, 2, 18);
  for (const auto how : {method::ranked, method::cholesky}) {
    const auto fit =
        least_squares(x, y, {.method = how, .mode = ridge_mode::fixed, .ridge = 1e-10});
    CHECK(fit.report.lambda == 1e-10);
    CHECK(difference(fit.coefficients, oracle::least_squares(x, y, 1e-10L)) < 1e-5);
  }
  // Without a ridge there is none: the residual is the true one.
  for (const auto how : {method::ranked, method::cholesky}) {
    const auto fit = least_squares(x, y, {.method = how});
    const auto truth = oracle::least_squares(x, y);
    const double best = residual_norm(to_double(x), truth, to_double(y));
    const kvfit::matrix residual = product_in_float(x, fit.coefficients) - y;
    CHECK(to_double(residual).norm() <= best * 1.00001);
  }
}

TEST_CASE("a ridge toward a start stays there where the data says nothing",
          "[linalg][least_squares]") {
  const auto how = GENERATE(method::ranked, method::cholesky);
  kvfit::matrix x = softmax_rows(30, 6, 1, 19);
  x.col(2).setZero();
  const kvfit::matrix y = oracle::gaussian(30, 3, 20);
  const kvfit::matrix start = oracle::gaussian(6, 3, 21);
  const least_squares_options options{.method = how, .mode = ridge_mode::fixed, .ridge = 0.5};
  const auto fit = least_squares(x, y, options, start);
  CHECK(is_near(fit.coefficients.row(2), start.row(2), 1e-5F));
  const kvfit::matrix rest = y - product_in_float(x, start);
  const kvfit::matrix expected = start + oracle::to_float(oracle::least_squares(x, rest, 0.5L));
  CHECK(is_near(fit.coefficients, expected, 1e-4F));
  // A ridge that drowns the data leaves the start.
  const auto drowned =
      least_squares(x, y, {.method = how, .mode = ridge_mode::fixed, .ridge = 1e12}, start);
  CHECK(is_near(drowned.coefficients, start, 1e-5F));
}

TEST_CASE("§9.9 norms of 1e±18, one row and one column give finite coefficients",
          "[linalg][least_squares]") {
  const any_method how =
      GENERATE(any_method(method::ranked), published, any_method(method::cholesky));
  const kvfit::matrix x = oracle::gaussian(20, 5, 22);
  const kvfit::matrix y = oracle::gaussian(20, 2, 23);
  const auto plain = solve(x, y, how);
  for (const float scale : {1e-18F, 1e18F}) {
    const auto fit = solve(scale * x, y, how);
    CHECK(fit.report.finite);
    CHECK(fit.report.status == status::solved);
    CHECK(is_near(scale * fit.coefficients, plain.coefficients, 1e-4F));
  }
  const auto row = solve(x.topRows(1), y.topRows(1), how);
  CHECK(row.coefficients.allFinite());
  CHECK(is_near(product_in_float(x.topRows(1), row.coefficients), y.topRows(1), 1e-4F));
  const auto column = solve(x.leftCols(1), y, how);
  const kvfit::matrix first = x.leftCols(1);
  CHECK(is_near(column.coefficients, product_in_float(first.transpose(), y) / first.squaredNorm(),
                1e-4F));
}

TEST_CASE("§9.10 a singular matrix and a zero matrix give finite coefficients and a status",
          "[linalg][least_squares]") {
  const any_method how =
      GENERATE(any_method(method::ranked), published, any_method(method::cholesky));
  const kvfit::matrix y = oracle::gaussian(10, 2, 24);
  const auto zero = solve(kvfit::matrix::Zero(10, 4), y, how);
  CHECK(zero.coefficients == kvfit::matrix::Zero(4, 2));
  CHECK(zero.report.status == status::rank_deficient);
  CHECK(zero.report.rank == 0);
  // All rows alike (zero queries): the published QR fails here, and another tier must say so.
  kvfit::matrix flat = kvfit::matrix::Constant(10, 4, 0.25F);
  const auto fit = solve(flat, y, how);
  CHECK(fit.coefficients.allFinite());
  CHECK(fit.report.status == status::rank_deficient);
  if (how != published) {
    CHECK(fit.report.rank == 1);
    CHECK(difference(fit.coefficients, minimum_norm(flat, y, 1e-6)) < 1e-4);
  }
}

TEST_CASE("§9.10 NaN and infinity are rejected", "[linalg][least_squares]") {
  const float bad =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const auto how = GENERATE(method::ranked, method::cholesky);
  const kvfit::matrix clean_x = oracle::gaussian(10, 3, 25);
  const kvfit::matrix clean_y = oracle::gaussian(10, 2, 26);
  kvfit::matrix x = clean_x;
  x(4, 1) = bad;
  kvfit::matrix y = clean_y;
  y(2, 0) = bad;
  kvfit::matrix start = kvfit::matrix::Zero(3, 2);
  start(0, 0) = bad;
  for (const auto& fit :
       {least_squares(x, clean_y, {.method = how}), least_squares(clean_x, y, {.method = how}),
        least_squares(clean_x, clean_y, {.method = how}, start)}) {
    CHECK(fit.report.status == status::non_finite_input);
    CHECK(fit.report.tier == tier::none);
    CHECK_FALSE(fit.report.finite);
    CHECK(fit.coefficients == kvfit::matrix::Zero(3, 2));
  }
}

TEST_CASE("coefficients beyond fp32 are clamped and reported", "[linalg][least_squares]") {
  const kvfit::matrix x = kvfit::matrix::Constant(2, 1, 1e-25F);
  const kvfit::matrix y = kvfit::matrix::Constant(2, 1, -1e25F);
  const auto fit = least_squares(x, y);
  CHECK(fit.report.status == status::overflow);
  CHECK_FALSE(fit.report.finite);
  CHECK(fit.coefficients(0, 0) == -std::numeric_limits<float>::max());
}

TEST_CASE("least squares without rows, columns or targets does nothing",
          "[linalg][least_squares]") {
  CHECK(least_squares(kvfit::matrix(0, 3), kvfit::matrix(0, 2)).coefficients ==
        kvfit::matrix::Zero(3, 2));
  CHECK(least_squares(kvfit::matrix(4, 0), kvfit::matrix::Zero(4, 2)).coefficients.size() == 0);
  CHECK(least_squares(kvfit::matrix::Ones(4, 2), kvfit::matrix(4, 0)).coefficients.size() == 0);
}

TEST_CASE("same input, same bytes from least squares", "[linalg][least_squares]") {
  const auto how = GENERATE(method::ranked, method::cholesky);
  const kvfit::matrix x = softmax_rows(90, 40, 1, 27);
  const kvfit::matrix y = oracle::gaussian(90, 6, 28);
  CHECK(least_squares(x, y, {.method = how}).coefficients ==
        least_squares(x, y, {.method = how}).coefficients);
}

TEST_CASE("large systems agree with QR in double, whichever way they go",
          "[linalg][least_squares]") {
  struct shape {
    Eigen::Index n;
    Eigen::Index t;
  };
  const auto [n, t] = GENERATE(shape{700, 300}, shape{700, 520}, shape{200, 330}, shape{120, 97});
  const any_method how =
      GENERATE(any_method(method::ranked), published, any_method(method::cholesky));
  kvfit::matrix x = oracle::gaussian(n, t, 29);
  for (Eigen::Index j = 0; j < t; ++j) x.col(j) *= std::exp2(static_cast<float>(j % 7));
  const kvfit::matrix y = oracle::gaussian(n, 5, 30);
  const auto fit = solve(x, y, how);
  const Eigen::MatrixXd exact = to_double(x);
  Eigen::MatrixXd truth;
  if (n >= t) {
    truth = oracle::solve_by_qr(exact, to_double(y));
  } else {
    const Eigen::MatrixXd squares = oracle::product(exact, exact.transpose());
    truth = oracle::transposed_product(exact, oracle::solve_by_cholesky(squares, to_double(y)));
  }
  // Squaring x costs the fp32 Gram matrix of `cholesky` the square of the condition number.
  const double allowed = how == method::ranked ? 1e-5 : 1e-3;
  INFO("n " << n << ", t " << t << ", tier " << name(fit.report.tier) << ", condition "
            << fit.report.condition);
  CHECK_FALSE(fit.report.escalated);
  const double off =
      residual_norm(exact, to_double(fit.coefficients), oracle::product(exact, truth));
  CHECK(off < (how == method::ranked ? 1e-6 : 1e-4) * y.norm());
  CHECK(difference(fit.coefficients, truth) < allowed);
  if (how == method::ranked && n == 700) {
    CHECK(fit.report.tier == tier::cholesky);
  }
}

TEST_CASE("large ill-conditioned systems get a ridge that keeps them bounded",
          "[linalg][least_squares]") {
  const auto t = GENERATE(300, 600);
  const auto how = GENERATE(method::ranked, method::cholesky);
  kvfit::matrix x = oracle::gaussian(1000, t, 31);
  x.rightCols(20) = x.leftCols(20);
  const kvfit::matrix y = oracle::gaussian(1000, 4, 32);
  const auto fit = least_squares(x, y, {.method = how});
  INFO("t " << t << ", tier " << name(fit.report.tier) << ", condition " << fit.report.condition);
  CHECK(fit.report.status == status::rank_deficient);
  CHECK(fit.report.escalated);
  CHECK(fit.report.lambda > 0);
  CHECK(fit.report.rank == t - 20);
  // Twins share alike, to double.
  CHECK((fit.coefficients.topRows(20) - fit.coefficients.bottomRows(20)).norm() <
        1e-5F * fit.coefficients.topRows(20).norm());
  const kvfit::matrix base = x.leftCols(t - 20);
  const Eigen::MatrixXd truth = oracle::solve_by_qr(to_double(base), to_double(y));
  const double best = residual_norm(to_double(base), truth, to_double(y));
  CHECK(residual_norm(to_double(x), to_double(fit.coefficients), to_double(y)) < 1.001 * best);
}

TEST_CASE("§9.11 systems that double can solve get no ridge, whatever their shape",
          "[linalg][least_squares]") {
  const Eigen::Index n = 700;
  const auto t = GENERATE(as<Eigen::Index>{}, 200, 511, 512);
  const double condition = GENERATE(1e2, 2e4);
  const auto orthonormal = [](Eigen::Index rows, Eigen::Index cols, std::uint64_t seed) {
    return oracle::orthonormal_columns(to_double(oracle::gaussian(rows, cols, seed)));
  };
  const Eigen::VectorXd sigma =
      Eigen::VectorXd::LinSpaced(t, 0, -std::log(condition)).array().exp();
  const kvfit::matrix x =
      oracle::to_float(oracle::scaled_product(orthonormal(n, t, 41), sigma, orthonormal(t, t, 42)));
  const kvfit::matrix y = oracle::gaussian(n, 3, 43);
  const Eigen::MatrixXd exact = to_double(x);
  const Eigen::MatrixXd truth = oracle::solve_by_qr(exact, to_double(y));
  const double best = residual_norm(exact, truth, to_double(y));
  for (const auto how : {method::ranked, method::cholesky}) {
    const auto fit = least_squares(x, y, {.method = how});
    INFO("t " << t << ", tier " << name(fit.report.tier) << ", condition " << fit.report.condition);
    CHECK_FALSE(fit.report.escalated);
    CHECK(fit.report.lambda == 0);
    CHECK(fit.report.status == status::solved);
    CHECK(fit.report.rank == t);
    CHECK(residual_norm(exact, to_double(fit.coefficients), to_double(y)) < best * (1 + 1e-5));
    CHECK(difference(fit.coefficients, truth) < (how == method::ranked ? 1e-4 : 0.1));
  }
}

TEST_CASE("Cholesky does not lose numbers near the ends of fp32", "[linalg][least_squares]") {
  const float unit = GENERATE(1e-36F, 1e-30F, 1.0F, 1e30F);
  const kvfit::matrix plain = oracle::gaussian(200, 70, 44);
  const kvfit::matrix x = plain * unit;
  const kvfit::matrix y = oracle::gaussian(200, 4, 45) * unit;
  const auto fit = least_squares(x, y, {.method = method::cholesky});
  const Eigen::MatrixXd truth = oracle::solve_by_qr(to_double(x), to_double(y));
  CHECK(fit.report.status == status::solved);
  CHECK(difference(fit.coefficients, truth) < 1e-4);
}

TEST_CASE("a ridge that was asked for is used as it is on large dependent systems",
          "[linalg][least_squares]") {
  kvfit::matrix x = oracle::gaussian(540, 520, 41);
  x.rightCols(20) = x.leftCols(20);
  const kvfit::matrix y = oracle::gaussian(540, 2, 42);
  const double sigma = spectral_norm(x.leftCols(500));
  const double lambda = 1e-13 * sigma * sigma;
  const auto fit = least_squares(x, y, {.mode = ridge_mode::fixed, .ridge = lambda});
  INFO(name(fit.report.tier));
  CHECK(fit.report.lambda == lambda);
  CHECK_FALSE(fit.report.escalated);
  CHECK(fit.report.rank == 500);
  CHECK((fit.coefficients.topRows(20) - fit.coefficients.bottomRows(20)).norm() <
        1e-4F * fit.coefficients.topRows(20).norm());
}
