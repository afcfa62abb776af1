// SPDX-License-Identifier: MIT
#include "kvfit/bias/nnls.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/bias/projected_gradient.hpp"
#include "kvfit/bias/zero.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using kvfit::errc;
using kvfit::mass_weighting;
using kvfit::bias::nnls;
using kvfit::bias::projected_gradient;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

enum class nnls_solver { exact, projected_gradient };

/// Of either policy; those of `nnls` where nothing is said.
struct settings {
  nnls_solver solver = nnls_solver::exact;
  mass_weighting weighting = mass_weighting::relative;
  double lower = std::exp(-1.0);
  double upper = infinity;
  int iterations = 2;
};

kvfit::result<kvfit::bias_fit> fit_by(const settings& how, const kvfit::bias_problem& problem) {
  if (how.solver == nnls_solver::exact) {
    return fit_bias(nnls{.weighting = how.weighting, .lower = how.lower, .upper = how.upper},
                    problem);
  }
  return fit_bias(projected_gradient{.weighting = how.weighting,
                                     .lower = how.lower,
                                     .upper = how.upper,
                                     .iterations = how.iterations},
                  problem);
}

Eigen::VectorXd to_vector(const std::vector<double>& x) {
  return Eigen::Map<const Eigen::VectorXd>(x.data(), static_cast<Eigen::Index>(x.size()));
}

/// A fit with its weights as a vector.
struct weights_fit {
  Eigen::VectorXd weights;
  kvfit::linalg::bounded_report report;
};

/// The mass equation of some kept rows: as kvfit is given it, and in double.
class kept_rows {
 public:
  kept_rows(const kvfit_test::head& head, const std::vector<kvfit::index_t>& rows)
      : scored_(head.cache(), head.queries), rows_(rows), head_(head) {
    const auto equation =
        kvfit_test::make_mass_equation(head.cache(), head.queries, {}, mass_weighting::absolute);
    columns_ = oracle::to_float(equation.columns_of(rows));
  }

  [[nodiscard]] kvfit::bias_problem problem() const { return {&columns_, &scored_.scores(), {}}; }

  [[nodiscard]] std::pair<Eigen::MatrixXd, Eigen::VectorXd> in_double(
      mass_weighting weighting) const {
    const auto equation =
        kvfit_test::make_mass_equation(head_.cache(), head_.queries, {}, weighting);
    return {equation.columns_of(rows_), equation.target};
  }

  [[nodiscard]] weights_fit fit(const settings& policy) const {
    const auto fitted = fit_by(policy, problem());
    INFO((fitted ? "fitted" : fitted.error().message()));
    REQUIRE(fitted);
    CHECK(fitted->is_fitted);
    // Where the bounds leave no choice, no key is dead for ending on the lower one.
    CHECK(fitted->floor == (policy.lower < policy.upper ? policy.lower : 0));
    weights_fit out{to_vector(fitted->weights), fitted->report};
    CHECK(out.weights.allFinite());
    return out;
  }

  /// Mean over queries of |Σ_j Φ_ij w_j − y_i| / y_i.
  [[nodiscard]] double relative_error(const Eigen::VectorXd& w) const {
    const auto [m, y] = in_double(mass_weighting::relative);
    const Eigen::VectorXd missing = oracle::product(m, w) - y;
    return missing.cwiseAbs().mean();
  }

 private:
  kvfit_test::scored_head scored_;
  std::vector<kvfit::index_t> rows_;
  kvfit_test::head head_;
  kvfit::matrix columns_;
};

/// How far least-squares weights may move when columns come in fp32: entries are off by a share of
/// some 1e-5 (16 terms · 2⁻²⁴ · logits of 10), which the condition number magnifies.
double weight_error(const Eigen::MatrixXd& m, const Eigen::VectorXd& w) {
  const Eigen::VectorXd ascending = oracle::eigenvalues(oracle::transposed_product(m, m));
  return 1e-5 * std::sqrt(ascending[ascending.size() - 1] / ascending[0]) * w.norm();
}

/// `count` rows spread over a head of 64.
std::vector<kvfit::index_t> spread_rows(kvfit::index_t count) {
  std::vector<kvfit::index_t> rows;
  for (kvfit::index_t j = 0; j < count; ++j) rows.push_back(j * 64 / count);
  return rows;
}

}  // namespace

TEST_CASE("§9.11 the exact solver reaches the optimum that trying every active set finds",
          "[bias][nnls]") {
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  const auto bounds = GENERATE(std::pair{std::exp(-1.0), infinity}, std::pair{1e-12, std::exp(7.0)},
                               std::pair{std::exp(-3.0), std::exp(3.0)}, std::pair{2.0, 9.0});
  INFO("bounds " << bounds.first << " to " << bounds.second);
  double worst = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const kept_rows kept(kvfit_test::make_head(seed), spread_rows(seed < 4 ? 6 : 4));
    const auto [m, y] = kept.in_double(weighting);
    const settings policy{.weighting = weighting, .lower = bounds.first, .upper = bounds.second};
    const weights_fit fit = kept.fit(policy);
    const Eigen::VectorXd best = kvfit_test::bounded_optimum(m, y, bounds.first, bounds.second);
    REQUIRE(best.size() > 0);
    const double excess = kvfit_test::loss(m, y, fit.weights) / kvfit_test::loss(m, y, best) - 1;
    INFO("seed " << seed << ": loss above the optimum by a share of " << excess);
    // The loss is flat at the optimum: fp32 columns off by 2e-5 cost some (2e-5)² of ‖y‖², and the
    // optimum is no less than 1e-5 of it here.
    CHECK(excess < 1e-6);
    CHECK(fit.report.status == kvfit::linalg::bounded_status::optimal);
    CHECK(fit.report.objective == Approx(kvfit_test::loss(m, y, best)).epsilon(1e-3));
    worst = std::max(worst, excess);
  }
  INFO("worst excess " << worst);
  CHECK(worst < 1e-6);
}

TEST_CASE("§9.11 the exact solver meets the KKT conditions for many keys", "[bias][nnls]") {
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  const double lower = GENERATE(1e-12, 0.36787944117144233, 1.0);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const kept_rows kept(kvfit_test::make_head(seed), spread_rows(24));
    const auto [m, y] = kept.in_double(weighting);
    const weights_fit fit = kept.fit({.weighting = weighting, .lower = lower});
    const double violation = kvfit_test::kkt_violation_of(m, y, fit.weights, lower, infinity);
    // Gradients of the oracle's own columns: fp32 columns are off by up to 4e-5 of themselves.
    INFO("seed " << seed << ": KKT violation " << violation << ", reported "
                 << fit.report.kkt_residual);
    CHECK(violation < 4e-5);
    CHECK(fit.report.kkt_residual < 1e-8);
    const Eigen::VectorXd slow = kvfit_test::bounded_by_coordinates(m, y, lower, infinity);
    const double best = kvfit_test::loss(m, y, slow);
    INFO("loss " << kvfit_test::loss(m, y, fit.weights) << ", by coordinates " << best);
    CHECK(kvfit_test::loss(m, y, fit.weights) <= best * (1 + 1e-4) + 1e-12 * y.squaredNorm());
    CHECK(fit.report.at_lower == (fit.weights.array() == lower).count());
  }
}

TEST_CASE(
    "no solver is worse than clipped least squares, and the exact one is better where bounds bind",
    "[bias][nnls]") {
  const auto solver = GENERATE(nnls_solver::exact, nnls_solver::projected_gradient);
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  for (const auto& [lower, upper] : {std::pair{1e-12, std::exp(7.0)}, std::pair{1.0, 4.0},
                                     std::pair{std::exp(-3.0), std::exp(3.0)}}) {
    int better = 0;
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const kept_rows kept(kvfit_test::make_head(seed), spread_rows(20));
      const auto [m, y] = kept.in_double(weighting);
      const weights_fit fit = kept.fit({.solver = solver,
                                        .weighting = weighting,
                                        .lower = lower,
                                        .upper = upper,
                                        .iterations = 2});
      const double clipped = kvfit_test::loss(
          m, y, kvfit_test::clipped(kvfit_test::least_squares_weights(m, y), lower, upper));
      const double fitted = kvfit_test::loss(m, y, fit.weights);
      INFO("bounds " << lower << " to " << upper << ", seed " << seed << ": " << fitted
                     << ", clipped " << clipped);
      CHECK(fitted <= clipped * (1 + 1e-4));
      better += fitted < 0.9 * clipped ? 1 : 0;
    }
    INFO("bounds " << lower << " to " << upper << ": much better in " << better << " of 5 heads");
    if (solver == nnls_solver::exact && lower == 1.0) CHECK(better >= 3);
  }
}

TEST_CASE("§9.8 weights are inside the bounds after every solver, 0 iterations included",
          "[bias][nnls]") {
  const auto solver = GENERATE(nnls_solver::exact, nnls_solver::projected_gradient);
  const int iterations = GENERATE(0, 1, 7);
  for (const auto& [lower, upper] : {std::pair{0.9, 1.1}, std::pair{2.0, 2.0},
                                     std::pair{1e-12, 1e-3}, std::pair{50.0, infinity}}) {
    const kept_rows kept(kvfit_test::make_head(3), spread_rows(20));
    const weights_fit fit =
        kept.fit({.solver = solver, .lower = lower, .upper = upper, .iterations = iterations});
    INFO("bounds " << lower << " to " << upper << ", found " << fit.weights.minCoeff() << " to "
                   << fit.weights.maxCoeff());
    CHECK(fit.weights.minCoeff() >= lower);
    CHECK(fit.weights.maxCoeff() <= upper);
  }
}

TEST_CASE("published projected steps are the oracle's, 0 steps being the clip", "[bias][nnls]") {
  const int steps = GENERATE(0, 1, 2, 10);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const kept_rows kept(kvfit_test::make_head(seed), spread_rows(16));
    const auto [m, y] = kept.in_double(mass_weighting::absolute);
    const double lower = std::exp(-3.0);
    const double upper = std::exp(3.0);
    const weights_fit fit = kept.fit({.solver = nnls_solver::projected_gradient,
                                      .weighting = mass_weighting::absolute,
                                      .lower = lower,
                                      .upper = upper,
                                      .iterations = steps});
    const Eigen::VectorXd expected =
        kvfit_test::projected_steps(m, y, kvfit_test::least_squares_weights(m, y), lower, upper,
                                    steps, kvfit_test::largest_square(m));
    const double error = (fit.weights - expected).cwiseAbs().maxCoeff();
    const double bound = weight_error(m, kvfit_test::least_squares_weights(m, y));
    INFO("seed " << seed << ", " << steps << " steps: off by " << error << ", allowed " << bound);
    CHECK(error < bound);
    CHECK(fit.report.iterations == steps);
  }
}

TEST_CASE("relative weighting lowers the mean relative mass error on diffuse and peaked queries",
          "[bias][nnls][weighting]") {
  double relative = 0;
  double absolute = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const kept_rows kept(kvfit_test::make_head(seed), spread_rows(16));
    const double by_relative =
        kept.relative_error(kept.fit({.weighting = mass_weighting::relative}).weights);
    const double by_absolute =
        kept.relative_error(kept.fit({.weighting = mass_weighting::absolute}).weights);
    INFO("seed " << seed << ": relative " << by_relative << ", absolute " << by_absolute);
    CHECK(by_relative < by_absolute);
    relative += by_relative / 6;
    absolute += by_absolute / 6;
  }
  INFO("mean relative mass error: relative weighting " << relative << ", absolute " << absolute);
  CHECK(relative < 0.9 * absolute);
}

TEST_CASE("a fit repeated after some columns changed is the fit made anew", "[bias][nnls]") {
  const kvfit_test::head head = kvfit_test::make_head(3);
  const kvfit_test::scored_head scored(head.cache(), head.queries);
  const auto equation =
      kvfit_test::make_mass_equation(head.cache(), head.queries, {}, mass_weighting::absolute);
  std::vector<kvfit::index_t> rows = spread_rows(20);
  kvfit::matrix columns = oracle::to_float(equation.columns_of(rows));
  kvfit::repeated_bias_fit again;
  kvfit::bias_problem problem{&columns, &scored.scores()};
  problem.again = &again;
  const settings policy{.lower = 1e-3};
  REQUIRE(fit_by(policy, problem));
  const std::vector<kvfit::index_t> changed = {1, 7, 19};
  for (const kvfit::index_t column : changed) rows[static_cast<std::size_t>(column)] += 1;
  columns = oracle::to_float(equation.columns_of(rows));
  again.changed = changed;
  const auto repeated = fit_by(policy, problem);
  const auto anew = fit_by(policy, {&columns, &scored.scores()});
  REQUIRE(repeated);
  REQUIRE(anew);
  CHECK(repeated->report.status == kvfit::linalg::bounded_status::optimal);
  CHECK(repeated->report.objective == Approx(anew->report.objective).epsilon(1e-9));
  for (std::size_t j = 0; j < rows.size(); ++j) {
    CHECK(repeated->weights[j] == Approx(anew->weights[j]).epsilon(1e-4).margin(1e-6));
  }
  CHECK(again.weights == repeated->weights);
}

TEST_CASE("a query that sees nothing has no say in the weights", "[bias][nnls]") {
  const auto solver = GENERATE(nnls_solver::exact, nnls_solver::projected_gradient);
  const kvfit_test::head head = kvfit_test::make_head(5);
  const std::vector<kvfit::index_t> rows = spread_rows(12);
  const kept_rows all(head, rows);
  kvfit_test::head fewer = head;
  fewer.queries = head.queries.topRows(95);
  const kept_rows without(fewer, rows);

  kvfit::matrix mask = kvfit::matrix::Zero(96, 64);
  mask.row(95).setConstant(kvfit_test::hidden_key);
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = head.cache();
  cache.masks = masks;
  const kvfit_test::scored_head scored(cache, head.queries);
  kvfit::matrix columns = *all.problem().columns;
  columns.row(95).setZero();
  const auto masked =
      fit_by({.solver = solver}, kvfit::bias_problem{&columns, &scored.scores(), {}});
  REQUIRE(masked);
  const double error = oracle::largest_difference(to_vector(masked->weights),
                                                  without.fit({.solver = solver}).weights);
  INFO("weights differ by " << error);
  CHECK(error < 1e-4 * to_vector(masked->weights).maxCoeff());
}

TEST_CASE("§9.9 more keys than queries, and duplicate keys, give finite weights inside the bounds",
          "[bias][nnls]") {
  const auto solver = GENERATE(nnls_solver::exact, nnls_solver::projected_gradient);
  const auto check = [&](const kept_rows& kept) {
    const weights_fit fit = kept.fit({.solver = solver, .lower = 0.1, .upper = 50});
    CHECK(fit.weights.minCoeff() >= 0.1);
    CHECK(fit.weights.maxCoeff() <= 50);
    const double error = kept.relative_error(fit.weights);
    const double of_ones = kept.relative_error(Eigen::VectorXd::Ones(fit.weights.size()));
    INFO("relative mass error " << error << ", with weights of 1: " << of_ones);
    // Two published steps after the clip of a minimum-norm answer may end anywhere.
    if (solver != nnls_solver::projected_gradient) CHECK(error < of_ones);
    return fit;
  };
  const weights_fit few =
      check(kept_rows(kvfit_test::make_head(1, {.queries = 7}), spread_rows(20)));
  kvfit_test::head doubled = kvfit_test::make_head(2);
  for (kvfit::index_t j = 1; j < 64; j += 2) doubled.keys.row(j) = doubled.keys.row(j - 1);
  std::vector<kvfit::index_t> rows;
  for (kvfit::index_t j = 0; j < 24; ++j) rows.push_back(j);
  const weights_fit twins = check(kept_rows(doubled, rows));
  if (solver != nnls_solver::exact) return;
  CHECK(few.report.rank_deficient);
  CHECK(twins.report.rank_deficient);
}

TEST_CASE("bounds and iterations outside their ranges are refused", "[bias][nnls]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const kept_rows kept(kvfit_test::make_head(1), spread_rows(5));
  const auto solver = GENERATE(nnls_solver::exact, nnls_solver::projected_gradient);
  std::vector<settings> refused = {
      {.lower = 0},  {.lower = -1}, {.lower = nan}, {.lower = infinity}, {.lower = 2, .upper = 1},
      {.upper = nan}};
  if (solver == nnls_solver::projected_gradient) refused.push_back({.iterations = -1});
  for (settings policy : refused) {
    policy.solver = solver;
    const auto fit = fit_by(policy, kept.problem());
    INFO("lower " << policy.lower << ", upper " << policy.upper << ", iterations "
                  << policy.iterations);
    REQUIRE_FALSE(fit);
    CHECK(fit.error().code == errc::invalid_option);
  }
}

TEST_CASE("zero bias is a weight of 1 a key, and no fit", "[bias][zero]") {
  const kept_rows kept(kvfit_test::make_head(1), spread_rows(5));
  const auto fit = fit_bias(kvfit::bias::zero{}, kept.problem());
  REQUIRE(fit);
  CHECK(fit->weights == std::vector<double>(5, 1.0));
  CHECK(fit->floor == 0);
  CHECK_FALSE(fit->is_fitted);
}

TEST_CASE("the selection's weights are handed on as they are, and missing ones are an error",
          "[bias][from_selection]") {
  const kept_rows kept(kvfit_test::make_head(1), spread_rows(3));
  const std::vector<double> weights = {0.5, 1e-12, 40};
  kvfit::bias_problem problem = kept.problem();
  problem.selection_weights = weights;
  const auto fit = fit_bias(kvfit::bias::from_selection{}, problem);
  REQUIRE(fit);
  CHECK(fit->weights == weights);
  CHECK(fit->floor == 0);

  const auto none = fit_bias(kvfit::bias::from_selection{}, kept.problem());
  REQUIRE_FALSE(none);
  CHECK(none.error().code == errc::invalid_option);
  CHECK(none.error().actual == 0);
  CHECK(none.error().expected == 3);
  const std::vector<double> fewer = {0.5, 2};
  problem.selection_weights = fewer;
  const auto of_another = fit_bias(kvfit::bias::from_selection{}, problem);
  REQUIRE_FALSE(of_another);
  CHECK(of_another.error().actual == 2);
}
