// SPDX-License-Identifier: MIT
// J where values are columns of the keys: against the formula in double, gradients by differences.
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "kvfit/refine/objective.hpp"
#include "refine/refine_case.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"

namespace {

using kvfit_test::MatrixXd;
using kvfit_test::moved_logits;
using kvfit_test::refine_case;
using kvfit_test::VectorXd;

/// A case whose values are five of its keys' eight columns.
class tied_case : public refine_case {
 public:
  tied_case(std::uint64_t seed, kvfit::index_t first) : refine_case(seed), first(first) {
    made.values = made.keys.middleCols(first, 5);
    original = gather(made.values);
  }

  kvfit::index_t first;
};

struct tied_parts {
  double total = 0;
  double output = 0;
  double mass = 0;
};

/// J in double, values read from the keys.
tied_parts tied_in_double(const tied_case& of, const kvfit::objective_settings& settings,
                          const MatrixXd& keys, const VectorXd& bias) {
  const std::span<const kvfit::query_block> blocks(of.blocks);
  const auto full = kvfit_test::attend_in_double(blocks, of.cache(), of.rule);
  const MatrixXd logits = moved_logits(of)(keys, bias);
  const MatrixXd values = keys.middleCols(of.first, 5);
  const VectorXd lengths = full.output.rowwise().norm();
  const auto nonzero = static_cast<double>((lengths.array() > 0).count());
  const double floor = 0.01 * std::sqrt(lengths.squaredNorm() / nonzero);
  tied_parts out;
  double seen = 0;
  for (kvfit::index_t i = 0; i < logits.rows(); ++i) {
    if (full.log_mass[i] == -kvfit_test::infinity) continue;
    ++seen;
    const VectorXd x = (logits.row(i).array() - full.log_mass[i]).exp().transpose();
    const double mass = x.sum();
    const double s = settings.mass_softness;
    out.mass += std::sqrt((mass - 1) * (mass - 1) + s * s) - s;
    const VectorXd missing = full.output.row(i).transpose() -
                             (mass > 0 ? VectorXd(oracle::transposed_product(values, x) / mass)
                                       : VectorXd(VectorXd::Zero(5)));
    const double f = lengths[i] > 0 ? 1 / std::max(lengths[i], floor) : 0.0;
    out.output += f * f * missing.squaredNorm();
  }
  out.output /= seen;
  out.mass /= seen;
  out.total = settings.output_weight * out.output + settings.mass_weight * out.mass;
  return out;
}

void check_tied_objective(const tied_case& of, kvfit::objective_settings settings) {
  settings.soft_cap = of.rule.soft_cap;
  settings.tied_from = of.first;
  const kvfit::refine_batch batch = kvfit_test::whole_batch(of);
  kvfit::attention_objective objective(settings, of.original);
  objective.use(batch);
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  const auto value = objective(of.keys, of.bias, keys_gradient, bias_gradient);
  const MatrixXd keys = oracle::to_double(of.keys);
  const VectorXd bias = of.bias.cast<double>();
  const tied_parts expected = tied_in_double(of, settings, keys, bias);
  CHECK(value.total == Approx(expected.total).epsilon(1e-4));
  CHECK(value.mass == Approx(expected.mass).epsilon(1e-4).margin(1e-6));
  if (settings.output_weight > 0) {
    CHECK(value.output == Approx(expected.output).epsilon(1e-4));
    CHECK(objective.values() == of.keys.middleCols(of.first, 5));
  }

  constexpr double h = 1e-5;
  const auto slope = [&](const MatrixXd& of_keys, const VectorXd& of_bias) {
    return (tied_in_double(of, settings, keys + of_keys, bias + of_bias).total -
            tied_in_double(of, settings, keys - of_keys, bias - of_bias).total) /
           (2 * h);
  };
  MatrixXd by_keys(6, 8);
  VectorXd by_bias(6);
  for (kvfit::index_t l = 0; l < 6; ++l) {
    for (kvfit::index_t k = 0; k < 8; ++k) {
      MatrixXd step = MatrixXd::Zero(6, 8);
      step(l, k) = h;
      by_keys(l, k) = slope(step, VectorXd::Zero(6));
    }
    VectorXd step = VectorXd::Zero(6);
    step[l] = h;
    by_bias[l] = slope(MatrixXd::Zero(6, 8), step);
  }
  REQUIRE(keys_gradient.rows() == 6);
  REQUIRE(keys_gradient.cols() == 8);
  CHECK(oracle::relative_error(oracle::to_double(keys_gradient), by_keys) <= 2e-4);
  CHECK(oracle::relative_error(bias_gradient.cast<double>(), by_bias) <= 2e-4);
}

}  // namespace

TEST_CASE("G: the gradient of tied values adds what a vector does as a key and as a value",
          "[refine][objective][tied]") {
  const auto first = GENERATE(kvfit::index_t{0}, kvfit::index_t{3});
  tied_case of(11, first);
  SECTION("with the defaults") {
    check_tied_objective(of, {});
  }
  SECTION("for the outputs alone") {
    check_tied_objective(of, {.mass_weight = 0});
  }
  SECTION("for the mass alone") {
    check_tied_objective(of, {.output_weight = 0});
  }
  SECTION("under a soft-cap, another scale") {
    of.rule.soft_cap = 3;
    of.rule.scale = 0.5F;
    check_tied_objective(of, {.output_weight = 0.3, .mass_weight = 2, .mass_softness = 0.5});
  }
  SECTION("under masks, and with queries that see nothing") {
    of.add_masks();
    check_tied_objective(of, {});
  }
  SECTION("under ALiBi, causality and a window") {
    of.add_positions();
    check_tied_objective(of, {});
  }
}

TEST_CASE("G: a tied point beyond all numbers has an infinite objective",
          "[refine][objective][tied][degenerate]") {
  const tied_case of(12, 0);
  const kvfit::refine_batch batch = kvfit_test::whole_batch(of);
  kvfit::attention_objective objective({.tied_from = 0}, of.original);
  objective.use(batch);
  kvfit::matrix keys = of.keys;
  keys(2, 3) = std::numeric_limits<float>::infinity();
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  CHECK_FALSE(std::isfinite(objective(keys, of.bias, keys_gradient, bias_gradient).total));
  CHECK_FALSE(objective.fit(keys, of.bias));
  CHECK(objective.fit(of.keys, of.bias));
}
