// SPDX-License-Identifier: MIT
#include "kvfit/refine/gradient_descent.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "kvfit/refine/matching_loss.hpp"
#include "refine/refine_case.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::compact_point;
using kvfit::gradient_keys;
using kvfit::gradient_loss;
using kvfit::gradient_optimiser;
using kvfit::gradient_report;
using kvfit_test::refine_case;
using kvfit_test::whole_batch;

compact_point start_of(const refine_case& of) {
  return {of.gather(of.made.keys), kvfit::vector::Zero(6), of.original};
}

/// The loss at a point, as any caller computes it.
double loss_at(const gradient_keys& settings, const kvfit::refine_batch& batch, float soft_cap,
               const compact_point& at) {
  kvfit::matching_loss loss(settings, batch, 6, soft_cap);
  Eigen::VectorXd x(loss.layout().size());
  for (kvfit::index_t l = 0; l < 6; ++l) {
    x.segment(8 * l, 8) = at.keys.row(l).cast<double>();
    x[48 + l] = static_cast<double>(at.bias[l]);
    if (x.size() > 54) x.segment(54 + 5 * l, 5) = at.values.row(l).cast<double>();
  }
  Eigen::VectorXd gradient(x.size());
  return loss(x, gradient);
}

bool same_point(const compact_point& a, const compact_point& b) {
  return a.keys == b.keys && a.bias == b.bias && a.values == b.values;
}

}  // namespace

TEST_CASE("gradient methods leave the least loss seen, that of their report, below the start's",
          "[refine][gradient]") {
  const auto kind = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const auto optimiser = GENERATE(gradient_optimiser::adam, gradient_optimiser::lbfgs);
  const auto rate = GENERATE(0.001, 0.02, 5.0);
  const bool is_masked = GENERATE(false, true);
  refine_case of(1);
  if (is_masked) of.add_masks();
  of.rule.soft_cap = is_masked ? 5.0F : 0.0F;
  const kvfit::refine_batch batch = whole_batch(of);
  const gradient_keys settings{
      .loss = kind, .optimiser = optimiser, .steps = 60, .learning_rate = rate};
  CAPTURE(static_cast<int>(kind), static_cast<int>(optimiser), rate, is_masked);
  const compact_point start = start_of(of);
  compact_point point = start;
  const gradient_report report = kvfit::descend(settings, batch, of.rule.soft_cap, point);
  CHECK(report.start_loss == loss_at(settings, batch, of.rule.soft_cap, start));
  CHECK(report.loss == loss_at(settings, batch, of.rule.soft_cap, point));
  CHECK(report.loss <= report.start_loss);
  if (rate < 1) CHECK(report.loss < report.start_loss);
  CHECK(report.steps <= 60);
  CHECK(report.kept_steps <= report.steps);
  CHECK(report.evaluations > report.steps);
  CHECK(point.keys.allFinite());
  CHECK(point.bias.allFinite());
  if (kind == gradient_loss::log_mass) CHECK(point.values == start.values);
}

TEST_CASE("more steps of a gradient method bring the loss far down", "[refine][gradient]") {
  const auto kind = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const auto optimiser = GENERATE(gradient_optimiser::adam, gradient_optimiser::lbfgs);
  const refine_case of(2);
  const kvfit::refine_batch batch = whole_batch(of);
  compact_point point = start_of(of);
  const gradient_keys settings{.loss = kind, .optimiser = optimiser, .steps = 1000};
  const gradient_report report = kvfit::descend(settings, batch, 0, point);
  INFO("from " << report.start_loss << " to " << report.loss);
  CHECK(report.loss < (kind == gradient_loss::log_mass ? 0.02 : 0.2) * report.start_loss);
}

TEST_CASE("a gradient method gives the same bytes again", "[refine][gradient]") {
  const auto optimiser = GENERATE(gradient_optimiser::adam, gradient_optimiser::lbfgs);
  const refine_case of(3);
  const kvfit::refine_batch batch = whole_batch(of);
  compact_point once = start_of(of);
  compact_point again = once;
  const gradient_keys settings{.optimiser = optimiser, .steps = 50};
  const gradient_report report = kvfit::descend(settings, batch, 0, once);
  CHECK(kvfit::descend(settings, batch, 0, again).loss == report.loss);
  CHECK(same_point(once, again));
}

TEST_CASE("no steps, and starts of no finite loss, leave the point as it is",
          "[refine][gradient][degenerate]") {
  const auto kind = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const auto optimiser = GENERATE(gradient_optimiser::adam, gradient_optimiser::lbfgs);
  const refine_case of(4);
  const kvfit::refine_batch batch = whole_batch(of);
  compact_point start = start_of(of);
  gradient_keys settings{.loss = kind, .optimiser = optimiser, .steps = 0};
  compact_point point = start;
  const gradient_report still = kvfit::descend(settings, batch, 0, point);
  CHECK(same_point(point, start));
  CHECK(still.steps == 0);
  CHECK(still.evaluations == 1);
  CHECK(still.loss == still.start_loss);

  settings.steps = 20;
  start.keys.row(2).setConstant(3e38F);
  point = start;
  const gradient_report lost = kvfit::descend(settings, batch, 0, point);
  CHECK(same_point(point, start));
  CHECK(lost.steps == 0);
  CHECK_FALSE(std::isfinite(lost.start_loss));
}

TEST_CASE("rates that throw keys beyond all numbers leave the best point, and finite",
          "[refine][gradient][degenerate]") {
  const auto kind = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const auto rate = GENERATE(1e2, 1e4, 1e6);
  const refine_case of(5);
  const kvfit::refine_batch batch = whole_batch(of);
  const compact_point start = start_of(of);
  compact_point point = start;
  const gradient_keys settings{.loss = kind, .steps = 200, .learning_rate = rate};
  const gradient_report report = kvfit::descend(settings, batch, 0, point);
  CHECK(report.loss <= report.start_loss);
  CHECK(report.loss == loss_at(settings, batch, 0, point));
  CHECK(point.keys.allFinite());
  CHECK(point.bias.allFinite());
  CHECK(point.values.allFinite());
  if (report.kept_steps == 0) CHECK(same_point(point, start));
}

TEST_CASE("a gradient method ends where it improves too little for its patience",
          "[refine][gradient]") {
  const auto optimiser = GENERATE(gradient_optimiser::adam, gradient_optimiser::lbfgs);
  const refine_case of(6);
  const kvfit::refine_batch batch = whole_batch(of);
  gradient_keys settings{.loss = gradient_loss::log_mass,
                         .optimiser = optimiser,
                         .steps = 400,
                         .patience = 5,
                         .improvement = 1e6};  // nothing is enough
  compact_point point = start_of(of);
  const gradient_report ended = kvfit::descend(settings, batch, 0, point);
  CHECK(ended.steps == 5);
  CHECK(ended.loss < ended.start_loss);  // kept all the same
  settings.improvement = 1e-3;
  point = start_of(of);
  const gradient_report later = kvfit::descend(settings, batch, 0, point);
  CHECK(later.steps > 5);
  CHECK(later.steps < 400);
}

TEST_CASE("gradient methods refuse settings that have no meaning", "[refine][gradient]") {
  const auto field_of = [](const gradient_keys& settings) {
    const auto checked = kvfit::check_gradient_keys(settings);
    if (checked) return std::string();
    CHECK(checked.error().code == kvfit::errc::invalid_option);
    return std::string(checked.error().argument);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(field_of({}).empty());
  CHECK(field_of({.steps = 0, .least_share = 1, .mass_weight = 0, .improvement = 0}).empty());
  CHECK(field_of({.steps = -1}) == "gradient.steps");
  CHECK(field_of({.patience = 0}) == "gradient.patience");
  for (const double rate : {0.0, -1.0, 2e6, nan}) {
    CHECK(field_of({.learning_rate = rate}) == "gradient.learning_rate");
  }
  for (const double wrong : {-0.1, 2e6, nan}) {
    CHECK(field_of({.least_share = wrong}) == "gradient.least_share");
    CHECK(field_of({.mass_weight = wrong}) == "gradient.mass_weight");
    CHECK(field_of({.penalty = wrong}) == "gradient.penalty");
    CHECK(field_of({.improvement = wrong}) == "gradient.improvement");
  }
}
