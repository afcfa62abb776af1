// SPDX-License-Identifier: MIT
#include "kvfit/linalg/bounded_nnls.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/growing_qr.hpp"
#include "support/linalg_oracle.hpp"

using namespace kvfit::linalg;
using oracle::growing_qr;
using oracle::worst_violation;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

void check_inside(const Eigen::VectorXd& w, const box& bounds) {
  CHECK(w.allFinite());
  CHECK(w.minCoeff() >= bounds.lower);
  CHECK(w.maxCoeff() <= bounds.upper);
}

Eigen::VectorXd clipped_least_squares(const kvfit::matrix& m, const kvfit::vector& y,
                                      const box& bounds) {
  growing_qr fit(m.rows(), m.cols());
  fit.set_target(y);
  fit.append_block(m);
  Eigen::VectorXd w = fit.solve();
  bounds.clip(w);
  return w;
}

}  // namespace

TEST_CASE("bounded least squares finds what trying every active set finds", "[linalg][nnls]") {
  const auto seed = GENERATE(range(1, 25));
  const Eigen::Index t = 1 + seed % 6;
  const Eigen::Index n = t + seed % 4;
  const auto bits = static_cast<std::uint64_t>(seed);
  const kvfit::matrix m = oracle::gaussian(n, t, bits);
  const kvfit::vector y = 2 * oracle::gaussian(n, 1, bits + 50);
  for (const box bounds : {box{}, box{0.05, 0.6}, box{-0.3, 0.3}, box{-infinity, 0.2},
                           box{-infinity, infinity}, box{0.4, 0.4}}) {
    const auto fit = bounded_nnls(form_normal_equations(m, y), {.bounds = bounds});
    const auto truth = oracle::bounded_by_enumeration(m, y, bounds);
    INFO("seed " << seed << ", box " << bounds.lower << " to " << bounds.upper);
    CHECK(fit.report.status == bounded_status::optimal);
    check_inside(fit.weights, bounds);
    const auto best = oracle::loss(m, y, truth);
    const auto found = oracle::loss(m, y, fit.weights);
    CHECK(found <= best * (1 + 1e-6) + 1e-12 * y.squaredNorm());
    CHECK(found >= best * (1 - 1e-6) - 1e-12 * y.squaredNorm());
    CHECK(worst_violation(m, y, fit.weights, bounds) <= 1.1e-8);
  }
}

TEST_CASE("§9.11 residual is at most the true NNLS residual plus 1e-6, on attention-like columns",
          "[linalg][nnls]") {
  const auto spread = GENERATE(0.5F, 1.0F, 3.0F);
  const auto seed = GENERATE(1U, 2U);
  const kvfit::matrix all = oracle::exponentials(150, 200, spread, seed);
  const kvfit::matrix m = all.leftCols(25);
  const kvfit::vector y = all.rowwise().sum();
  for (const box bounds : {box{0, infinity}, box{1e-12, 1096}, box{0.05, 20}}) {
    const auto fit = bounded_nnls(form_normal_equations(m, y), {.bounds = bounds});
    const auto truth = oracle::bounded_by_coordinates(m, y, bounds);
    INFO("spread " << spread << ", box " << bounds.lower << " to " << bounds.upper << ", "
                   << fit.report.factorizations << " factors");
    CHECK(fit.report.status == bounded_status::optimal);
    CHECK(fit.report.factorizations <= 20);
    CHECK(oracle::loss(m, y, fit.weights) <=
          (1 + 1e-6) * oracle::loss(m, y, truth) + 1e-14 * y.squaredNorm());
    CHECK(worst_violation(m, y, fit.weights, bounds) <= 1.1e-8);
  }
}

TEST_CASE("the report tells the truth about the weights", "[linalg][nnls]") {
  const kvfit::matrix m = oracle::exponentials(100, 30, 2, 3);
  const kvfit::vector y = oracle::exponentials(100, 90, 2, 3).rowwise().sum();
  const box bounds{0.5, 4};
  const auto fit = bounded_nnls(form_normal_equations(m, y), {.bounds = bounds});
  Eigen::VectorXd start = Eigen::VectorXd::Zero(30);
  bounds.clip(start);
  CHECK(fit.report.objective == Approx(oracle::loss(m, y, fit.weights)));
  CHECK(fit.report.start_objective == Approx(oracle::loss(m, y, start)));
  CHECK(fit.report.kkt_residual <= 1e-8);
  CHECK(worst_violation(m, y, fit.weights, bounds) <= 1.1e-8);
  CHECK(fit.report.at_lower == (fit.weights.array() == 0.5).count());
  CHECK(fit.report.at_upper == (fit.weights.array() == 4.0).count());
  CHECK(fit.report.at_lower + fit.report.at_upper > 0);
  CHECK_FALSE(fit.report.rank_deficient);
}

TEST_CASE("§9.8 weight bounds hold after every stage of pivoting, zero iterations included",
          "[linalg][nnls]") {
  const kvfit::matrix m = oracle::exponentials(30, 40, 1, 4);
  const kvfit::vector y = oracle::gaussian(30, 1, 5).cwiseAbs() * 9;
  const normal_equations problem = form_normal_equations(m, y);
  const box bounds{0.05, 2};
  double before = infinity;
  for (int iterations = 0; iterations < 12; ++iterations) {
    const auto fit = bounded_nnls(problem, {.bounds = bounds, .max_iterations = iterations});
    check_inside(fit.weights, bounds);
    CHECK(fit.report.iterations <= iterations);
    CHECK(fit.report.objective <= before);
    before = fit.report.objective;
  }
}

TEST_CASE("bounded least squares is never worse than clipped least squares or its start",
          "[linalg][nnls]") {
  const auto seed = GENERATE(range(1, 9));
  const auto bits = static_cast<std::uint64_t>(seed);
  const Eigen::Index t = 10 * seed;
  const Eigen::Index n = seed % 2 == 0 ? t / 2 : 2 * t;
  const kvfit::matrix all = oracle::exponentials(n, 3 * t, 0.3F * static_cast<float>(seed), bits);
  const kvfit::matrix m = all.leftCols(t);
  const kvfit::vector y = all.rowwise().sum();
  const box bounds{1e-12, 20};
  const normal_equations problem = form_normal_equations(m, y);
  const auto cold = bounded_nnls(problem, {.bounds = bounds});
  const auto clipped = clipped_least_squares(m, y, bounds);
  const double slack = 1e-12 * static_cast<double>(y.squaredNorm());
  const auto loss = [&](const Eigen::VectorXd& w) { return oracle::loss(m, y, w); };
  INFO("n " << n << ", t " << t);
  CHECK(cold.report.status == bounded_status::optimal);
  CHECK(loss(cold.weights) <= loss(clipped) + slack);

  const auto warm = bounded_nnls(problem, {.bounds = bounds}, clipped);
  CHECK(loss(warm.weights) <= loss(clipped) + slack);
  CHECK(loss(warm.weights) <= loss(cold.weights) * 1.0001 + 1e-8 * y.squaredNorm());
  // Cut short: still no worse than where it began.
  const auto hasty = bounded_nnls(problem, {.bounds = bounds, .max_iterations = 1}, cold.weights);
  CHECK(loss(hasty.weights) <= loss(cold.weights) + slack);
}

TEST_CASE("a start at the optimum costs no factor", "[linalg][nnls]") {
  const kvfit::matrix m = oracle::exponentials(100, 30, 2, 6);
  const kvfit::vector y = oracle::exponentials(100, 90, 2, 6).rowwise().sum();
  const normal_equations problem = form_normal_equations(m, y);
  const auto first = bounded_nnls(problem);
  const auto again = bounded_nnls(problem, {}, first.weights);
  CHECK(again.weights == first.weights);
  CHECK(again.report.factorizations == 0);
  CHECK(again.report.status == bounded_status::optimal);
}

TEST_CASE("row factors change what bounded least squares minimises", "[linalg][nnls]") {
  const kvfit::matrix all = oracle::exponentials(120, 100, 2, 7);
  const kvfit::matrix m = all.leftCols(15);
  const kvfit::vector y = all.rowwise().sum();
  std::vector<double> factors(120);
  kvfit::matrix scaled = m;
  for (Eigen::Index i = 0; i < 120; ++i) {
    factors[static_cast<std::size_t>(i)] = 1.0 / static_cast<double>(y[i]);
    scaled.row(i) /= y[i];
  }
  const auto by_factor = bounded_nnls(form_normal_equations(m, y, factors));
  const auto beforehand = bounded_nnls(form_normal_equations(scaled, kvfit::vector::Ones(120)));
  CHECK(oracle::relative_error(by_factor.weights, beforehand.weights) <= 1e-4);
}

TEST_CASE("§9.9 duplicate columns, zero columns and n < t end optimal and say so",
          "[linalg][nnls]") {
  const auto kind = GENERATE(0, 1, 2, 3, 4, 5);
  kvfit::matrix m = oracle::exponentials(24, 12, 1, 8);
  if (kind == 0) m.col(5) = m.col(3);
  if (kind == 1) m.rightCols(6) = m.leftCols(6);
  if (kind == 2) m.col(4).setZero();
  if (kind == 3) m = oracle::exponentials(5, 40, 1, 9);
  if (kind == 4) m = oracle::exponentials(1, 8, 1, 10);
  if (kind == 5) m.colwise() = oracle::exponentials(24, 1, 1, 11).col(0).eval();
  const kvfit::vector y = 7 * m.rowwise().sum() + oracle::gaussian(m.rows(), 1, 12);
  for (const box bounds : {box{}, box{1e-12, 1096}, box{0.05, 20}}) {
    const auto fit = bounded_nnls(form_normal_equations(m, y), {.bounds = bounds});
    INFO("kind " << kind << ", box " << bounds.lower << ", kkt " << fit.report.kkt_residual);
    CHECK(fit.report.status == bounded_status::optimal);
    check_inside(fit.weights, bounds);
    CHECK(worst_violation(m, y, fit.weights, bounds) <= 1.1e-8);
    CHECK(fit.report.rank_deficient == (kind != 2));
    if (kind == 2) CHECK(fit.weights[4] == bounds.clip(0));
    CHECK(fit.weights.maxCoeff() < 1e6);
  }
}

TEST_CASE("§9.9 norms of 1e±18, alone and mixed, stay finite and optimal", "[linalg][nnls]") {
  const auto kind = GENERATE(0, 1, 2);
  kvfit::matrix m = oracle::exponentials(40, 8, 2, 13);
  kvfit::vector y = m.rowwise().sum() + oracle::gaussian(40, 1, 14);
  if (kind == 0) m *= 1e18F;
  if (kind == 1) {
    m *= 1e-18F;
    y *= 1e-18F;
  }
  if (kind == 2) m.col(3) *= 1e-18F;
  const auto fit = bounded_nnls(form_normal_equations(m, y));
  INFO("kind " << kind);
  CHECK(fit.report.status == bounded_status::optimal);
  CHECK(fit.weights.allFinite());
  // The scale of a column changes its weight, not the loss.
  const kvfit::matrix plain = oracle::exponentials(40, 8, 2, 13);
  const kvfit::vector target = plain.rowwise().sum() + oracle::gaussian(40, 1, 14);
  const auto truth = oracle::bounded_by_coordinates(plain, target, box{});
  const double unit = kind == 1 ? 1e-36 : 1.0;
  CHECK(fit.report.objective == Approx(unit * oracle::loss(plain, target, truth)).epsilon(1e-5));
}

TEST_CASE("§9.10 a singular or non-finite Gram matrix gives finite weights and a status",
          "[linalg][nnls]") {
  normal_equations problem{Eigen::MatrixXd::Zero(3, 3), Eigen::VectorXd::Zero(3), 1};
  auto fit = bounded_nnls(problem, {.bounds = {0.1, 2}});
  CHECK(fit.report.status == bounded_status::optimal);
  CHECK(fit.weights == Eigen::VectorXd::Constant(3, 0.1));

  problem.gram = Eigen::MatrixXd::Constant(3, 3, 1e-30);  // rank one, a tiny diagonal
  problem.moment.setConstant(2e-30);
  fit = bounded_nnls(problem);
  CHECK(fit.report.status == bounded_status::optimal);
  CHECK(fit.report.rank_deficient);
  CHECK(fit.weights.sum() == Approx(2));

  // Not positive semidefinite at all, as no Gram matrix is: the best point met, and no promise.
  problem.gram << 1, 2, 0, 2, 1, 0, 0, 0, 1;
  problem.moment.setConstant(1);
  fit = bounded_nnls(problem, {.bounds = {0, 5}});
  CHECK(fit.weights.allFinite());
  check_inside(fit.weights, {0, 5});

  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), infinity}) {
    problem.gram.setIdentity();
    problem.moment.setConstant(1);
    problem.moment[1] = bad;
    fit = bounded_nnls(problem, {.bounds = {0.5, 2}});
    CHECK(fit.report.status == bounded_status::non_finite_input);
    CHECK(fit.weights == Eigen::VectorXd::Constant(3, 0.5));
    problem.moment[1] = 1;
    problem.gram(2, 0) = bad;
    CHECK(bounded_nnls(problem).report.status == bounded_status::non_finite_input);
  }
}

TEST_CASE("bounded least squares handles no column, one column and one row", "[linalg][nnls]") {
  const auto none =
      bounded_nnls(form_normal_equations(kvfit::matrix(4, 0), kvfit::vector::Ones(4)));
  CHECK(none.report.objective == 2);
  CHECK(none.weights.size() == 0);
  CHECK(none.report.status == bounded_status::optimal);

  const kvfit::matrix one = kvfit::matrix::Constant(1, 1, 2);
  const auto single = bounded_nnls(form_normal_equations(one, kvfit::vector::Constant(1, 6)));
  CHECK(single.weights[0] == Approx(3));
  const auto empty = bounded_nnls(form_normal_equations(kvfit::matrix(0, 2), kvfit::vector(0)));
  CHECK(empty.weights == Eigen::VectorXd::Zero(2));
}

TEST_CASE("nearly equal columns in numbers do not make pivoting cycle", "[linalg][nnls]") {
  // Fewer equations than columns and a target they nearly reach: the hardest case for exchanges.
  const auto seed = GENERATE(1U, 2U, 3U);
  const kvfit::matrix all = oracle::exponentials(60, 900, 0.8F, seed);
  const kvfit::matrix m = all.leftCols(180);
  const kvfit::vector y = all.rowwise().sum();
  const auto fit = bounded_nnls(form_normal_equations(m, y), {.bounds = {1e-12, 1096}});
  INFO(fit.report.iterations << " rounds, " << fit.report.kkt_residual);
  CHECK(fit.report.status == bounded_status::optimal);
  CHECK(worst_violation(m, y, fit.weights, {1e-12, 1096}) <= 1.1e-8);
}

TEST_CASE("same problem, same bytes from bounded least squares", "[linalg][nnls]") {
  const kvfit::matrix m = oracle::exponentials(80, 50, 1, 15);
  const normal_equations problem = form_normal_equations(m, kvfit::vector::Ones(80));
  CHECK(bounded_nnls(problem).weights == bounded_nnls(problem).weights);
}
