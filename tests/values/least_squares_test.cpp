// SPDX-License-Identifier: MIT
#include "kvfit/values/least_squares.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kvfit/values/copy.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"

using kvfit::errc;
using kvfit::linalg::least_squares_method;
using kvfit::linalg::least_squares_status;
using kvfit::linalg::ridge_mode;
using kvfit::values::least_squares;

namespace {

/// Softmax weights of some kept keys, full outputs, and the keys' own values.
struct sample {
  /// t of 64 keys, n queries.
  sample(std::uint64_t seed, kvfit::index t, kvfit::index n = 96) {
    const auto head = kvfit_test::make_head(seed, {.queries = n});
    const auto logits = kvfit_test::make_logits(head.cache(), head.queries, {}).logit;
    const Eigen::MatrixXd all = kvfit_test::to_double(head.values);
    Eigen::MatrixXd kept_logits(n, t);
    original.resize(t, all.cols());
    for (kvfit::index j = 0; j < t; ++j) {
      kept_logits.col(j) = logits.col(j * 64 / t);
      original.row(j) = head.values.row(j * 64 / t);
    }
    weights = kvfit_test::softmax(kept_logits).cast<float>();
    output = (kvfit_test::softmax(logits) * all).cast<float>();
  }

  [[nodiscard]] kvfit::values_problem problem() const { return {&weights, &output, &original}; }

  [[nodiscard]] kvfit::values_fit fit(const least_squares& policy) const {
    const auto fitted = fit_values(policy, problem());
    INFO((fitted ? "fitted" : fitted.error().message()));
    REQUIRE(fitted);
    CHECK(fitted->is_fitted);
    CHECK(fitted->values.allFinite());
    return *fitted;
  }

  [[nodiscard]] Eigen::MatrixXd x() const { return weights.cast<double>(); }
  [[nodiscard]] Eigen::MatrixXd y() const { return output.cast<double>(); }
  [[nodiscard]] Eigen::MatrixXd own() const { return original.cast<double>(); }
  [[nodiscard]] Eigen::MatrixXd zero() const {
    return Eigen::MatrixXd::Zero(original.rows(), original.cols());
  }

  kvfit::matrix weights;
  kvfit::matrix output;
  kvfit::matrix original;
};

/// Both solve in double from the same fp32 numbers (`qr_unpivoted` in fp32); the result is rounded
/// to fp32 once.
void check_close(const kvfit::matrix& found, const Eigen::MatrixXd& expected, double relative) {
  const double error = (found.cast<double>() - expected).norm() / expected.norm();
  INFO("values off by a share of " << error << ", allowed " << relative);
  CHECK(error < relative);
}

}  // namespace

TEST_CASE("fitted values are the oracle's least squares, by each method",
          "[values][least_squares]") {
  const auto method = GENERATE(least_squares_method::qr, least_squares_method::qr_unpivoted,
                               least_squares_method::cholesky);
  const bool toward_original = GENERATE(true, false);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const sample made(seed, 16);
    const auto fit = made.fit({.method = method, .toward_original = toward_original});
    INFO("seed " << seed << ", condition " << fit.report.condition);
    // As published means fp32: some 1e-7 times the condition number, which is 20 to 40 here.
    const double allowed = method == least_squares_method::qr_unpivoted ? 1e-5 : 1e-6;
    check_close(fit.values, kvfit_test::fitted_values(made.x(), made.y(), made.zero()), allowed);
    CHECK(fit.report.status == least_squares_status::solved);
    CHECK(fit.report.rank == 16);
    const double residual = (made.x() * fit.values.cast<double>() - made.y()).norm();
    const double of_copies = (made.x() * made.own() - made.y()).norm();
    INFO("residual " << residual << ", of copies " << of_copies);
    CHECK(residual < 0.8 * of_copies);
  }
}

TEST_CASE("a ridge pulls toward 0 or toward the original, scaled as asked",
          "[values][least_squares][ridge]") {
  const auto mode = GENERATE(ridge_mode::fixed, ridge_mode::frobenius, ridge_mode::spectral);
  const bool toward_original = GENERATE(true, false);
  const auto method = GENERATE(least_squares_method::qr, least_squares_method::cholesky);
  const double ridge = 0.05;
  const sample made(4, 16);
  const auto fit = made.fit({.method = method,
                             .ridge_scaling = mode,
                             .ridge = ridge,
                             .toward_original = toward_original});
  double lambda = ridge;
  if (mode == ridge_mode::frobenius) lambda *= made.x().squaredNorm() / 16;
  if (mode == ridge_mode::spectral) {
    const Eigen::MatrixXd squares = made.x().transpose() * made.x();
    lambda *= squares.selfadjointView<Eigen::Lower>().eigenvalues().maxCoeff();
  }
  INFO("lambda " << fit.report.lambda << ", expected " << lambda);
  CHECK(fit.report.lambda == Approx(lambda).epsilon(1e-3));  // ‖X‖₂ to about four digits
  const Eigen::MatrixXd toward = toward_original ? made.own() : made.zero();
  check_close(fit.values, kvfit_test::fitted_values(made.x(), made.y(), toward, fit.report.lambda),
              1e-6);
  const auto plain = made.fit({.method = method, .toward_original = toward_original});
  const double pulled = (fit.values.cast<double>() - toward).norm();
  const double free = (plain.values.cast<double>() - toward).norm();
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
  const double residual = (made.x() * ours.values.cast<double>() - made.y()).norm();
  INFO("residual " << residual << " of " << made.y().norm());
  CHECK(residual < 1e-5 * made.y().norm());
  check_close(ours.values, kvfit_test::fitted_values(made.x(), made.y(), made.own()), 1e-5);

  const auto published = made.fit({.toward_original = false});
  check_close(published.values, kvfit_test::fitted_values(made.x(), made.y(), made.zero()), 1e-5);
  // What no query can see is the part orthogonal to all rows of X.
  const Eigen::MatrixXd seen =
      made.x().transpose() * made.x().transpose().completeOrthogonalDecomposition().pseudoInverse();
  const auto unseen_change = [&](const kvfit::matrix& values) {
    const Eigen::MatrixXd change = (values - made.original).cast<double>();
    return (change - seen * change).norm();
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
  const auto method = GENERATE(least_squares_method::qr, least_squares_method::cholesky);
  sample made(8, 16);
  made.weights.col(15) = made.weights.col(2);
  const auto fit = made.fit({.method = method});
  INFO("rank " << fit.report.rank << ", condition " << fit.report.condition);
  CHECK(fit.report.status == least_squares_status::rank_deficient);
  const double residual = (made.x() * fit.values.cast<double>() - made.y()).norm();
  const double best =
      (made.x() * kvfit_test::fitted_values(made.x(), made.y(), made.own()) - made.y()).norm();
  INFO("residual " << residual << ", best " << best);
  CHECK(residual < 1.01 * best);
  CHECK(fit.values.cwiseAbs().maxCoeff() < 100 * made.original.cwiseAbs().maxCoeff());
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
