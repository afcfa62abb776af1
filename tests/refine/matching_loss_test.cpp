// SPDX-License-Identifier: MIT
#include "kvfit/refine/matching_loss.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "refine/refine_case.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::gradient_keys;
using kvfit::gradient_loss;
using kvfit_test::MatrixXd;
using kvfit_test::moved_logits;
using kvfit_test::refine_case;
using kvfit_test::VectorXd;
using kvfit_test::whole_batch;

/// Keys, biases and, of the joint loss, some values.
VectorXd point_of(const refine_case& of, gradient_loss loss) {
  const bool has_values = loss == gradient_loss::joint;
  VectorXd x(6 * 9 + (has_values ? 30 : 0));
  const kvfit::matrix values = of.original + kvfit_test::random_matrix(6, 5, 60, 0.3F);
  for (kvfit::index_t l = 0; l < 6; ++l) {
    x.segment(8 * l, 8) = of.keys.row(l).cast<double>();
    x[48 + l] = static_cast<double>(of.bias[l]);
    if (has_values) x.segment(54 + 5 * l, 5) = values.row(l).cast<double>();
  }
  return x;
}

/// The losses as `gradient_keys.hpp` writes them, query by query in double.
class naive_loss {
 public:
  naive_loss(const refine_case& of, const gradient_keys& settings)
      : settings_(settings), logits_(of) {
    const std::span<const kvfit::query_block> blocks(of.blocks);
    full_ = kvfit_test::attend_in_double(blocks, of.cache(), of.rule);
  }

  [[nodiscard]] double at(const VectorXd& x) const {
    MatrixXd keys(6, 8);
    for (kvfit::index_t l = 0; l < 6; ++l) keys.row(l) = x.segment(8 * l, 8);
    const MatrixXd logits = logits_(keys, x.segment(48, 6));
    const bool is_joint = settings_.loss == gradient_loss::joint;
    double output = 0;
    double mass = 0;
    double seen = 0;
    for (kvfit::index_t i = 0; i < logits.rows(); ++i) {
      if (full_.log_mass[i] == -kvfit_test::infinity) continue;
      seen += 1;
      VectorXd found = VectorXd::Zero(5);
      const double most = logits.row(i).maxCoeff();
      if (most > -kvfit_test::infinity) {
        const VectorXd weights = (logits.row(i).array() - most).exp();
        const double missing = full_.log_mass[i] - most - std::log(weights.sum());
        mass += missing * missing;
        if (is_joint) {
          for (kvfit::index_t l = 0; l < 6; ++l) {
            found += weights[l] / weights.sum() * x.segment(54 + 5 * l, 5);
          }
        }
      }
      if (is_joint) output += (full_.output.row(i).transpose() - found).squaredNorm() / 5;
    }
    return (is_joint ? output + settings_.mass_weight * mass : mass) / seen +
           settings_.penalty * x.squaredNorm();
  }

 private:
  gradient_keys settings_;
  moved_logits logits_;
  kvfit_test::oracle_attention full_;
};

/// Value, and gradient against central differences in double.
void check_loss(const refine_case& of, const gradient_keys& settings) {
  const kvfit::refine_batch batch = whole_batch(of);
  kvfit::matching_loss loss(settings, batch, 6, of.rule.soft_cap);
  const VectorXd x = point_of(of, settings.loss);
  REQUIRE(loss.layout().size() == x.size());
  VectorXd gradient = VectorXd::Constant(x.size(), 1e9);  // what stands there is overwritten
  const double value = loss(x, gradient);
  const naive_loss naive(of, settings);
  CHECK(value == Approx(naive.at(x)).epsilon(1e-4));
  VectorXd expected(x.size());
  constexpr double h = 1e-5;
  for (kvfit::index_t k = 0; k < x.size(); ++k) {
    VectorXd step = VectorXd::Zero(x.size());
    step[k] = h;
    expected[k] = (naive.at(x + step) - naive.at(x - step)) / (2 * h);
  }
  const auto share_off = [&](kvfit::index_t first, kvfit::index_t count) {
    return (gradient.segment(first, count) - expected.segment(first, count)).norm() /
           expected.segment(first, count).norm();
  };
  INFO("off by shares of " << share_off(0, 48) << " (keys), " << share_off(48, 6) << " (bias)");
  CHECK(share_off(0, 48) <= 1e-4);
  CHECK(share_off(48, 6) <= 1e-4);
  if (x.size() > 54) CHECK(share_off(54, 30) <= 1e-4);
}

}  // namespace

TEST_CASE("the published losses and their gradients are those of the formulas in double",
          "[refine][gradient]") {
  const auto kind = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const std::uint64_t seed = GENERATE(1U, 2U);
  refine_case of(seed);
  gradient_keys settings{.loss = kind};
  SECTION("with the defaults") {
    check_loss(of, settings);
  }
  SECTION("with other weights") {
    settings.mass_weight = 3;
    settings.penalty = 0.01;
    check_loss(of, settings);
  }
  SECTION("without mass, which the log-mass loss has all the same") {
    settings.mass_weight = 0;
    check_loss(of, settings);
  }
  SECTION("under a soft-cap") {
    of.rule.soft_cap = 3;
    of.rule.scale = 0.5F;
    check_loss(of, settings);
  }
  SECTION("under masks, and with queries that see nothing") {
    of.add_masks();
    settings.penalty = 1e-3;
    check_loss(of, settings);
  }
  SECTION("with queries that see other keys alone") {
    of.add_masks();
    for (const kvfit::index_t row : of.rows) of.mask(33, row) = kvfit_test::hidden_key;
    of.masks = {of.mask};
    check_loss(of, settings);
  }
  SECTION("under ALiBi, causality and a window, with a soft-cap") {
    of.add_positions();
    of.rule.soft_cap = 4;
    of.rule.scale = 0.4F;
    check_loss(of, settings);
  }
}

TEST_CASE("the published losses take any number of queries", "[refine][gradient][panel]") {
  const kvfit::index_t queries =
      GENERATE(kvfit::index_t{7}, kvfit::index_t{239}, kvfit::index_t{240}, kvfit::index_t{241},
               kvfit::index_t{480});
  INFO(queries << " queries");
  const refine_case of(3, queries);
  check_loss(of, {.loss = gradient_loss::joint});
  check_loss(of, {.loss = gradient_loss::log_mass});
}

TEST_CASE("log-masses far from those of the full cache count as they are", "[refine][gradient]") {
  const refine_case of(4);
  const kvfit::refine_batch batch = whole_batch(of);
  const gradient_keys settings{.loss = gradient_loss::log_mass};
  const naive_loss naive(of, settings);
  const auto shift = GENERATE(-300.0, 300.0);  // beyond what exp takes in fp32
  VectorXd x = point_of(of, settings.loss);
  x.segment(48, 6).array() += shift;
  VectorXd gradient(x.size());
  kvfit::matching_loss loss(settings, batch, 6, 0);
  CHECK(loss(x, gradient) == Approx(naive.at(x)).epsilon(1e-5));
  CHECK(gradient.segment(48, 6).sum() == Approx(2 * shift).epsilon(0.02));
}

TEST_CASE("points that overflow have a loss that isn't finite, and the next one has its own",
          "[refine][gradient][degenerate]") {
  const auto kind = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const refine_case of(5);
  const kvfit::refine_batch batch = whole_batch(of);
  kvfit::matching_loss loss({.loss = kind}, batch, 6, 0);
  const VectorXd x = point_of(of, kind);
  VectorXd gradient(x.size());
  const double value = loss(x, gradient);
  for (const double wrong : {1e39, -1e60, 3e38, std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity()}) {
    VectorXd beyond = x;
    beyond.segment(8, 8).setConstant(wrong);
    INFO(wrong);
    CHECK_FALSE(std::isfinite(loss(beyond, gradient)));
  }
  VectorXd again(x.size());
  CHECK(loss(x, again) == value);
  kvfit::matching_loss anew({.loss = kind}, batch, 6, 0);
  CHECK(anew(x, gradient) == value);
  CHECK(again == gradient);
}
