// SPDX-License-Identifier: MIT
#include "kvfit/selection/omp.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kvfit/selection/highest_attention.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"

using kvfit::errc;
using kvfit::mass_weighting;
using kvfit::selected_rows;
using kvfit::selection::omp;
using kvfit_test::head;
using kvfit_test::make_head;
using kvfit_test::rows_up_to;
using kvfit_test::scored_head;

namespace {

/// Decisions nearer than this, as a share of the first round's largest score, are not compared:
/// fp32 columns are off by 16 terms · 2⁻²⁴ · |logit| (30 at most), some 3e-5, in random directions.
constexpr double resolution = 1e-5;

selected_rows run(const omp& policy, const kvfit::selection_problem& problem) {
  const auto chosen = select(policy, problem);
  INFO((chosen ? "chosen" : chosen.error().message()));
  REQUIRE(chosen);
  return *chosen;
}

/// Ln of a clipped least-squares weight: how far fp32 columns may move it. Weights that matter have
/// condition numbers in the hundreds; 2e-3 of the largest weight covers them.
void check_weights(const std::vector<double>& found, const Eigen::VectorXd& expected) {
  REQUIRE(static_cast<kvfit::index_t>(found.size()) == expected.size());
  const double bound = 2e-3 * expected.maxCoeff();
  double worst = 0;
  for (kvfit::index_t j = 0; j < expected.size(); ++j) {
    worst = std::max(worst, std::abs(found[static_cast<std::size_t>(j)] - expected[j]));
  }
  INFO("weights off by " << worst << ", allowed " << bound);
  CHECK(worst <= bound);
}

/// Runs kvfit and the oracle on several heads; counts those whose decisions are clear.
void check_against_oracle(const omp& policy, kvfit::index_t budget, int at_least) {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed);
    const auto equation =
        kvfit_test::make_mass_equation(made.cache(), made.queries, {}, policy.weighting);
    const auto expected =
        kvfit_test::omp_in_double(equation, policy, budget, rows_up_to(made.keys.rows()));
    INFO("seed " << seed << ", margin " << expected.margin << ", dropped " << expected.dropped);
    if (expected.margin < resolution) continue;
    ++compared;
    const scored_head scored(made.cache(), made.queries);
    const selected_rows chosen = run(policy, scored.problem(budget));
    CHECK(chosen.positions == expected.positions);
    CHECK(chosen.report.rounds == expected.rounds);
    CHECK(chosen.report.dropped == expected.dropped);
    CHECK(chosen.report.filled == 0);
    if (chosen.positions == expected.positions) check_weights(chosen.weights, expected.weights);
  }
  INFO(compared << " of 8 heads were clear enough to compare");
  CHECK(compared >= at_least);
}

/// A head whose cutoff has work to do: with plain correlations some weights end near 0.
constexpr double cutoff = -1.0;

bool are_sound(const selected_rows& chosen, kvfit::index_t budget) {
  std::vector<kvfit::index_t> rows = chosen.positions;
  std::sort(rows.begin(), rows.end());
  const bool distinct = std::adjacent_find(rows.begin(), rows.end()) == rows.end();
  const bool finite = std::all_of(chosen.weights.begin(), chosen.weights.end(),
                                  [](double w) { return std::isfinite(w) && w > 0; });
  return distinct && finite && static_cast<kvfit::index_t>(rows.size()) == budget &&
         chosen.weights.size() == rows.size();
}

}  // namespace

TEST_CASE("growing a QR selects the rows that refitting from scratch in double selects",
          "[selection][omp]") {
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  const double norm_power = GENERATE(0.0, 0.5, 1.0);
  INFO("norm power " << norm_power);
  check_against_oracle({.norm_power = norm_power, .weighting = weighting}, 12, 4);
}

TEST_CASE("§9.25 several keys a round and rarer refits follow the oracle", "[selection][omp]") {
  const kvfit::index_t keys_per_round =
      GENERATE(kvfit::index_t{1}, kvfit::index_t{2}, kvfit::index_t{3}, kvfit::index_t{4});
  const kvfit::index_t refit_interval =
      GENERATE(kvfit::index_t{1}, kvfit::index_t{2}, kvfit::index_t{3});
  INFO("k " << keys_per_round << ", tau " << refit_interval);
  check_against_oracle({.keys_per_round = keys_per_round, .refit_interval = refit_interval}, 14, 4);
}

TEST_CASE("a schedule changes k and tau as the set grows", "[selection][omp]") {
  omp policy{
      .schedule = {{4, 1, 1}, {9, 2, 2}, {std::numeric_limits<kvfit::index_t>::max(), 4, 3}}};
  check_against_oracle(policy, 16, 4);
  policy.norm_power = 0;
  policy.final_refit = false;
  check_against_oracle(policy, 16, 4);
}

TEST_CASE("rounds are counted as a schedule goes through them, however large the budget",
          "[selection][omp]") {
  for (const omp& policy :
       {omp{}, omp{.keys_per_round = 4}, omp{.schedule = omp::progressive()},
        omp{.keys_per_round = 7, .schedule = {{10, 3, 1}, {5, 2, 2}, {31, 4, 1}}}}) {
    for (const kvfit::index_t budget : {1, 9, 10, 160, 301, 1600}) {
      kvfit::index_t rounds = 0;
      for (kvfit::index_t size = 0; size < budget; ++rounds) {
        size += kvfit::detail::step_at(policy, size).keys_per_round;
      }
      CHECK(kvfit::detail::rounds_of(policy, budget) == rounds);
    }
  }
  CHECK(kvfit::detail::rounds_of(omp{}, kvfit::index_t{1} << 60) == kvfit::index_t{1} << 60);
}

TEST_CASE("ranking by absolute correlation follows the oracle, and differs from plain ranking",
          "[selection][omp]") {
  // Bounded weights overshoot, so that some residuals are negative.
  const omp policy{.keys_per_round = 2, .absolute = true, .lower = 1.0};
  check_against_oracle(policy, 14, 4);
  bool differs = false;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed);
    const scored_head scored(made.cache(), made.queries);
    omp plain = policy;
    plain.absolute = false;
    differs = differs ||
              run(policy, scored.problem(14)).positions != run(plain, scored.problem(14)).positions;
  }
  CHECK(differs);
}

TEST_CASE("a cutoff drops weak keys for good and grows again, each pass counting as one round",
          "[selection][omp][drop]") {
  const kvfit::index_t refit_interval =
      GENERATE(kvfit::index_t{1}, kvfit::index_t{2}, kvfit::index_t{3});
  const bool final_refit = GENERATE(true, false);
  const int passes = GENERATE(1, 3);
  const omp policy{.keys_per_round = 2,
                   .refit_interval = refit_interval,
                   .norm_power = 0,
                   .weighting = mass_weighting::absolute,
                   .drop_below = cutoff,
                   .drop_passes = passes,
                   .final_refit = final_refit};
  INFO("tau " << refit_interval << ", passes " << passes << ", final refit " << final_refit);
  check_against_oracle(policy, 15, 4);
  kvfit::index_t dropped = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed);
    const scored_head scored(made.cache(), made.queries);
    dropped += run(policy, scored.problem(15)).report.dropped;
  }
  INFO(dropped << " keys dropped in 8 heads");
  CHECK(dropped >= 8);
}

TEST_CASE("a dropped key never comes back", "[selection][omp][drop]") {
  int gone = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed);
    const scored_head scored(made.cache(), made.queries);
    omp policy{.norm_power = 0, .weighting = mass_weighting::absolute};
    const selected_rows before = run(policy, scored.problem(15));
    policy.drop_below = cutoff;
    const selected_rows after = run(policy, scored.problem(15));
    CHECK(after.positions.size() == 15);
    for (std::size_t j = 0; j < before.positions.size(); ++j) {
      if (std::log(before.weights[j]) >= cutoff) continue;
      ++gone;  // the first pass takes exactly these
      CHECK(std::count(after.positions.begin(), after.positions.end(), before.positions[j]) == 0);
    }
  }
  INFO(gone << " keys dropped in 8 heads");
  CHECK(gone >= 3);
}

TEST_CASE("the last weights are fitted on the last set, unless the published trap is asked for",
          "[selection][omp][final_refit]") {
  const bool by_schedule = GENERATE(true, false);
  INFO((by_schedule ? "schedule" : "spent drop passes"));
  omp policy{.norm_power = 0, .weighting = mass_weighting::absolute, .upper = 1e6};
  if (by_schedule) {
    policy.schedule = {{std::numeric_limits<kvfit::index_t>::max(), 1, 4}};
  } else {
    policy.refit_interval = 4;
    policy.drop_below = cutoff;
    policy.drop_passes = 1;
  }
  int trapped = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    INFO("seed " << seed);
    const head made = make_head(seed);
    const scored_head scored(made.cache(), made.queries);
    policy.final_refit = false;
    const selected_rows published = run(policy, scored.problem(15));
    policy.final_refit = true;
    const selected_rows ours = run(policy, scored.problem(15));
    CHECK(published.positions == ours.positions);

    const auto equation =
        kvfit_test::make_mass_equation(made.cache(), made.queries, {}, policy.weighting);
    const Eigen::VectorXd fitted = kvfit_test::clipped(
        kvfit_test::least_squares_weights(equation.columns_of(ours.positions), equation.target),
        policy.lower, policy.upper);
    check_weights(ours.weights, fitted);
    // Newcomers of the last rounds were left at the lower bound.
    if (published.weights.back() == policy.lower && fitted[14] > 0.1) ++trapped;
  }
  INFO(trapped << " of 8 heads fell into the trap");
  CHECK(trapped >= 2);
}

TEST_CASE("the order of choice is progressive: the first k picks are those of budget k",
          "[selection][omp]") {
  const head made = make_head(5);
  const scored_head scored(made.cache(), made.queries);
  const omp policy;
  const selected_rows longest = run(policy, scored.problem(24));
  for (const kvfit::index_t budget : {1, 2, 7, 23}) {
    const selected_rows shorter = run(policy, scored.problem(budget));
    CHECK(shorter.positions == std::vector<kvfit::index_t>(longest.positions.begin(),
                                                           longest.positions.begin() + budget));
  }
}

TEST_CASE("§9.26 without memory for the columns they are made anew, and the same rows chosen",
          "[selection][omp][memory]") {
  const omp policy = GENERATE(omp{}, omp{.keys_per_round = 3,
                                         .refit_interval = 2,
                                         .norm_power = 0,
                                         .weighting = mass_weighting::absolute,
                                         .drop_below = cutoff});
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const head made = make_head(seed, {.queries = 150});  // more than one panel of 64
    const auto equation =
        kvfit_test::make_mass_equation(made.cache(), made.queries, {}, policy.weighting);
    if (kvfit_test::omp_in_double(equation, policy, 14, rows_up_to(64)).margin < resolution)
      continue;
    ++compared;
    const scored_head scored(made.cache(), made.queries);
    kvfit::selection_problem problem = scored.problem(14);
    const selected_rows stored = run(policy, problem);
    problem.memory_cap = 0;
    const selected_rows recomputed = run(policy, problem);
    CHECK_FALSE(stored.report.recomputed);
    CHECK(recomputed.report.recomputed);
    CHECK(recomputed.positions == stored.positions);
    problem.memory_cap = 150 * 64 * 4;  // just enough
    CHECK_FALSE(run(policy, problem).report.recomputed);
    const auto halves = static_cast<kvfit::index_t>(4 * kvfit::simd::half_words(150) *
                                                    64);  // the candidates alone are made anew
    for (const kvfit::index_t cap : {problem.memory_cap - 1, halves}) {
      problem.memory_cap = cap;
      const selected_rows by_halves = run(policy, problem);
      CHECK_FALSE(by_halves.report.recomputed);
      CHECK(by_halves.positions == stored.positions);
    }
    problem.memory_cap = halves - 1;
    CHECK(run(policy, problem).report.recomputed);
  }
  CHECK(compared >= 2);
}

TEST_CASE("same head, same bytes", "[selection][omp]") {
  const head made = make_head(6);
  const scored_head scored(made.cache(), made.queries);
  const omp policy{.keys_per_round = 3, .refit_interval = 2, .drop_below = cutoff};
  const selected_rows once = run(policy, scored.problem(20));
  const selected_rows twice = run(policy, scored.problem(20));
  CHECK(once.positions == twice.positions);
  CHECK(once.weights == twice.weights);
}

TEST_CASE("§9.9 fewer queries than keys: the budget is filled, by importance, without noise",
          "[selection][omp][degenerate]") {
  const auto policy = GENERATE(omp{}, omp{.keys_per_round = 4, .refit_interval = 2},
                               omp{.norm_power = 0,
                                   .weighting = mass_weighting::absolute,
                                   .upper = std::exp(7.0),
                                   .drop_below = -7.0,
                                   .final_refit = false});
  const head made = make_head(7, {.queries = 5});
  const scored_head scored(made.cache(), made.queries);
  const selected_rows chosen = run(policy, scored.problem(20));
  CHECK(are_sound(chosen, 20));
  INFO(chosen.report.filled << " filled");
  CHECK(chosen.report.filled >=
        12);  // five columns explain five queries; a round may add three more
  // What was filled is the most looked-at of the rest.
  const auto first_filled = chosen.positions.end() - chosen.report.filled;
  const Eigen::VectorXf& importance = scored.scores().importance;
  for (kvfit::index_t row = 0; row < 64; ++row) {
    if (std::count(chosen.positions.begin(), chosen.positions.end(), row) > 0) continue;
    if (chosen.report.dropped > 0) continue;  // a banned key may be important
    for (auto at = first_filled; at != chosen.positions.end(); ++at) {
      CHECK(importance[row] <= importance[*at]);
    }
  }
}

TEST_CASE("§9.27 one query is explained by its largest key, the rest is filled by importance",
          "[selection][omp][degenerate]") {
  const head made = make_head(8, {.queries = 1});
  const scored_head scored(made.cache(), made.queries);
  const selected_rows chosen = run({}, scored.problem(6));
  CHECK(are_sound(chosen, 6));
  CHECK(chosen.report.filled == 5);
  CHECK(chosen.positions == kvfit::selection::rank_by_importance(scored.problem(6), 6));
}

TEST_CASE(
    "all-zero queries see every key alike: one key carries all mass, rows from the front fill",
    "[selection][omp][degenerate]") {
  head made = make_head(9, {.queries = 10, .keys = 32});
  made.queries.setZero();
  const scored_head scored(made.cache(), made.queries);
  for (const auto weighting : {mass_weighting::relative, mass_weighting::absolute}) {
    const selected_rows chosen = run({.weighting = weighting}, scored.problem(4));
    CHECK(are_sound(chosen, 4));
    CHECK(chosen.positions == rows_up_to(4));
    CHECK(chosen.weights[0] == Approx(32).epsilon(1e-5));
    CHECK(chosen.report.filled == 3);
  }
}

TEST_CASE("§9.9 duplicate keys: one of each explains the mass exactly, the rest is filled",
          "[selection][omp][degenerate]") {
  head made = make_head(10, {.keys = 16});
  for (kvfit::index_t j = 8; j < 16; ++j) made.keys.row(j) = made.keys.row(j - 8);
  const scored_head scored(made.cache(), made.queries);
  const selected_rows chosen = run({}, scored.problem(11));
  CHECK(are_sound(chosen, 11));
  std::vector<kvfit::index_t> kinds;
  for (std::size_t k = 0; k < 8; ++k) kinds.push_back(chosen.positions[k] % 8);
  std::sort(kinds.begin(), kinds.end());
  CHECK(kinds == rows_up_to(8));
  for (std::size_t k = 0; k < 8; ++k) CHECK(chosen.weights[k] == Approx(2).epsilon(1e-3));
  CHECK(chosen.report.filled == 3);
}

TEST_CASE("all keys equal, and queries that see nothing, stay finite",
          "[selection][omp][degenerate]") {
  head made = make_head(11, {.queries = 12, .keys = 20});
  for (kvfit::index_t j = 1; j < 20; ++j) made.keys.row(j) = made.keys.row(0);
  kvfit::matrix mask = kvfit::matrix::Zero(12, 20);
  mask.row(3).setConstant(kvfit_test::hidden_key);
  mask.row(11).setConstant(kvfit_test::hidden_key);
  const kvfit::row_view masks[] = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  const scored_head scored(cache, made.queries);
  const selected_rows chosen = run({}, scored.problem(5));
  CHECK(are_sound(chosen, 5));
  CHECK(chosen.weights[0] == Approx(20).epsilon(1e-5));
}

TEST_CASE("a hidden key is not chosen where all others agree with too much mass",
          "[selection][omp][hidden]") {
  head made = make_head(12, {.queries = 8, .keys = 6, .depth = 8});
  for (kvfit::index_t j = 1; j < 6; ++j) made.keys.row(j) = made.keys.row(0);
  std::vector<float> bias(6, 0);
  bias[1] = bias[4] = kvfit_test::hidden_key;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  const scored_head scored(cache, made.queries);
  // One weight of at least 9 is more than the mass of four keys: residuals are negative from then
  // on, and a hidden key's agreement, 0, is the largest.
  const auto chosen = select(omp{.lower = 9}, scored.problem(4));
  REQUIRE(chosen);
  for (const kvfit::index_t row : chosen->positions) CHECK((row != 1 && row != 4));
}

TEST_CASE("where no other rows are left, dropped ones fill the budget", "[selection][omp][drop]") {
  // Three pairs of equal keys: the second of each pair is worth nothing beside the first.
  head made = make_head(14, {.queries = 40, .keys = 6});
  for (kvfit::index_t j = 3; j < 6; ++j) made.keys.row(j) = made.keys.row(j - 3);
  const scored_head scored(made.cache(), made.queries);
  const selected_rows chosen = run({.keys_per_round = 6, .drop_below = -7.0}, scored.problem(6));
  INFO(chosen.report.dropped << " dropped, " << chosen.report.filled << " filled");
  CHECK(chosen.report.dropped == 3);
  CHECK(chosen.report.filled == 3);
  CHECK(are_sound(chosen, 6));
}

TEST_CASE("a selection without the scores it asked for is refused", "[selection]") {
  const head made = make_head(15, {.queries = 8, .keys = 10});
  const scored_head unranked(made.cache(), made.queries,
                             {.importance = kvfit::importance_kind::none});
  const auto ranked = select(omp{}, unranked.problem(3));
  REQUIRE_FALSE(ranked);
  CHECK(ranked.error().code == errc::shape_mismatch);
  CHECK(ranked.error().argument == "importance");
  kvfit::selection_problem problem = unranked.problem(3);
  problem.scores = nullptr;
  const auto unscored = select(omp{}, problem);
  REQUIRE_FALSE(unscored);
  CHECK(unscored.error().code == errc::null_data);
}

TEST_CASE("§9.8 weights stay inside their bounds", "[selection][omp]") {
  const head made = make_head(12);
  const scored_head scored(made.cache(), made.queries);
  const selected_rows chosen =
      run({.keys_per_round = 3, .lower = 0.75, .upper = 1.5}, scored.problem(20));
  for (const double w : chosen.weights) CHECK((w >= 0.75 && w <= 1.5));
}

TEST_CASE("options of OMP outside their ranges are refused by name", "[selection][omp]") {
  const head made = make_head(13, {.queries = 8, .keys = 8});
  const scored_head scored(made.cache(), made.queries);
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<omp, std::string>> wrong = {
      {{.keys_per_round = 0}, "omp.keys_per_round"},
      {{.refit_interval = 0}, "omp.refit_interval"},
      {{.schedule = {{10, 0, 1}}}, "omp.schedule.keys_per_round"},
      {{.schedule = {{10, 1, -2}}}, "omp.schedule.refit_interval"},
      {{.norm_power = -0.1}, "omp.norm_power"},
      {{.norm_power = nan}, "omp.norm_power"},
      {{.lower = 0}, "omp.lower"},
      {{.lower = nan}, "omp.lower"},
      {{.lower = 2, .upper = 1}, "omp.upper"},
      {{.lower = 1e30, .upper = 1e31}, "omp.lower"},
      {{.upper = nan}, "omp.upper"},
      {{.drop_below = nan}, "omp.drop_below"},
      {{.drop_passes = -1}, "omp.drop_passes"},
  };
  for (const auto& [policy, field] : wrong) {
    INFO(field);
    const auto chosen = select(policy, scored.problem(3));
    REQUIRE_FALSE(chosen);
    CHECK(chosen.error().code == errc::invalid_option);
    CHECK(chosen.error().argument.find(field) != std::string::npos);
  }
}
