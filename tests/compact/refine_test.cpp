// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/refine/refinement.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;

namespace {

/// Weights so large that exponentials under them overflow.
struct overwhelming_bias {};

kvfit::result<kvfit::bias_fit> fit_bias(const overwhelming_bias&,
                                        const kvfit::bias_problem& problem) {
  return kvfit::bias_fit{
      .weights = std::vector<double>(static_cast<std::size_t>(problem.columns->cols()), 1e200),
      .is_fitted = true};
}

constexpr head_shape refined_head{.queries = 320, .keys = 64, .depth = 8, .width = 6};

/// Composed here, so that defaults may change.
compact_options refined_options(kvfit::index_t budget, int steps) {
  compact_options options{.budget = budget,
                          .selection = kvfit::selection::joint{},
                          .bias = kvfit::bias::nnls{},
                          .values = kvfit::values::least_squares{}};
  options.refine.steps = steps;
  options.refine.sets = 0;
  options.refine.work = 0;
  options.queries.held_out = 0.125;
  options.queries.per_row = 0;
  return options;
}

/// The same rows; numbers may differ.
void check_refined_shape(const compacted& refined, const compacted& plain) {
  CHECK(refined.positions == plain.positions);
  CHECK(refined.key_positions == plain.key_positions);
  CHECK(refined.keys.allFinite());
  CHECK(refined.bias.allFinite());
  CHECK(refined.values.allFinite());
}

/// Not worse on the queries held out. Masses do not depend on values, so that what was judged is
/// what is returned. Outputs are judged with values that J fits, and returned with those of the
/// policy: both are least squares on the same queries, 2 % apart at the most.
void check_not_worse(const compacted& refined, const compacted& plain) {
  REQUIRE(refined.report.held_out);
  REQUIRE(plain.report.held_out);
  CHECK(refined.report.held_out->mass_error <= plain.report.held_out->mass_error * 1.00001);
  CHECK(refined.report.held_out->output_error <= plain.report.held_out->output_error * 1.02);
  if (refined.report.refinement.kept_steps == 0) return;
  // The promise itself: under values as J fits them, the rows have these errors.
  const kvfit::fidelity& start = refined.report.refinement.start;
  CHECK(start.queries == refined.report.held_out->queries);
  CHECK(refined.report.held_out->rms_output_error <= start.rms_output_error);
  CHECK(refined.report.held_out->mass_error <= start.mass_error);
}

}  // namespace

TEST_CASE("where J is beyond all numbers the rows stay, as without refinement",
          "[compact][refine]") {
  const head made = make_head(2, refined_head);
  kvfit::compact_options options{.budget = 8, .bias = overwhelming_bias{}};
  for (const double held_out : {0.125, 0.0}) {
    options.queries.held_out = held_out;
    options.refine.steps = 0;
    const auto unrefined = kvfit::compact(made.cache(), made.queries, options);
    options.refine.steps = 5;
    const auto refined = kvfit::compact(made.cache(), made.queries, options);
    REQUIRE(unrefined);
    REQUIRE(refined);
    CHECK(refined->report.refinement.kept_steps == 0);
    CHECK(refined->keys == unrefined->keys);
    CHECK(refined->bias == unrefined->bias);
    CHECK(refined->values == unrefined->values);
  }
}

TEST_CASE("biases that are not to be moved are not, whether steps are given or left open",
          "[compact][refine][zero_bias]") {
  int moved = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed, refined_head);
    compact_options options = refined_options(10, 0);
    const compacted plain = compacted_head(made.cache(), made.queries, options);
    options.refine.fits_bias = false;
    options.refine.steps.reset();
    const compacted refined = compacted_head(made.cache(), made.queries, options);
    CHECK(refined.bias == plain.bias);
    CHECK((refined.keys != plain.keys) == (refined.report.refinement.kept_steps > 0));
    if (refined.report.refinement.kept_steps > 0) ++moved;
  }
  CHECK(moved >= 2);
}

TEST_CASE("refinement is never worse on queries held out, and better on most heads",
          "[compact][refine]") {
  int moved = 0;
  int better = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed, refined_head);
    const compacted plain = compacted_head(made.cache(), made.queries, refined_options(10, 0));
    const compacted refined = compacted_head(made.cache(), made.queries, refined_options(10, 20));
    check_refined_shape(refined, plain);
    CHECK(plain.report.refinement.steps == 0);
    CHECK(plain.report.refinement.evaluations == 0);
    CHECK(refined.report.refinement.steps >= 1);
    CHECK(refined.report.refinement.steps <= 20);
    CHECK(refined.report.refinement.evaluations > refined.report.refinement.steps);
    CHECK(refined.report.refinement.kept_steps <= refined.report.refinement.steps);
    check_not_worse(refined, plain);
    if (refined.report.refinement.kept_steps == 0) {
      CHECK(same_result(refined, plain));
      continue;
    }
    ++moved;
    CHECK_FALSE(refined.keys == plain.keys);
    CHECK_FALSE(refined.bias == plain.bias);
    better += refined.report.held_out->output_error < 0.9 * plain.report.held_out->output_error &&
                      refined.report.held_out->mass_error < 0.9 * plain.report.held_out->mass_error
                  ? 1
                  : 0;
    // The report is of what is returned.
    std::vector<kvfit::index_t> judged;
    for (kvfit::index_t i = 7; i < 320; i += 8) judged.push_back(i);
    kvfit::matrix judges(static_cast<kvfit::index_t>(judged.size()), 8);
    for (std::size_t k = 0; k < judged.size(); ++k) {
      judges.row(static_cast<kvfit::index_t>(k)) = made.queries.row(judged[k]);
    }
    const kvfit::fidelity errors = errors_of(judges, made.cache(), refined.block());
    CHECK(refined.report.held_out->queries == 40);
    CHECK(errors.output_error == Approx(refined.report.held_out->output_error).epsilon(1e-3));
    CHECK(errors.mass_error == Approx(refined.report.held_out->mass_error).epsilon(1e-2));
  }
  INFO(moved << " of 8 heads were moved, " << better << " by a tenth in both errors");
  CHECK(moved >= 6);
  CHECK(better >= 4);
}

TEST_CASE("training errors fall with the number of steps where nothing is held out",
          "[compact][refine]") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed, refined_head);
    std::vector<double> output;
    std::vector<double> mass;
    for (const int steps : {0, 5, 40}) {
      compact_options options = refined_options(10, steps);
      options.queries.held_out = 0;
      const compacted c = compacted_head(made.cache(), made.queries, options);
      CHECK_FALSE(c.report.held_out);
      CHECK(c.report.train.queries == 320);
      if (steps > 0) CHECK(c.report.refinement.kept_steps > 0);
      const kvfit::fidelity errors = errors_of(made.queries, made.cache(), c.block());
      CHECK(errors.output_error == Approx(c.report.train.output_error).epsilon(1e-3));
      output.push_back(errors.output_error);
      mass.push_back(errors.mass_error);
    }
    INFO("output " << output[0] << ", " << output[1] << ", " << output[2] << "; mass " << mass[0]
                   << ", " << mass[1] << ", " << mass[2]);
    CHECK(output[1] < output[0]);
    CHECK(output[2] < 0.8 * output[0]);
    CHECK(output[2] < output[1]);
    CHECK(mass[1] < mass[0]);
    CHECK(mass[2] < mass[0]);
  }
}

TEST_CASE("where nothing judges better the result is the unrefined one, bit for bit",
          "[compact][refine][keep]") {
  // One query is held out, and few are fitted on: much is learnt by heart.
  int kept = 0;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed, {.queries = 12, .keys = 40, .depth = 8, .width = 6});
    compact_options options = refined_options(8, 0);
    options.queries.held_out = 0.1;
    const compacted plain = compacted_head(made.cache(), made.queries, options);
    options.refine.steps = 15;
    const compacted refined = compacted_head(made.cache(), made.queries, options);
    CHECK(refined.report.refinement.steps >= 1);
    if (refined.report.refinement.kept_steps > 0) {
      CHECK_FALSE(same_result(refined, plain));
      continue;
    }
    ++kept;
    CHECK(same_result(refined, plain));
    CHECK(refined.report.train.output_error == plain.report.train.output_error);
    CHECK(refined.report.train.mass_error == plain.report.train.mass_error);
    REQUIRE(refined.report.held_out);
    CHECK(refined.report.held_out->output_error == plain.report.held_out->output_error);
  }
  INFO(kept << " of 12 heads kept their rows");
  CHECK(kept >= 2);
}

TEST_CASE("refinement is deterministic, sets included, and its seed matters",
          "[compact][refine][sets]") {
  const head made = make_head(2, refined_head);
  compact_options options = refined_options(10, 24);
  options.refine.sets = 3;
  options.refine.sets_at_once = 2;
  if (GENERATE(true, false)) options.refine.rotation = kvfit::rope{};
  const compacted once = compacted_head(made.cache(), made.queries, options);
  const compacted again = compacted_head(made.cache(), made.queries, options);
  CHECK(same_result(once, again));
  CHECK(once.report.refinement.evaluations == again.report.refinement.evaluations);
  REQUIRE(once.report.refinement.kept_steps > 0);
  check_not_worse(once, compacted_head(made.cache(), made.queries, refined_options(10, 0)));
  options.refine.seed = 1;
  CHECK_FALSE(same_result(once, compacted_head(made.cache(), made.queries, options)));
  options.refine.seed = 0;
  options.refine.spread = 0.6;
  CHECK_FALSE(same_result(once, compacted_head(made.cache(), made.queries, options)));
}

TEST_CASE("batches take a share of the queries each", "[compact][refine][batch]") {
  const head made = make_head(3, refined_head);
  const compacted plain = compacted_head(made.cache(), made.queries, refined_options(10, 0));
  compact_options options = refined_options(10, 24);
  const compacted whole = compacted_head(made.cache(), made.queries, options);
  options.refine.batch = 280;  // just what is fitted on
  CHECK(same_result(whole, compacted_head(made.cache(), made.queries, options)));
  options.refine.batch = std::numeric_limits<kvfit::index_t>::max();
  options.refine.sets_at_once = std::numeric_limits<int>::max();  // of none
  CHECK(same_result(whole, compacted_head(made.cache(), made.queries, options)));
  options.refine.batch = 279;
  options.refine.steps_a_batch = 6;
  const compacted halves = compacted_head(made.cache(), made.queries, options);
  CHECK(halves.report.refinement.steps <= 24);
  CHECK(halves.report.refinement.steps > 6);
  CHECK_FALSE(same_result(whole, halves));
  check_not_worse(halves, plain);
}

TEST_CASE("biases stay as they are where they may not be fitted", "[compact][refine][bias]") {
  const head made = make_head(4, refined_head);
  compact_options options = refined_options(10, 20);
  options.bias = kvfit::bias::zero{};
  options.refine.fits_bias = false;
  const compacted refined = compacted_head(made.cache(), made.queries, options);
  CHECK(refined.report.refinement.kept_steps > 0);
  CHECK(refined.bias.isZero(0.0));
  options.refine.steps = 0;
  const compacted plain = compacted_head(made.cache(), made.queries, options);
  CHECK_FALSE(refined.keys == plain.keys);
  check_not_worse(refined, plain);
  // A bias fitted before stays what it was, the cache's own included.
  const std::vector<float> own(64, 0.5F);
  kvfit::kv_block cache = made.cache();
  cache.bias = own;
  options.bias = kvfit::bias::nnls{};
  const compacted fitted = compacted_head(cache, made.queries, options);
  options.refine.steps = 20;
  const compacted moved = compacted_head(cache, made.queries, options);
  CHECK(moved.report.refinement.kept_steps > 0);
  CHECK(same_numbers(moved.bias, fitted.bias));
  CHECK_FALSE(moved.keys == fitted.keys);
  options.refine.fits_bias = true;
  CHECK_FALSE(same_numbers(compacted_head(cache, made.queries, options).bias, fitted.bias));
}

TEST_CASE("refined numbers are those of the storage type", "[compact][refine][storage]") {
  const head made = make_head(5, refined_head);
  const auto type = GENERATE(kvfit::dtype::fp16, kvfit::dtype::bf16);
  compact_options options = refined_options(10, 20);
  options.storage.rows = type;
  options.storage.bias = type;
  const compacted refined = compacted_head(made.cache(), made.queries, options);
  REQUIRE(refined.report.refinement.kept_steps > 0);
  const auto is_stored = [type](const auto& numbers) {
    return std::all_of(numbers.data(), numbers.data() + numbers.size(), [type](float x) {
      return x == (type == kvfit::dtype::fp16 ? kvfit::to_float(kvfit::to_fp16(x))
                                              : kvfit::to_float(kvfit::to_bf16(x)));
    });
  };
  CHECK(is_stored(refined.keys));
  CHECK(is_stored(refined.bias));
  CHECK(is_stored(refined.values));
  options.storage.rows = options.storage.bias = kvfit::dtype::fp32;
  CHECK_FALSE(is_stored(compacted_head(made.cache(), made.queries, options).keys));
  options.storage.rows = options.storage.bias = type;
  options.refine.steps = 0;
  check_not_worse(refined, compacted_head(made.cache(), made.queries, options));
}

TEST_CASE("refined values that overflow the storage leave the unrefined result, bit for bit",
          "[compact][refine][storage]") {
  int overflowed = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    for (const kvfit::index_t budget : {3, 6, 16, 30}) {
      head made = make_head(seed, refined_head);
      const auto compacted_with = [&](int steps, kvfit::dtype storage) {
        compact_options options = refined_options(budget, steps);
        options.storage.rows = storage;
        options.refine.mass_weight = 0.01;
        return try_compact(made.cache(), made.queries, options);
      };
      const auto largest_with = [&](int steps) {
        const auto c = compacted_with(steps, kvfit::dtype::fp32);
        REQUIRE(c);
        return c->values.cwiseAbs().maxCoeff();
      };
      const float refined = largest_with(30);
      const float plain = std::max(largest_with(0), made.values.cwiseAbs().maxCoeff());
      if (refined < 1.02F * plain) continue;
      made.values *= 65504.0F * 2 / (refined + plain);
      const auto moved = compacted_with(30, kvfit::dtype::fp16);
      const auto still = compacted_with(0, kvfit::dtype::fp16);
      INFO("seed " << seed << ", budget " << budget << ": " << refined << " after " << plain);
      REQUIRE(still);
      REQUIRE(moved);
      CHECK(moved->report.refinement.steps > 0);
      if (moved->report.refinement.kept_steps > 0) continue;  // rounded keys went another way
      ++overflowed;
      CHECK(same_result(*moved, *still));
    }
  }
  INFO(overflowed << " heads overflowed");
  CHECK(overflowed >= 1);
}

TEST_CASE("protected rows are not refined", "[compact][refine][protect]") {
  const head made = make_head(6, refined_head);
  std::vector<float> bias(64);
  for (std::size_t j = 0; j < 64; ++j) bias[j] = 0.01F * static_cast<float>(j);
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  compact_options options = refined_options(16, 20);
  options.protect.first = 2;
  options.protect.last = 4;
  const compacted refined = compacted_head(cache, made.queries, options);
  REQUIRE(refined.report.refinement.kept_steps > 0);
  REQUIRE(refined.positions.size() == 16);
  kvfit::index_t moved = 0;
  for (kvfit::index_t j = 0; j < 16; ++j) {
    const kvfit::index_t row = refined.positions[static_cast<std::size_t>(j)];
    if (j >= 2 && j < 12) {
      moved += refined.keys.row(j) != made.keys.row(row) ? 1 : 0;
      continue;
    }
    CHECK(row == (j < 2 ? j : 48 + j));
    CHECK(same_numbers(refined.keys.row(j).eval(), made.keys.row(row).eval()));
    CHECK(same_numbers(refined.values.row(j).eval(), made.values.row(row).eval()));
    CHECK(refined.bias[j] == bias[static_cast<std::size_t>(row)]);
  }
  CHECK(moved == 10);
}

TEST_CASE("a budget of T or more is the identity, whatever refinement is asked for",
          "[compact][refine][identity]") {
  const head made = make_head(7, {.queries = 40, .keys = 20, .depth = 8, .width = 6});
  const compacted c = compacted_head(made.cache(), made.queries, refined_options(20, 20));
  CHECK(c.report.is_identity);
  CHECK(same_numbers(c.keys, made.keys));
  CHECK(same_numbers(c.values, made.values));
  CHECK(c.bias.isZero(0.0));
  CHECK(c.report.refinement.steps == 0);
}

TEST_CASE("refinement goes by masks, positions and soft-caps", "[compact][refine][mask]") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed, refined_head);
    kvfit::matrix mask = random_matrix(320, 64, 70 + seed, 0.5F);
    mask.row(5).setConstant(hidden_key);  // sees nothing
    mask.block(30, 10, 90, 30).setConstant(hidden_key);
    const std::vector<kvfit::row_view> masks = {mask};
    kvfit::kv_block cache = made.cache();
    cache.masks = masks;
    const kvfit::query_block queries(made.queries, 30, 0.01F);
    compact_options options = refined_options(12, 0);
    options.rule = {.soft_cap = 8, .causal = true, .window = 330};
    const compacted plain = compacted_head(cache, queries, options);
    options.refine.steps = 20;
    const compacted refined = compacted_head(cache, queries, options);
    check_refined_shape(refined, plain);
    check_not_worse(refined, plain);
    CHECK(refined.report.masked_queries == 1);
    CHECK(refined.report.refinement.steps > 0);
  }
}

TEST_CASE("a work limit ends refinement early, after one step at the least",
          "[compact][refine][work]") {
  const head made = make_head(3, refined_head);
  compact_options options = refined_options(10, 30);
  options.queries.held_out = 0;
  const auto steps_with = [&](double work) {
    options.refine.work = work;
    return compacted_head(made.cache(), made.queries, options).report.refinement;
  };
  const auto unlimited = steps_with(0);
  CHECK(unlimited.steps == 30);
  CHECK(steps_with(1e6).steps == 30);
  CHECK(steps_with(1e-6).steps == 1);
  // A pass: 64 · (8 + 6); an evaluation: 10 · (16 + 18 + 5).
  const double evaluation = 10.0 * (2 * 8 + 3 * 6 + 5) / (64.0 * (8 + 6));
  const auto limited = steps_with(12.5 * evaluation);
  CHECK(limited.steps > 1);
  CHECK(limited.steps <= 11);
  CHECK(limited.steps < unlimited.steps);
  // Without outputs an evaluation costs less, so that more steps are within the same work.
  options.refine.output_weight = 0;
  CHECK(steps_with(12.5 * evaluation).steps > limited.steps);
}

TEST_CASE("refinement for the mass alone lowers the mass error", "[compact][refine]") {
  const head made = make_head(8, refined_head);
  compact_options options = refined_options(10, 0);
  const compacted plain = compacted_head(made.cache(), made.queries, options);
  options.refine.steps = 30;
  options.refine.output_weight = 0;
  const compacted refined = compacted_head(made.cache(), made.queries, options);
  check_not_worse(refined, plain);
  REQUIRE(refined.report.refinement.kept_steps > 0);
  CHECK(refined.report.train.mass_error < plain.report.train.mass_error);
}

TEST_CASE("copied values are not refined under", "[compact][refine][values]") {
  const head made = make_head(9, refined_head);
  compact_options options = refined_options(10, 20);
  options.values = kvfit::values::copy{};
  const auto refused = kvfit_test::try_compact(made.cache(), made.queries, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == kvfit::errc::invalid_option);
  CHECK(refused.error().argument == "refine.steps");
  options.refine.steps.reset();  // left open, there are none
  const compacted c = compacted_head(made.cache(), made.queries, options);
  CHECK(c.report.refinement.steps == 0);
  for (kvfit::index_t j = 0; j < 10; ++j) {
    const kvfit::index_t row = c.positions[static_cast<std::size_t>(j)];
    CHECK(c.keys.row(j) == made.keys.row(row));
    CHECK(c.values.row(j) == made.values.row(row));
  }
}

TEST_CASE("fits take a share of the queries", "[compact][refine][thin]") {
  const head made = make_head(1, refined_head);
  compact_options options = refined_options(10, 3);
  options.queries.held_out = 0;
  options.queries.at_least = 1;
  const auto fitted_on = [&] {
    return compacted_head(made.cache(), made.queries, options).report.train.queries;
  };
  CHECK(fitted_on() == 320);
  options.queries.per_row = 8;  // 80 of 320: every fourth
  CHECK(fitted_on() == 80);
  options.queries.per_row = 16;
  CHECK(fitted_on() == 160);
  options.queries.per_row = 32;
  CHECK(fitted_on() == 320);
  options.queries.per_row = 1;
  options.queries.at_least = 80;
  CHECK(fitted_on() == 80);
  options.queries.at_least = 1024;
  CHECK(fitted_on() == 320);
  // Beside those held out, which are the same as without.
  options.queries.held_out = 0.125;
  options.queries.at_least = 1;
  options.queries.per_row = 8;
  const compacted c = compacted_head(made.cache(), made.queries, options);
  REQUIRE(c.report.held_out);
  CHECK(c.report.held_out->queries == 40);
  CHECK(c.report.train.queries >= 80);  // never fewer
  CHECK(c.report.train.queries <= 160);
  CHECK(c.positions.size() == 10);
}

TEST_CASE("refinement settings out of range are refused", "[compact][refine][refuse]") {
  const head made = make_head(1, {.queries = 20, .keys = 20, .depth = 8, .width = 6});
  const auto field_of = [&](const kvfit::refinement& settings) -> std::string {
    compact_options options = refined_options(8, 0);
    options.refine = settings;
    const auto by_door = try_compact(made.cache(), made.queries, options);
    const auto by_check = kvfit::check_refinement(settings, 8);
    CHECK(by_door.has_value() == by_check.has_value());
    if (by_check) return "";
    CHECK(by_check.error().code == kvfit::errc::invalid_option);
    if (!by_door) CHECK(std::string(by_door.error().argument) == by_check.error().argument);
    return by_check.error().argument;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(field_of({}).empty());
  CHECK(field_of({.steps = 1, .sets = 2, .rotation = kvfit::rope{}}).empty());
  CHECK(field_of({.output_weight = 0, .mass_weight = 0}).empty());
  CHECK(field_of({.steps = -1}) == "refine.steps");
  CHECK(field_of({.sets = -1}) == "refine.sets");
  CHECK(field_of({.sets_at_once = 0}) == "refine.sets_at_once");
  CHECK(field_of({.steps_a_batch = 0}) == "refine.steps_a_batch");
  CHECK(field_of({.batch = 0}) == "refine.batch");
  CHECK(field_of({.output_weight = -0.1}) == "refine.output_weight");
  CHECK(field_of({.output_weight = 2e6}) == "refine.output_weight");
  CHECK(field_of({.mass_weight = nan}) == "refine.mass_weight");
  CHECK(field_of({.work = -1}) == "refine.work");
  CHECK(field_of({.work = nan}) == "refine.work");
  CHECK(field_of({.mass_softness = 0}) == "refine.mass_softness");
  CHECK(field_of({.mass_softness = nan}) == "refine.mass_softness");
  CHECK(field_of({.spread = -0.1}) == "refine.spread");
  CHECK(field_of({.spread = 101}) == "refine.spread");
  CHECK(field_of({.rotation = kvfit::rope{.base = 0}}) == "rope.base");
  CHECK(field_of({.rotation = kvfit::rope{.dims = 3}}) == "rope.dims");
  CHECK(field_of({.rotation = kvfit::rope{.dims = 10}}) == "rope.dims");
}

TEST_CASE("heads too small to learn from are refined to something finite",
          "[compact][refine][degenerate]") {
  struct shape {
    head_shape sizes;
    kvfit::index_t budget;
  };
  const auto [sizes, budget] =
      GENERATE(shape{{.queries = 1, .keys = 30}, 6}, shape{{.queries = 2, .keys = 30}, 25},
               shape{{.queries = 30, .keys = 2}, 1}, shape{{.keys = 30, .depth = 1, .width = 1}, 7},
               shape{{.keys = 30, .depth = 24, .width = 3}, 7});
  head made = make_head(5, sizes);
  const bool is_zero = GENERATE(false, true);
  if (is_zero) made.queries.setZero();
  for (const double held_out : {0.0, 0.5}) {
    compact_options options = refined_options(budget, 12);
    options.queries.held_out = held_out;
    options.refine.sets = 1;
    const compacted c = compacted_head(made.cache(), made.queries, options);
    CHECK(static_cast<kvfit::index_t>(c.positions.size()) == budget);
    CHECK(c.keys.allFinite());
    CHECK(c.bias.allFinite());
    CHECK(c.values.allFinite());
    CHECK(std::isfinite(errors_of(made.queries, made.cache(), c.block()).output_error));
  }
}
