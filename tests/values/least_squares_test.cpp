// SPDX-License-Identifier: MIT
#include "kvfit/values/least_squares.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kvfit/linalg/cross_validated_ridge.hpp"
#include "kvfit/linalg/published_least_squares.hpp"
#include "kvfit/values/copy.hpp"
#include "kvfit/values/unpivoted_qr.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using kvfit::errc;
using kvfit::output_weighting;
using kvfit::linalg::least_squares_method;
using kvfit::linalg::least_squares_status;
using kvfit::linalg::ridge_mode;
using kvfit::values::least_squares;

namespace {

/// Softmax weights of some kept keys, full outputs, and the keys' own values.
struct sample {
  /// t of 64 keys, n queries.
  sample(std::uint64_t seed, kvfit::index_t t, kvfit::index_t n = 96) {
    const auto head = kvfit_test::make_head(seed, {.queries = n});
    const auto logits = kvfit_test::make_logits(head.cache(), head.queries, {}).logit;
    const Eigen::MatrixXd all = kvfit_test::to_double(head.values);
    Eigen::MatrixXd kept_logits(n, t);
    original.resize(t, all.cols());
    for (kvfit::index_t j = 0; j < t; ++j) {
      kept_logits.col(j) = logits.col(j * 64 / t);
      original.row(j) = head.values.row(j * 64 / t);
    }
    weights = oracle::to_float(kvfit_test::softmax(kept_logits));
    output = oracle::to_float(oracle::product(kvfit_test::softmax(logits), all));
  }

  [[nodiscard]] kvfit::values_problem problem() const { return {&weights, &output, &original}; }

  /// Without a ridge that nobody asked for.
  [[nodiscard]] kvfit::values_fit fit(least_squares policy) const {
    policy.cross_validate_below = 0;
    return fit_as_is(policy);
  }
  [[nodiscard]] kvfit::values_fit fit_as_is(const least_squares& policy) const {
    const auto fitted = fit_values(policy, problem());
    INFO((fitted ? "fitted" : fitted.error().message()));
    REQUIRE(fitted);
    CHECK(fitted->is_fitted);
    CHECK(fitted->values.allFinite());
    return *fitted;
  }

  [[nodiscard]] Eigen::MatrixXd x() const { return oracle::to_double(weights); }
  [[nodiscard]] Eigen::MatrixXd y() const { return oracle::to_double(output); }
  [[nodiscard]] Eigen::MatrixXd own() const { return oracle::to_double(original); }
  /// ‖X C − Y‖.
  [[nodiscard]] double residual(const Eigen::MatrixXd& c) const {
    return oracle::residual_norm(x(), c, y());
  }
  [[nodiscard]] Eigen::MatrixXd zero() const {
    return Eigen::MatrixXd::Zero(original.rows(), original.cols());
  }

  kvfit::matrix weights;
  kvfit::matrix output;
  kvfit::matrix original;
};

/// Both solve in double from the same fp32 numbers; the result is rounded
/// to fp32 once.
void check_close(const kvfit::matrix& found, const Eigen::MatrixXd& expected, double relative) {
  const double error = oracle::relative_error(oracle::to_double(found), expected);
  INFO("values off by a share of " << error << ", allowed " << relative);
  CHECK(error < relative);
}

/// The share of a mean square of 1 that each row has where errors count relative to outputs.
Eigen::VectorXd relative_factors(const Eigen::MatrixXd& y) {
  const Eigen::VectorXd lengths = y.rowwise().norm();
  Eigen::VectorXd factors =
      lengths.cwiseMax(0.01 * std::sqrt(lengths.squaredNorm() / static_cast<double>(y.rows())));
  factors = factors.cwiseInverse();
  return factors * std::sqrt(static_cast<double>(y.rows()) / factors.squaredNorm());
}

/// ‖f_i (x_i C − y_i)‖ for every row.
Eigen::VectorXd row_errors(const sample& made, const Eigen::VectorXd& factors,
                           const Eigen::MatrixXd& values) {
  const Eigen::MatrixXd missing = oracle::product(made.x(), values) - made.y();
  return factors.cwiseProduct(missing.rowwise().norm());
}

/// Outputs that some values explain but for a little, and every 16th row for a lot.
sample with_outliers(std::uint64_t seed) {
  sample made(seed, 10, 160);
  made.output = oracle::product_in_float(made.weights, made.original) +
                kvfit_test::random_matrix(160, made.output.cols(), seed + 50, 0.02F);
  const kvfit::matrix wrong = kvfit_test::random_matrix(160, made.output.cols(), seed + 51, 3);
  for (kvfit::index_t i = 0; i < 160; i += 16) made.output.row(i) += wrong.row(i);
  return made;
}

}  // namespace

TEST_CASE("fitted values are the oracle's least squares, by each method",
          "[values][least_squares]") {
  const auto method = GENERATE(least_squares_method::ranked, least_squares_method::cholesky);
  const bool toward_original = GENERATE(true, false);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const sample made(seed, 16);
    const auto fit = made.fit({.method = method,
                               .toward_original = toward_original,
                               .weighting = output_weighting::absolute});
    INFO("seed " << seed << ", condition " << fit.report.condition);
    check_close(fit.values, kvfit_test::fitted_values(made.x(), made.y(), made.zero()), 1e-6);
    CHECK(fit.report.status == least_squares_status::solved);
    CHECK(fit.report.rank == 16);
    const double residual = made.residual(oracle::to_double(fit.values));
    const double of_copies = made.residual(made.own());
    INFO("residual " << residual << ", of copies " << of_copies);
    CHECK(residual < 0.8 * of_copies);
  }
}

TEST_CASE("values fitted as published are the oracle's least squares, as near as fp32 comes",
          "[values][unpivoted_qr]") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const sample made(seed, 16);
    const auto fit = fit_values(kvfit::values::unpivoted_qr{}, made.problem());
    REQUIRE(fit);
    INFO("seed " << seed << ", condition " << fit->report.condition);
    // Some 1e-7 times the condition number, which is 20 to 40 here.
    check_close(fit->values, kvfit_test::fitted_values(made.x(), made.y(), made.zero()), 1e-5);
    CHECK(fit->report.tier == kvfit::linalg::least_squares_tier::qr_unpivoted);
    CHECK(fit->report.status == least_squares_status::solved);
  }
}

TEST_CASE("a ridge as published is linalg's, to the byte", "[values][unpivoted_qr]") {
  const sample made(13, 14);
  const kvfit::values::unpivoted_qr policy{.ridge_scaling = ridge_mode::spectral, .ridge = 1e-4};
  const auto fit = fit_values(policy, made.problem());
  REQUIRE(fit);
  const auto direct = kvfit::linalg::published_least_squares(
      made.weights, made.output, {.mode = ridge_mode::spectral, .ridge = 1e-4});
  CHECK(fit->values == direct.coefficients);
  CHECK(fit->report.lambda == direct.report.lambda);
}

TEST_CASE("settings of the published value fit outside their ranges are refused",
          "[values][unpivoted_qr]") {
  for (const double bad :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const auto ok = check_settings(kvfit::values::unpivoted_qr{.ridge = bad});
    REQUIRE_FALSE(ok);
    CHECK(ok.error().code == kvfit::errc::invalid_option);
    CHECK(ok.error().argument == "unpivoted_qr.ridge");
  }
}

TEST_CASE("a ridge pulls toward 0 or toward the original, scaled as asked",
          "[values][least_squares][ridge]") {
  const auto mode = GENERATE(ridge_mode::fixed, ridge_mode::frobenius, ridge_mode::spectral);
  const bool toward_original = GENERATE(true, false);
  const auto method = GENERATE(least_squares_method::ranked, least_squares_method::cholesky);
  const double ridge = 0.05;
  const sample made(4, 16);
  const auto fit = made.fit({.method = method,
                             .ridge_scaling = mode,
                             .ridge = ridge,
                             .toward_original = toward_original,
                             .weighting = output_weighting::absolute});
  double lambda = ridge;
  if (mode == ridge_mode::frobenius) lambda *= made.x().squaredNorm() / 16;
  if (mode == ridge_mode::spectral) {
    lambda *= std::pow(oracle::singular_values(made.x())[0], 2);
  }
  INFO("lambda " << fit.report.lambda << ", expected " << lambda);
  CHECK(fit.report.lambda == Approx(lambda).epsilon(1e-3));  // ‖X‖₂ to about four digits
  const Eigen::MatrixXd toward = toward_original ? made.own() : made.zero();
  check_close(fit.values, kvfit_test::fitted_values(made.x(), made.y(), toward, fit.report.lambda),
              1e-6);
  const auto plain = made.fit({.method = method,
                               .toward_original = toward_original,
                               .weighting = output_weighting::absolute});
  const double pulled = oracle::distance(oracle::to_double(fit.values), toward);
  const double free = oracle::distance(oracle::to_double(plain.values), toward);
  INFO("distance " << pulled << " with ridge, " << free << " without");
  CHECK(pulled < 0.97 * free);
}

TEST_CASE("a very strong ridge gives the original values back", "[values][least_squares][ridge]") {
  const sample made(5, 12);
  const auto fit = made.fit({.ridge_scaling = ridge_mode::spectral, .ridge = 1e12});
  check_close(fit.values, made.own(), 1e-6);
}

TEST_CASE("§9.9 fewer queries than keys: what they do not determine stays as it was",
          "[values][least_squares]") {
  const sample made(6, 20, 6);
  const auto ours = made.fit({});
  CHECK(ours.report.status == least_squares_status::rank_deficient);
  // The six outputs are met, the change is the smallest that does it.
  const double residual = made.residual(oracle::to_double(ours.values));
  INFO("residual " << residual << " of " << made.y().norm());
  CHECK(residual < 1e-5 * made.y().norm());
  check_close(ours.values, kvfit_test::fitted_values(made.x(), made.y(), made.own()), 1e-5);

  const auto published = made.fit({.toward_original = false});
  check_close(published.values, kvfit_test::fitted_values(made.x(), made.y(), made.zero()), 1e-5);
  // What no query can see is the part orthogonal to all rows of X.
  const Eigen::MatrixXd rows = made.x().transpose();
  const Eigen::MatrixXd inverse =
      oracle::solve_by_orthogonal(rows, Eigen::MatrixXd::Identity(20, 20));
  const Eigen::MatrixXd seen = oracle::product(rows, inverse);
  const auto unseen_change = [&](const kvfit::matrix& values) {
    const Eigen::MatrixXd change = oracle::to_double(values - made.original);
    return oracle::residual_norm(seen, change, change);
  };
  INFO("unseen part moved by " << unseen_change(ours.values) << ", as published by "
                               << unseen_change(published.values));
  CHECK(unseen_change(ours.values) < 1e-5 * ours.values.norm());
  CHECK(unseen_change(published.values) > 0.1 * made.original.norm());
}

TEST_CASE("a key that no query looks at keeps its value", "[values][least_squares]") {
  sample made(7, 10);
  made.weights.col(4).setZero();
  const auto fit = made.fit({});
  CHECK(fit.report.status == least_squares_status::rank_deficient);
  CHECK(fit.report.rank == 9);
  const float moved = (fit.values.row(4) - made.original.row(4)).cwiseAbs().maxCoeff();
  INFO("moved by " << moved);
  CHECK(moved <= 1e-6F * made.original.row(4).cwiseAbs().maxCoeff());
  CHECK((fit.values.row(3) - made.original.row(3)).cwiseAbs().maxCoeff() > 1e-3F);
}

TEST_CASE("§9.9 duplicate keys: rank loss is reported, values stay finite and the fit as good",
          "[values][least_squares]") {
  const auto method = GENERATE(least_squares_method::ranked, least_squares_method::cholesky);
  sample made(8, 16);
  made.weights.col(15) = made.weights.col(2);
  const auto fit = made.fit({.method = method, .weighting = output_weighting::absolute});
  INFO("rank " << fit.report.rank << ", condition " << fit.report.condition);
  CHECK(fit.report.status == least_squares_status::rank_deficient);
  const double residual = made.residual(oracle::to_double(fit.values));
  const double best = made.residual(kvfit_test::fitted_values(made.x(), made.y(), made.own()));
  INFO("residual " << residual << ", best " << best);
  CHECK(residual < 1.01 * best);
  CHECK(fit.values.cwiseAbs().maxCoeff() < 100 * made.original.cwiseAbs().maxCoeff());
}

TEST_CASE("relative weighting is the oracle's least squares of rows over the lengths of outputs",
          "[values][least_squares][weighting]") {
  const auto method = GENERATE(least_squares_method::ranked, least_squares_method::cholesky);
  const bool toward_original = GENERATE(true, false);
  const double ridge = GENERATE(0.0, 0.02);
  sample made(11, 12);
  for (kvfit::index_t i = 0; i < 96; ++i) {  // lengths over two powers of ten, one below the floor
    made.output.row(i) *= std::pow(10.0F, static_cast<float>(i % 3));
  }
  made.output.row(7) *= 1e-6F;
  const least_squares policy{.method = method,
                             .ridge_scaling = ridge > 0 ? ridge_mode::fixed : ridge_mode::none,
                             .ridge = ridge,
                             .toward_original = toward_original,
                             .weighting = output_weighting::relative};
  const auto fit = made.fit(policy);
  const Eigen::VectorXd factors = relative_factors(made.y());
  const Eigen::MatrixXd x = factors.asDiagonal() * made.x();
  const Eigen::MatrixXd y = factors.asDiagonal() * made.y();
  const Eigen::MatrixXd expected =
      kvfit_test::fitted_values(x, y, toward_original ? made.own() : made.zero(), ridge);
  // Rows are rounded to fp32 once more, times a condition number below 100.
  check_close(fit.values, expected, 1e-5);
  // And it is not the absolute one.
  least_squares published = policy;
  published.weighting = output_weighting::absolute;
  const auto absolute = made.fit(published);
  CHECK(oracle::relative_error(oracle::to_double(absolute.values), expected) > 0.01);
  const double relative_error = row_errors(made, factors, oracle::to_double(fit.values)).norm();
  if (ridge == 0) {
    CHECK(relative_error < row_errors(made, factors, oracle::to_double(absolute.values)).norm());
  }
}

TEST_CASE("queries without output do not count under relative weighting",
          "[values][least_squares][weighting]") {
  sample made(12, 10);
  made.output.row(3).setZero();
  made.output.row(50).setZero();
  const least_squares policy{.weighting = output_weighting::relative, .reweightings = 2};
  const auto before = made.fit(policy);
  made.weights.row(3).setConstant(0.1F);
  made.weights.row(50) = made.weights.row(49);
  CHECK(made.fit(policy).values == before.values);
  made.weights.row(49).setConstant(0.1F);
  CHECK(made.fit(policy).values != before.values);
}

TEST_CASE("without reweightings and with absolute errors the fit is linalg's, to the byte",
          "[values][least_squares][weighting]") {
  const auto method = GENERATE(least_squares_method::ranked, least_squares_method::cholesky);
  const bool toward_original = GENERATE(true, false);
  const sample made(13, 14);
  const auto fit = made.fit({.method = method,
                             .ridge_scaling = ridge_mode::spectral,
                             .ridge = 1e-4,
                             .toward_original = toward_original,
                             .weighting = output_weighting::absolute});
  const kvfit::linalg::least_squares_options options{
      .method = method, .mode = ridge_mode::spectral, .ridge = 1e-4};
  const auto direct =
      toward_original
          ? kvfit::linalg::least_squares(made.weights, made.output, options, made.original)
          : kvfit::linalg::least_squares(made.weights, made.output, options);
  CHECK(fit.values == direct.coefficients);
  CHECK(fit.report.lambda == direct.report.lambda);
  CHECK(fit.report.condition == direct.report.condition);
}

TEST_CASE("reweighted fits are the oracle's: rows over the root of their last error",
          "[values][least_squares][reweighting]") {
  const auto weighting = GENERATE(output_weighting::absolute, output_weighting::relative);
  const int reweightings = GENERATE(1, 2, 5);
  const sample made = with_outliers(14);
  const auto fit = made.fit({.weighting = weighting, .reweightings = reweightings});
  const Eigen::VectorXd factors = weighting == output_weighting::relative
                                      ? relative_factors(made.y())
                                      : Eigen::VectorXd(Eigen::VectorXd::Ones(160));
  const auto solve = [&](const Eigen::VectorXd& weights) {
    return kvfit_test::fitted_values(weights.asDiagonal() * made.x(),
                                     weights.asDiagonal() * made.y(), made.own());
  };
  Eigen::MatrixXd expected = solve(factors);
  for (int k = 0; k < reweightings; ++k) {
    const Eigen::VectorXd errors = row_errors(made, factors, expected);
    const Eigen::VectorXd counted = errors.cwiseMax(0.1 * errors.mean());
    expected = solve(factors.cwiseQuotient(counted.cwiseSqrt()));
  }
  check_close(fit.values, expected, 1e-4);
  const Eigen::MatrixXd once = solve(factors);
  CHECK(oracle::relative_error(expected, once) > 1e-2);
}

TEST_CASE("reweightings lower the mean error where some outputs are outliers, not the mean square",
          "[values][least_squares][reweighting]") {
  const auto weighting = GENERATE(output_weighting::absolute, output_weighting::relative);
  for (std::uint64_t seed = 15; seed < 18; ++seed) {
    const sample made = with_outliers(seed);
    const Eigen::VectorXd factors = weighting == output_weighting::relative
                                        ? relative_factors(made.y())
                                        : Eigen::VectorXd(Eigen::VectorXd::Ones(160));
    const Eigen::MatrixXd squares = oracle::to_double(made.fit({.weighting = weighting}).values);
    const Eigen::VectorXd of_squares = row_errors(made, factors, squares);
    double before = of_squares.mean();
    for (const int reweightings : {1, 3, 10}) {
      const Eigen::MatrixXd robust = oracle::to_double(
          made.fit({.weighting = weighting, .reweightings = reweightings}).values);
      const Eigen::VectorXd errors = row_errors(made, factors, robust);
      INFO("seed " << seed << ", " << reweightings << " reweightings: mean error " << errors.mean()
                   << " after " << before);
      CHECK(errors.mean() < before * (1 + 1e-4));  // the floor under errors moves a little
      CHECK(errors.squaredNorm() > of_squares.squaredNorm());
      if (reweightings == 10) {
        CHECK(errors.mean() < 0.98 * of_squares.mean());
        // The values behind the outputs come out, which the outliers had hidden.
        CHECK(oracle::distance(robust, made.own()) < 0.5 * oracle::distance(squares, made.own()));
      }
      before = errors.mean();
    }
  }
}

TEST_CASE("reweighting a perfect fit leaves it as it is", "[values][least_squares][reweighting]") {
  sample made(18, 8);
  made.output.setZero();
  for (const auto weighting : {output_weighting::absolute, output_weighting::relative}) {
    const auto fit =
        made.fit({.toward_original = false, .weighting = weighting, .reweightings = 4});
    CHECK(fit.values.isZero(0.0F));
  }
}

TEST_CASE("a negative number of reweightings is refused", "[values][least_squares]") {
  const sample made(19, 5);
  const auto fit = fit_values(least_squares{.reweightings = -1}, made.problem());
  REQUIRE_FALSE(fit);
  CHECK(fit.error().code == errc::invalid_option);
  CHECK(fit.error().argument == "least_squares.reweightings");
  CHECK(fit.error().actual == -1);
  CHECK(fit.error().expected == 0);
  CHECK(check_settings(least_squares{.reweightings = 3}));
}

TEST_CASE("a ridge that is negative or not finite is refused", "[values][least_squares]") {
  const sample made(9, 5);
  for (const double ridge :
       {-1e-3, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const auto fit = fit_values(least_squares{.ridge_scaling = ridge_mode::fixed, .ridge = ridge},
                                made.problem());
    REQUIRE_FALSE(fit);
    CHECK(fit.error().code == errc::invalid_option);
    CHECK(fit.error().argument == "least_squares.ridge");
  }
}

TEST_CASE("copied values are the rows' own, to the byte", "[values][copy]") {
  const sample made(10, 8);
  const auto copied = fit_values(kvfit::values::copy{}, made.problem());
  REQUIRE(copied);
  CHECK(copied->values == made.original);
  CHECK_FALSE(copied->is_fitted);
}

TEST_CASE("where queries are few, the ridge is cross-validated, of the rows as weighted",
          "[values][least_squares][ridge]") {
  const bool toward_original = GENERATE(true, false);
  const auto weighting = GENERATE(output_weighting::absolute, output_weighting::relative);
  sample made(21, 16, 40);
  made.output += kvfit_test::random_matrix(40, made.output.cols(), 77, 0.2F);
  const auto fit = made.fit_as_is({.toward_original = toward_original, .weighting = weighting});
  Eigen::VectorXd factors = Eigen::VectorXd::Ones(40);
  if (weighting == output_weighting::relative) factors = relative_factors(made.y());
  const Eigen::MatrixXd scaled = factors.asDiagonal() * made.x();
  const kvfit::matrix x = oracle::to_float(scaled);
  Eigen::MatrixXd wanted = factors.asDiagonal() * made.y();
  if (toward_original) wanted -= oracle::product(oracle::to_double(x), made.own());
  const double lambda = kvfit::linalg::cross_validated_ridge(x, oracle::to_float(wanted));
  CHECK(lambda > 0);
  CHECK(fit.report.lambda == Approx(lambda).epsilon(1e-4));
  const Eigen::MatrixXd expected =
      kvfit_test::fitted_values(oracle::to_double(x), factors.asDiagonal() * made.y(),
                                toward_original ? made.own() : made.zero(), lambda);
  check_close(fit.values, expected, 1e-4);
}

TEST_CASE("with many queries, with a ridge of one's own or when told not to, none is sought",
          "[values][least_squares][ridge]") {
  sample made(22, 8, 128);  // sixteen queries a key
  made.output += kvfit_test::random_matrix(128, made.output.cols(), 78, 0.2F);
  CHECK(made.fit_as_is({}).report.lambda == 0);
  CHECK(made.fit_as_is({.cross_validate_below = 16.01}).report.lambda > 0);
  CHECK(made.fit_as_is({.cross_validate_below = 0}).report.lambda == 0);
  const least_squares own{.ridge_scaling = ridge_mode::fixed, .ridge = 0.125};
  least_squares eager = own;
  eager.cross_validate_below = 1e6;
  CHECK(made.fit_as_is(eager).report.lambda == 0.125);
  CHECK(made.fit_as_is(eager).values == made.fit_as_is(own).values);
  for (const double wrong : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    const auto refused = fit_values(least_squares{.cross_validate_below = wrong}, made.problem());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::invalid_option);
  }
}

TEST_CASE("a cross-validated ridge brings values nearer to the truth on most noisy heads",
          "[values][least_squares][ridge]") {
  int nearer = 0;
  for (std::uint64_t seed = 31; seed < 51; ++seed) {
    sample made(seed, 24, 30);
    const Eigen::MatrixXd truth = made.own();
    made.output = oracle::product_in_float(made.weights, made.original) +
                  kvfit_test::random_matrix(30, made.output.cols(), seed + 100, 0.1F);
    const auto with = made.fit_as_is({.toward_original = false});
    const auto without = made.fit({.toward_original = false});
    const double off_with = oracle::distance(oracle::to_double(with.values), truth);
    const double off_without = oracle::distance(oracle::to_double(without.values), truth);
    nearer += off_with < off_without ? 1 : 0;
  }
  INFO(nearer << " of 20 nearer");
  CHECK(nearer >= 18);
}

TEST_CASE("where queries are too few to have errors, reweighting does not follow their rounding",
          "[values][least_squares][reweighting]") {
  const int reweightings = GENERATE(0, 3);
  sample made(41, 56, 40);
  made.output += kvfit_test::random_matrix(40, made.output.cols(), 91, 0.1F);
  const auto before = made.fit_as_is({.reweightings = reweightings});
  made.output(7, 2) = std::nextafter(made.output(7, 2), 10.0F);
  const auto after = made.fit_as_is({.reweightings = reweightings});
  CHECK(before.report.lambda == Approx(after.report.lambda));
  CHECK((before.values - after.values).norm() < 1e-4F * before.values.norm());
}

TEST_CASE("a ridge is cross-validated up to a size alone", "[values][least_squares][ridge]") {
  const kvfit::matrix x = kvfit_test::random_matrix(520, 515, 1).cwiseAbs();
  const kvfit::matrix y = kvfit_test::random_matrix(520, 2, 2);
  const kvfit::matrix own = kvfit::matrix::Zero(515, 2);
  const auto beyond = fit_values(least_squares{}, kvfit::values_problem{&x, &y, &own});
  REQUIRE(beyond);
  CHECK(beyond->report.lambda == 0);
  const kvfit::matrix fewer = x.leftCols(512);
  const kvfit::matrix fewer_own = own.topRows(512);
  const auto within = fit_values(least_squares{}, kvfit::values_problem{&fewer, &y, &fewer_own});
  REQUIRE(within);
  CHECK(within->report.lambda > 0);
}

TEST_CASE("O: rows that fit to the last digit are not weighted by their rounding",
          "[values][least_squares][guard]") {
  // Every query looks at one key alone, whose value is its output: no row has an error.
  const kvfit::matrix values = kvfit_test::random_matrix(6, 4, 5);
  kvfit::matrix weights = kvfit::matrix::Zero(96, 6);
  kvfit::matrix output(96, 4);
  for (kvfit::index_t i = 0; i < 96; ++i) {
    weights(i, i % 6) = 1;
    output.row(i) = values.row(i % 6);
  }
  const kvfit::matrix original = kvfit::matrix::Zero(6, 4);
  const auto fit =
      fit_values(least_squares{.weighting = output_weighting::absolute, .reweightings = 2},
                 kvfit::values_problem{&weights, &output, &original});
  REQUIRE(fit);
  CHECK(fit->report.status == least_squares_status::solved);
  CHECK((fit->values - values).norm() < 1e-5F * values.norm());
}
