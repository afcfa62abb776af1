// SPDX-License-Identifier: MIT
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/presets.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;
using kvfit::gradient_keys;
using kvfit::gradient_loss;
using kvfit::gradient_optimiser;

namespace {

constexpr head_shape descended_head{.queries = 160, .keys = 48, .depth = 8, .width = 6};

compact_options descending(gradient_loss loss, int steps) {
  compact_options options = loss == gradient_loss::joint ? kvfit::presets::gradient_joint(9)
                                                         : kvfit::presets::gradient_mass(9);
  options.gradient.get_if<kvfit::gradient_keys>()->steps = steps;
  return options;
}

/// The loss without penalty as `gradient_keys.hpp` writes it, of what attention executes.
double loss_of(const gradient_keys& settings, const head& made, const kvfit::kv_block& cache,
               const kvfit::kv_block& compact, const kvfit::logit_rule& rule) {
  const auto full = attend_in_double(made.queries, cache, rule);
  const auto found = attend_in_double(made.queries, compact, rule);
  const double mass = (full.log_mass - found.log_mass).array().square().mean();
  if (settings.loss == gradient_loss::log_mass) return mass;
  return (full.output - found.output).array().square().mean() + settings.mass_weight * mass;
}

}  // namespace

TEST_CASE("the loss that a gradient method reports is that of the result, through attention",
          "[compact][gradient]") {
  const auto loss = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const auto optimiser = GENERATE(gradient_optimiser::adam, gradient_optimiser::lbfgs);
  const bool is_ruled = GENERATE(false, true);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed, descended_head);
    compact_options options = descending(loss, 150);
    options.gradient.get_if<kvfit::gradient_keys>()->optimiser = optimiser;
    kvfit::kv_block cache = made.cache();
    std::vector<float> bias(48);
    for (std::size_t j = 0; j < 48; ++j) bias[j] = 0.02F * static_cast<float>(j);
    if (is_ruled) {
      options.rule.soft_cap = 6;
      options.rule.scale = 0.3F;
      cache.bias = bias;
    }
    const compacted c = compacted_head(cache, made.queries, options);
    const kvfit::gradient_report& report = c.report.gradient;
    INFO("loss from " << report.start_loss << " to " << report.loss);
    check_sound(c, cache, 9);
    CHECK(report.loss < report.start_loss);
    CHECK(report.kept_steps > 0);
    CHECK(report.kept_steps <= report.steps);
    CHECK(report.steps <= 150);
    CHECK(report.loss == Approx(loss_of(*options.gradient.get_if<kvfit::gradient_keys>(), made,
                                        cache, c.block(), options.rule))
                             .epsilon(1e-3));
    CHECK(c.report.refinement.evaluations == 0);
    CHECK(c.report.seconds.refine > 0);
    CHECK(c.report.is_values_fitted);

    options.gradient.get_if<kvfit::gradient_keys>()->steps = 0;
    const compacted start = compacted_head(cache, made.queries, options);
    CHECK(start.positions == c.positions);
    CHECK(report.start_loss == start.report.gradient.loss);
    // With log-mass alone the start's values are fitted after it, with the joint loss before.
    CHECK(report.start_loss == Approx(loss_of(*options.gradient.get_if<kvfit::gradient_keys>(),
                                              made, cache, start.block(), options.rule))
                                   .epsilon(1e-3));
  }
}

TEST_CASE("without steps gradient methods are random rows with fitted values",
          "[compact][gradient]") {
  const auto loss = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const auto storage = GENERATE(kvfit::dtype::fp32, kvfit::dtype::bf16);
  const head made = make_head(1, descended_head);
  compact_options options = descending(loss, 0);
  options.storage.bias = storage;
  const compacted still = compacted_head(made.cache(), made.queries, options);
  CHECK(still.report.gradient.steps == 0);
  CHECK(still.report.gradient.evaluations == 1);
  options.gradient = {};
  const compacted plain = compacted_head(made.cache(), made.queries, options);
  CHECK(same_result(still, plain));
  CHECK(plain.report.gradient.evaluations == 0);
}

TEST_CASE("gradient methods bring output and mass nearer than the rows they start from",
          "[compact][gradient]") {
  const auto loss = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  double output = 0;
  double mass = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const head made = make_head(seed, descended_head);
    const compacted start = compacted_head(made.cache(), made.queries, descending(loss, 0));
    const compacted moved = compacted_head(made.cache(), made.queries, descending(loss, 600));
    output += std::log(moved.report.train.output_error / start.report.train.output_error) / 4;
    mass += std::log(moved.report.train.mass_error / start.report.train.mass_error) / 4;
  }
  INFO("output error times " << std::exp(output) << ", mass error times " << std::exp(mass));
  CHECK(output < std::log(0.95));
  CHECK(mass < std::log(0.4));
}

TEST_CASE("gradient methods give the same bytes again, others for another seed",
          "[compact][gradient]") {
  const auto loss = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const head made = make_head(2, descended_head);
  compact_options options = descending(loss, 40);
  const compacted once = compacted_head(made.cache(), made.queries, options);
  CHECK(same_result(once, compacted_head(made.cache(), made.queries, options)));
  options.selection.get_if<kvfit::selection::random>()->seed += 1;
  CHECK_FALSE(same_result(once, compacted_head(made.cache(), made.queries, options)));
}

TEST_CASE("values of the joint loss are stored as they were moved, unless copies are asked for",
          "[compact][gradient]") {
  const head made = make_head(3, descended_head);
  compact_options options = descending(gradient_loss::joint, 40);
  const compacted exact = compacted_head(made.cache(), made.queries, options);
  options.storage.rows = options.storage.bias = kvfit::dtype::bf16;
  const compacted stored = compacted_head(made.cache(), made.queries, options);
  const auto rounded = [](const auto& numbers) {
    return numbers.unaryExpr([](float x) { return kvfit::to_float(kvfit::to_bf16(x)); }).eval();
  };
  CHECK(stored.keys == rounded(exact.keys));
  CHECK(stored.bias == rounded(exact.bias));
  CHECK(stored.values == rounded(exact.values));
  CHECK(stored.report.gradient.loss == exact.report.gradient.loss);
  // Of the log-mass loss values are fitted to what is stored.
  options.gradient.get_if<kvfit::gradient_keys>()->loss = gradient_loss::log_mass;
  const compacted fitted = compacted_head(made.cache(), made.queries, options);
  CHECK(fitted.report.values.tier != kvfit::linalg::least_squares_tier::none);
  CHECK(fitted.report.is_values_fitted);
}

TEST_CASE("gradient methods start from any selection and bias, and no refinement is made",
          "[compact][gradient]") {
  const head made = make_head(4, descended_head);
  compact_options options{.budget = 9, .refine = {.steps = 0}, .queries = {.per_row = 0}};
  const compacted rows = compacted_head(made.cache(), made.queries, options);
  options.refine.steps.reset();  // refinement would be the default
  options.gradient = gradient_keys{.steps = 100};
  const compacted moved = compacted_head(made.cache(), made.queries, options);
  CHECK(moved.positions == rows.positions);
  CHECK(moved.report.refinement.evaluations == 0);
  CHECK(moved.report.gradient.steps == 100);
  CHECK(moved.report.gradient.loss < moved.report.gradient.start_loss);
  REQUIRE(moved.report.held_out);
}

TEST_CASE("protected rows stay beside those that a gradient method moves", "[compact][gradient]") {
  const head made = make_head(5, descended_head);
  compact_options options = descending(gradient_loss::joint, 20);
  options.protect.first = 2;
  options.protect.last = 3;
  const compacted c = compacted_head(made.cache(), made.queries, options);
  for (const kvfit::index_t j : {0, 1, 6, 7, 8}) {
    const kvfit::index_t row = c.positions[static_cast<std::size_t>(j)];
    CHECK(row == (j < 2 ? j : 48 - 9 + j));
    CHECK(c.keys.row(j) == made.keys.row(row));
    CHECK(c.values.row(j) == made.values.row(row));
    CHECK(c.bias[j] == 0);
  }
}

TEST_CASE("a budget of all rows is the identity, gradient method or not", "[compact][gradient]") {
  const head made = make_head(6, descended_head);
  compact_options options = descending(gradient_loss::joint, 20);
  options.budget = 48;
  const compacted c = compacted_head(made.cache(), made.queries, options);
  CHECK(c.report.is_identity);
  CHECK(c.report.gradient.evaluations == 0);
  CHECK(same_numbers(c.keys, made.keys));
  CHECK(same_numbers(c.values, made.values));
}

TEST_CASE("rates beyond all measure end finite, no worse than they began", "[compact][gradient]") {
  const auto loss = GENERATE(gradient_loss::log_mass, gradient_loss::joint);
  const head made = make_head(7, descended_head);
  compact_options options = descending(loss, 100);
  options.gradient.get_if<kvfit::gradient_keys>()->learning_rate = GENERATE(1e2, 1e6);
  const compacted c = compacted_head(made.cache(), made.queries, options);
  check_sound(c, made.cache(), 9);
  CHECK(c.keys.allFinite());
  CHECK(c.report.gradient.loss <= c.report.gradient.start_loss);
  CHECK(std::isfinite(c.report.train.output_error));
}

TEST_CASE("gradient methods are refused beside refinement, under copies and out of range",
          "[compact][gradient][refusal]") {
  const head made = make_head(1, {.queries = 20, .keys = 20, .depth = 8, .width = 6});
  const auto field_of = [&](const compact_options& options) -> std::string {
    const auto fitted = try_compact(made.cache(), made.queries, options);
    if (fitted) return "";
    CHECK(fitted.error().code == kvfit::errc::invalid_option);
    return fitted.error().argument;
  };
  compact_options options = descending(gradient_loss::joint, 2);
  CHECK(field_of(options).empty());
  options.refine.steps = 0;
  CHECK(field_of(options).empty());
  options.refine.steps = 3;
  CHECK(field_of(options) == "gradient, refine.steps");
  options.budget = 20;  // even where nothing would be done
  CHECK(field_of(options) == "gradient, refine.steps");
  options = descending(gradient_loss::log_mass, 2);
  options.values = kvfit::values::copy{};
  CHECK(field_of(options) == "gradient");
  options = descending(gradient_loss::log_mass, -1);
  CHECK(field_of(options) == "gradient.steps");
  options = descending(gradient_loss::log_mass, 1);
  options.gradient.get_if<kvfit::gradient_keys>()->learning_rate =
      std::numeric_limits<double>::quiet_NaN();
  CHECK(field_of(options) == "gradient.learning_rate");
}
