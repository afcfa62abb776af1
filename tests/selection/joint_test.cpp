// SPDX-License-Identifier: MIT
#include "kvfit/selection/joint.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/target_columns.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using kvfit::errc;
using kvfit::output_weighting;
using kvfit::selected_rows;
using kvfit::selection::highest_attention;
using kvfit::selection::joint;
using kvfit_test::head;
using kvfit_test::hidden_key;
using kvfit_test::make_head;
using kvfit_test::rows_up_to;
using kvfit_test::scored_head;

namespace {

/// Picks whose residuals differ by less than this share of ‖targets‖² are not compared: sums of a
/// hundred fp32 products are off by some 1e-6 of what they add up.
constexpr double joint_resolution = 1e-5;

selected_rows run_joint(const joint& policy, const kvfit::selection_problem& problem) {
  const auto chosen = select(policy, problem);
  INFO((chosen ? "chosen" : chosen.error().message()));
  REQUIRE(chosen);
  return *chosen;
}

/// The search alone, for relative errors, without rows by attention.
selected_rows search_alone(joint policy, const kvfit::selection_problem& problem) {
  policy.attention_share = 0;
  policy.weighting = output_weighting::relative;
  return run_joint(policy, problem);
}

/// What `selection::joint` explains, and with what: from its formula, in double.
struct joint_equation {
  Eigen::MatrixXd columns;  ///< n × T: f_i A_ij
  Eigen::MatrixXd targets;  ///< n × (1 + d_v): μ f_i, f_i o_i / σ

  [[nodiscard]] double left_by(const std::vector<kvfit::index_t>& rows) const {
    Eigen::MatrixXd some(columns.rows(), static_cast<kvfit::index_t>(rows.size()));
    for (std::size_t k = 0; k < rows.size(); ++k) {
      some.col(static_cast<kvfit::index_t>(k)) = columns.col(rows[k]);
    }
    const Eigen::MatrixXd fitted = oracle::solve_by_orthogonal(some, targets);
    return std::pow(oracle::residual_norm(some, fitted, targets), 2);
  }
};

joint_equation make_joint_equation(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                   double mass_weight, const kvfit::logit_rule& rule = {},
                                   output_weighting weighting = output_weighting::relative) {
  const auto full = kvfit_test::attend_in_double(queries, cache, rule);
  const kvfit::index_t n = full.output.rows();
  Eigen::VectorXd lengths = full.output.rowwise().norm();
  const auto seen = static_cast<double>((lengths.array() > 0).count());
  const double floor = 0.01 * std::sqrt(lengths.squaredNorm() / seen);
  Eigen::VectorXd f = Eigen::VectorXd::Zero(n);
  for (kvfit::index_t i = 0; i < n; ++i) {
    if (lengths[i] > 0) f[i] = 1 / std::max(lengths[i], floor);
    if (weighting == output_weighting::absolute) f[i] = lengths[i] > 0 ? 1 : 0;
  }
  f *= std::sqrt(seen / f.squaredNorm());
  const double sigma = std::sqrt(full.output.squaredNorm() / static_cast<double>(n));
  joint_equation made{f.asDiagonal() * full.weights, Eigen::MatrixXd(n, 1 + full.output.cols())};
  made.targets.col(0) = mass_weight * f;
  made.targets.rightCols(full.output.cols()) = f.asDiagonal() * full.output / sigma;
  return made;
}

struct joint_picks {
  std::vector<kvfit::index_t> positions;
  double margin = kvfit_test::infinity;  ///< narrowest lead of a pick, as a share of ‖targets‖²
};

/// Every candidate is fitted together with the picks so far, those of `first` to begin with, from
/// scratch.
joint_picks joint_in_double(const joint_equation& equation, kvfit::index_t budget,
                            const std::vector<kvfit::index_t>& open,
                            const std::vector<kvfit::index_t>& first = {}) {
  joint_picks out{.positions = first};
  while (static_cast<kvfit::index_t>(out.positions.size()) < budget) {
    double least = kvfit_test::infinity;
    double second = kvfit_test::infinity;
    kvfit::index_t best = -1;
    for (const kvfit::index_t j : open) {
      if (std::count(out.positions.begin(), out.positions.end(), j) > 0) continue;
      std::vector<kvfit::index_t> with = out.positions;
      with.push_back(j);
      const double left = equation.left_by(with);
      if (left < least) {
        second = least;
        least = left;
        best = j;
      } else {
        second = std::min(second, left);
      }
    }
    out.margin = std::min(out.margin, (second - least) / equation.targets.squaredNorm());
    out.positions.push_back(best);
  }
  return out;
}

constexpr kvfit_test::head_shape small_head{.queries = 48, .keys = 24, .depth = 8, .width = 5};

}  // namespace

TEST_CASE("joint selection picks what refitting every candidate from scratch in double picks",
          "[selection][joint]") {
  const double mass_weight = GENERATE(0.0, 1.0, 3.0);
  INFO("mass weight " << mass_weight);
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed, small_head);
    const auto expected = joint_in_double(
        make_joint_equation(made.cache(), made.queries, mass_weight), 8, rows_up_to(24));
    INFO("seed " << seed << ", margin " << expected.margin);
    if (expected.margin < joint_resolution) continue;
    ++compared;
    const scored_head scored(made.cache(), made.queries);
    for (const kvfit::index_t sweep : {1, 4, 16}) {
      INFO("sweep " << sweep);
      const selected_rows chosen = search_alone(
          {.mass_weight = mass_weight, .sweep = sweep, .sketch = 0}, scored.problem(8));
      CHECK(chosen.positions == expected.positions);
      CHECK(chosen.weights.empty());
      CHECK(chosen.report.rounds == 8);
      CHECK(chosen.report.filled == 0);
      // A sweep makes so many keys' products; a key is looked at once for each pick at the least.
      CHECK(chosen.report.refits >= (8 + sweep - 1) / sweep);
    }
  }
  INFO(compared << " of 8 heads were clear enough to compare");
  CHECK(compared >= 4);
}

TEST_CASE("the mass weight changes what is picked, and a large one picks for the mass alone",
          "[selection][joint]") {
  int differ = 0;
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed, small_head);
    const scored_head scored(made.cache(), made.queries);
    const auto for_output = search_alone({.mass_weight = 0, .sketch = 0}, scored.problem(6));
    const auto for_mass = search_alone({.mass_weight = 1e6, .sketch = 0}, scored.problem(6));
    differ += for_output.positions != for_mass.positions ? 1 : 0;
    joint_equation equation = make_joint_equation(made.cache(), made.queries, joint{}.mass_weight);
    equation.targets.conservativeResize(Eigen::NoChange, 1);
    const auto expected = joint_in_double(equation, 6, rows_up_to(24));
    INFO("seed " << seed << ", margin " << expected.margin);
    if (expected.margin < joint_resolution) continue;
    ++compared;
    CHECK(for_mass.positions == expected.positions);
  }
  CHECK(differ >= 4);
  CHECK(compared >= 4);
}

TEST_CASE("picks of a budget are the first picks of a larger one", "[selection][joint]") {
  const head made = make_head(3);
  const scored_head scored(made.cache(), made.queries);
  const auto longest = search_alone({.sketch = 0}, scored.problem(40)).positions;
  REQUIRE(longest.size() == 40);
  for (const kvfit::index_t budget : {1, 2, 7, 20, 39}) {
    const auto fewer = search_alone({.sketch = 0}, scored.problem(budget)).positions;
    REQUIRE(static_cast<kvfit::index_t>(fewer.size()) == budget);
    CHECK(std::equal(fewer.begin(), fewer.end(), longest.begin()));
  }
}

TEST_CASE("making columns anew picks the same rows as storing them", "[selection][joint][memory]") {
  const kvfit::index_t sketch =
      GENERATE(kvfit::index_t{0}, kvfit::index_t{16});  // has no room either
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const head made = make_head(seed, small_head);
    const auto expected = joint_in_double(
        make_joint_equation(made.cache(), made.queries, joint{}.mass_weight), 8, rows_up_to(24));
    if (expected.margin < joint_resolution) continue;
    ++compared;
    const scored_head scored(made.cache(), made.queries);
    kvfit::selection_problem problem = scored.problem(8);
    CHECK_FALSE(search_alone({.sketch = 0}, problem).report.recomputed);
    problem.memory_cap = 0;
    const selected_rows anew = search_alone({.sketch = sketch}, problem);
    CHECK(anew.report.recomputed);
    CHECK(anew.positions == expected.positions);
    // Exponentials that the score pass kept serve, too.
    const scored_head kept(made.cache(), made.queries, wanted_scores(joint{}));
    REQUIRE(kept.scores().exponentials.rows() == 24);
    problem = kept.problem(8);
    problem.memory_cap = 0;
    const selected_rows from_scores = search_alone({.sketch = 0}, problem);
    CHECK_FALSE(from_scores.report.recomputed);
    CHECK(from_scores.positions == expected.positions);
  }
  CHECK(compared >= 3);
}

TEST_CASE("of equal keys one is chosen, and the budget is filled by importance when nothing helps",
          "[selection][joint][fill]") {
  head made = make_head(5, {.queries = 40, .keys = 24, .depth = 8, .width = 5});
  for (kvfit::index_t j = 6; j < 24; ++j)
    made.keys.row(j) = made.keys.row(j % 6);  // 6 different ones
  const scored_head scored(made.cache(), made.queries);
  const auto distinct_keys = [](const std::vector<kvfit::index_t>& rows) {
    std::vector<kvfit::index_t> kinds;
    for (const kvfit::index_t row : rows) kinds.push_back(row % 6);
    std::sort(kinds.begin(), kinds.end());
    return std::unique(kinds.begin(), kinds.end()) - kinds.begin();
  };
  for (const kvfit::index_t sweep : {1, 4, 16}) {
    const selected_rows six = search_alone({.sweep = sweep, .sketch = 0}, scored.problem(6));
    CHECK(distinct_keys(six.positions) == 6);
    CHECK(six.report.filled == 0);
    // Ties go to the earlier row.
    CHECK(*std::max_element(six.positions.begin(), six.positions.end()) == 5);

    const selected_rows ten = search_alone({.sweep = sweep, .sketch = 0}, scored.problem(10));
    REQUIRE(ten.positions.size() == 10);
    CHECK(std::equal(six.positions.begin(), six.positions.end(), ten.positions.begin()));
    CHECK(ten.report.rounds == 6);
    CHECK(ten.report.filled == 4);
    std::vector<kvfit::index_t> sorted = ten.positions;
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
    // Those of the longest column, the copies of one key.
    const joint_equation equation =
        make_joint_equation(made.cache(), made.queries, joint{}.mass_weight);
    kvfit::index_t longest = 0;
    equation.columns.leftCols(6).colwise().squaredNorm().maxCoeff(&longest);
    for (std::size_t k = 6; k < 9; ++k) CHECK(ten.positions[k] % 6 == longest);
  }
}

TEST_CASE("keys hidden by their bias are never chosen, not even to fill the budget",
          "[selection][joint][hidden]") {
  const head made = make_head(6, small_head);
  std::vector<float> bias(24, 0.25F);
  std::vector<kvfit::index_t> open;
  for (kvfit::index_t j = 0; j < 24; ++j) {
    if (j % 3 == 0) bias[static_cast<std::size_t>(j)] = hidden_key;
    if (j % 3 != 0) open.push_back(j);
  }
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  const scored_head scored(cache, made.queries);
  const auto expected =
      joint_in_double(make_joint_equation(cache, made.queries, joint{}.mass_weight), 6, open);
  REQUIRE(expected.margin >= joint_resolution);
  CHECK(search_alone({.sketch = 0}, scored.problem(6)).positions == expected.positions);
  for (const kvfit::index_t sketch : {0, 8}) {
    std::vector<kvfit::index_t> all =
        search_alone({.sketch = sketch}, scored.problem(24)).positions;
    std::sort(all.begin(), all.end());
    CHECK(all == open);
  }
}

TEST_CASE("masks count, and queries that see nothing do not", "[selection][joint][mask]") {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const head made = make_head(seed, small_head);
    kvfit::matrix mask = kvfit_test::random_matrix(48, 24, seed + 90, 1.0F);
    mask.row(7).setConstant(hidden_key);
    mask.row(31).setConstant(hidden_key);
    mask.block(10, 3, 12, 9).setConstant(hidden_key);
    const std::vector<kvfit::row_view> masks = {mask};
    kvfit::kv_block cache = made.cache();
    cache.masks = masks;
    const auto expected = joint_in_double(
        make_joint_equation(cache, made.queries, joint{}.mass_weight), 8, rows_up_to(24));
    INFO("seed " << seed << ", margin " << expected.margin);
    if (expected.margin < joint_resolution) continue;
    ++compared;
    const scored_head scored(cache, made.queries);
    CHECK(search_alone({.sketch = 0}, scored.problem(8)).positions == expected.positions);
  }
  CHECK(compared >= 3);
}

TEST_CASE("one query has one column's worth of rows to choose", "[selection][joint][degenerate]") {
  const head made = make_head(7, {.queries = 1, .keys = 20, .depth = 8, .width = 5});
  const scored_head scored(made.cache(), made.queries);
  const selected_rows chosen = search_alone({}, scored.problem(4));
  // Any column explains all of it, so what follows goes by importance.
  CHECK(chosen.positions.size() == 4);
  CHECK(chosen.report.rounds == 1);
  CHECK(chosen.report.filled == 3);
  const auto weights = kvfit_test::attend_in_double(made.queries, made.cache()).weights;
  std::vector<kvfit::index_t> by_weight = rows_up_to(20);
  std::sort(by_weight.begin(), by_weight.end(),
            [&](kvfit::index_t a, kvfit::index_t b) { return weights(0, a) > weights(0, b); });
  by_weight.erase(std::find(by_weight.begin(), by_weight.end(), chosen.positions[0]));
  CHECK(std::equal(chosen.positions.begin() + 1, chosen.positions.end(), by_weight.begin()));
}

TEST_CASE("folded queries leave a choice nearly as good", "[selection][joint][sketch]") {
  int differ = 0;
  double lost = 0;  // of what choosing well gains over the first rows
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed, {.queries = 400, .keys = 40, .depth = 8, .width = 5});
    const scored_head scored(made.cache(), made.queries);
    const joint_equation equation =
        make_joint_equation(made.cache(), made.queries, joint{}.mass_weight);
    const auto exact = search_alone({.sketch = 0}, scored.problem(8));
    const auto folded = search_alone({.sketch = 80}, scored.problem(8));
    const auto unfolded = search_alone({.sketch = 400}, scored.problem(8));
    CHECK(unfolded.positions == exact.positions);
    CHECK(folded.positions.size() == 8);
    const double best = equation.left_by(exact.positions);
    const double near = equation.left_by(folded.positions);
    const double arbitrary = equation.left_by({0, 1, 2, 3, 4, 5, 6, 7});
    INFO("seed " << seed << ": left " << best << " exactly, " << near << " folded, " << arbitrary
                 << " by the first rows");
    CHECK(near < arbitrary);
    lost += (near - best) / (arbitrary - best) / 8;
    differ += folded.positions != exact.positions ? 1 : 0;
  }
  INFO("lost " << lost);
  CHECK(lost < 0.25);
  CHECK(differ > 0);  // else nothing was folded
}

TEST_CASE("among many keys the search looks at some, and explains as much but for a hundredth",
          "[selection][joint][candidates]") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const double share = seed == 1 ? 0 : 0.25 * static_cast<double>(seed);
    const head made =
        make_head(seed, {.queries = 120, .keys = 4000, .depth = 8, .width = 5, .topics = 40});
    const scored_head scored(made.cache(), made.queries);
    const kvfit::selection_problem problem = scored.problem(30);
    const auto look = [&](kvfit::index_t candidates) {
      return run_joint({.attention_share = share, .candidates = candidates, .sketch = 0}, problem);
    };
    REQUIRE(kvfit::detail::search_candidates({.candidates = 12}, 4000, 30) == 2048);
    const joint_equation equation =
        make_joint_equation(made.cache(), made.queries, 0.2, {}, output_weighting::absolute);
    const double nothing = equation.targets.squaredNorm();
    const double all = equation.left_by(look(0).positions);
    const double some = equation.left_by(look(12).positions);
    CAPTURE(seed, nothing, all, some);
    CHECK(all < 0.5 * nothing);
    CHECK(some - all <= 0.01 * (nothing - all));
  }
}

TEST_CASE("candidates are some for each row searched for, 2,048 at least, and all near all",
          "[selection][joint][candidates]") {
  using kvfit::detail::search_candidates;
  // Half of 1,000 rows are searched for.
  CHECK(search_candidates({.attention_share = 0.5, .candidates = 12}, 16384, 1000) == 6000);
  CHECK(search_candidates({.attention_share = 0.5, .candidates = 12}, 16384, 100) == 2048);
  CHECK(search_candidates({.attention_share = 0.5, .candidates = 12}, 8000, 1000) == 8000);
  CHECK(search_candidates({.attention_share = 0.5, .candidates = 12}, 2731, 10) == 2048);
  CHECK(search_candidates({.attention_share = 0.5, .candidates = 12}, 2730, 10) == 2730);
  CHECK(search_candidates({.attention_share = 0, .candidates = 0}, 16384, 10) == 16384);
  const auto most = std::numeric_limits<kvfit::index_t>::max();
  CHECK(search_candidates({.attention_share = 0.5, .candidates = most}, 16384, 10) == 16384);
}

TEST_CASE("candidates are no hidden rows, and none whose prior is 0",
          "[selection][joint][candidates][prior]") {
  const head made = make_head(3, {.queries = 60, .keys = 3000, .depth = 8, .width = 5});
  std::vector<float> bias(3000, 0);
  std::vector<float> prior(3000, 1);
  for (std::size_t j = 0; j < 3000; j += 2) bias[j] = hidden_key;
  for (std::size_t j = 1; j < 3000; j += 4) prior[j] = 0;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  const scored_head scored(cache, made.queries);
  const selected_rows chosen =
      run_joint({.attention_share = 0.25, .prior = prior}, scored.problem(40));
  CHECK(chosen.positions.size() == 40);
  CHECK(chosen.report.filled == 0);
  for (const kvfit::index_t row : chosen.positions) CHECK(row % 4 == 3);
}

TEST_CASE("where one key has all attention, none is left to look among, and the budget is filled",
          "[selection][joint][candidates][fill]") {
  head made = make_head(5, {.queries = 40, .keys = 3000, .depth = 8, .width = 5});
  made.queries.setConstant(1);
  made.keys.row(1234).setConstant(400);  // every other exponential is 0
  const scored_head scored(made.cache(), made.queries);
  for (const double share : {0.0, 0.5}) {
    const selected_rows chosen = run_joint({.attention_share = share}, scored.problem(10));
    CAPTURE(share);
    CHECK(chosen.positions.size() == 10);
    CHECK(std::count(chosen.positions.begin(), chosen.positions.end(), 1234) == 1);
    CHECK(std::set<kvfit::index_t>(chosen.positions.begin(), chosen.positions.end()).size() == 10);
    CHECK(chosen.report.filled == (share == 0 ? 9 : 5));
  }
}

TEST_CASE("joint refuses settings and problems out of range", "[selection][joint][refuse]") {
  const head made = make_head(8, small_head);
  const scored_head scored(made.cache(), made.queries);
  const auto field_of = [&](const joint& policy) -> std::string {
    const auto chosen = select(policy, scored.problem(4));
    if (chosen) return "";
    CHECK(chosen.error().code == errc::invalid_option);
    return chosen.error().argument;
  };
  CHECK(field_of({.mass_weight = -1}) == "joint.mass_weight");
  CHECK(field_of({.mass_weight = 1.1e6}) == "joint.mass_weight");
  CHECK(field_of({.mass_weight = std::numeric_limits<double>::quiet_NaN()}) == "joint.mass_weight");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(field_of({.attention_share = -0.1}) == "joint.attention_share");
  CHECK(field_of({.attention_share = 1.1}) == "joint.attention_share");
  CHECK(field_of({.attention_share = nan}) == "joint.attention_share");
  CHECK(field_of({.sweep = 0}) == "joint.sweep");
  CHECK(field_of({.sweep = 257}) == "joint.sweep");
  CHECK(field_of({.candidates = -1}) == "joint.candidates");
  CHECK(field_of({.sketch = -1}) == "joint.sketch");
  CHECK(field_of({.mass_weight = 0, .sweep = 1, .sketch = 0}).empty());
  CHECK(field_of({.mass_weight = 1e6, .sweep = 256}).empty());

  const auto none = select(joint{}, scored.problem(0));
  REQUIRE_FALSE(none);
  CHECK(none.error().code == errc::budget_out_of_range);
  CHECK_FALSE(select(joint{}, scored.problem(25)));
  const scored_head unranked(made.cache(), made.queries,
                             wanted_scores(joint{.attention_share = 0, .candidates = 0}));
  CHECK(select(joint{.attention_share = 0}, unranked.problem(4)));
  const auto no_ranks = select(joint{.attention_share = 0.5}, unranked.problem(4));
  REQUIRE_FALSE(no_ranks);
  CHECK(no_ranks.error().argument == "importance");
  // Among many keys candidates are ranked, too.
  const head large = make_head(2, {.queries = 20, .keys = 3000, .depth = 8, .width = 5});
  const scored_head bare(large.cache(), large.queries,
                         {.importance = kvfit::importance_kind::none});
  CHECK_FALSE(select(joint{.attention_share = 0}, bare.problem(4)));
  CHECK(select(joint{.attention_share = 0, .candidates = 0}, bare.problem(4)));
}

TEST_CASE("a share of the rows is chosen by attention, the rest explain most beside them",
          "[selection][joint][attention_share]") {
  const auto weighting = GENERATE(output_weighting::relative, output_weighting::absolute);
  int compared = 0;
  int differ = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed, small_head);
    const scored_head scored(made.cache(), made.queries);
    const joint_equation equation =
        make_joint_equation(made.cache(), made.queries, 0.2, {}, weighting);
    for (const double share : {0.3, 0.5, 0.75}) {
      const auto count = static_cast<kvfit::index_t>(std::floor(share * 8));
      const auto first = select(highest_attention{}, scored.problem(count));
      REQUIRE(first);
      const auto expected = joint_in_double(equation, 8, rows_up_to(24), first->positions);
      INFO("seed " << seed << ", share " << share << ", margin " << expected.margin);
      if (expected.margin < joint_resolution) continue;
      ++compared;
      for (const kvfit::index_t sweep : {1, 4}) {  // one and four rows are taken out at a time
        for (const kvfit::index_t memory : {kvfit::index_t{0}, kvfit::index_t{1} << 30}) {
          kvfit::selection_problem problem = scored.problem(8);
          problem.memory_cap = memory;
          const selected_rows chosen = run_joint(
              {.attention_share = share, .weighting = weighting, .sweep = sweep, .sketch = 0},
              problem);
          CHECK(chosen.positions == expected.positions);
          CHECK(chosen.report.rounds == 8 - count);
        }
      }
      const auto without = joint_in_double(equation, 8, rows_up_to(24));
      differ += without.positions != expected.positions ? 1 : 0;
    }
  }
  CHECK(compared >= 6);
  CHECK(differ >= 3);
}

TEST_CASE("a share of 1 chooses the rows of highest attention, and a share of a row none",
          "[selection][joint][attention_share]") {
  const head made = make_head(4);
  const scored_head scored(made.cache(), made.queries);
  for (const kvfit::index_t budget : {1, 2, 20, 64}) {
    const auto most = select(highest_attention{}, scored.problem(budget));
    REQUIRE(most);
    CHECK(run_joint({.attention_share = 1}, scored.problem(budget)).positions == most->positions);
  }
  CHECK(run_joint({.attention_share = 0.99}, scored.problem(1)).positions ==
        run_joint({.attention_share = 0}, scored.problem(1)).positions);
  const auto two = run_joint({.attention_share = 0.75}, scored.problem(2)).positions;
  REQUIRE(two.size() == 2);
  CHECK(two[0] == select(highest_attention{}, scored.problem(1))->positions[0]);
  CHECK(two[1] != two[0]);
}

TEST_CASE("a prior multiplies every score that rows are ranked by", "[selection][joint][prior]") {
  const head made = make_head(11, small_head);
  const scored_head scored(made.cache(), made.queries);
  for (const double share : {0.0, 0.5, 1.0}) {
    const auto without = run_joint({.attention_share = share, .sketch = 0}, scored.problem(6));
    joint policy{.attention_share = share, .sketch = 0};
    policy.prior.assign(24, 3.0F);  // the same for all changes nothing
    CHECK(run_joint(policy, scored.problem(6)).positions == without.positions);
    // Rows of 0 are kept only where no others are left.
    for (const kvfit::index_t row : without.positions) {
      policy.prior[static_cast<std::size_t>(row)] = 0;
    }
    const auto others = run_joint(policy, scored.problem(18)).positions;
    CHECK(others.size() == 18);
    for (const kvfit::index_t row : without.positions) {
      CHECK(std::find(others.begin(), others.end(), row) == others.end());
    }
    CHECK(run_joint(policy, scored.problem(24)).positions.size() == 24);
    // A large factor brings a row in that would not be.
    policy.prior.assign(24, 1.0F);
    policy.prior[static_cast<std::size_t>(others.back())] = 1e6F;
    CHECK(run_joint(policy, scored.problem(6)).positions[0] == others.back());
  }
  // Rows of the problem are those from `first_row` on of the caller's.
  joint policy{.attention_share = 1};
  policy.prior.assign(29, 1.0F);
  policy.prior[5 + 7] = 1e6F;
  kvfit::selection_problem problem = scored.problem(1);
  problem.first_row = 5;
  CHECK(run_joint(policy, problem).positions == std::vector<kvfit::index_t>{7});
}

TEST_CASE("a prior of the wrong length, a negative factor or one that is no number is refused",
          "[selection][joint][prior][refuse]") {
  const head made = make_head(11, small_head);
  const scored_head scored(made.cache(), made.queries);
  joint policy;
  policy.prior.assign(23, 1.0F);
  const auto shorter = select(policy, scored.problem(4));
  REQUIRE_FALSE(shorter);
  CHECK(shorter.error().code == errc::shape_mismatch);
  CHECK(shorter.error().argument == "joint.prior");
  CHECK(shorter.error().actual == 23);
  CHECK(shorter.error().expected == 24);
  policy.prior.assign(24, 1.0F);
  for (const float bad :
       {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    policy.prior[3] = bad;
    const auto chosen = select(policy, scored.problem(4));
    REQUIRE_FALSE(chosen);
    CHECK(chosen.error().code == errc::invalid_option);
    CHECK(chosen.error().actual == 3);
  }
}

TEST_CASE("rows that say the same keep their places where attention chooses them",
          "[selection][joint][attention_share]") {
  head made = make_head(5, {.queries = 40, .keys = 24, .depth = 8, .width = 5});
  for (kvfit::index_t j = 3; j < 24; ++j) made.keys.row(j) = made.keys.row(j % 3);
  const scored_head scored(made.cache(), made.queries);
  const auto most = select(highest_attention{}, scored.problem(9));
  REQUIRE(most);
  const selected_rows chosen =
      run_joint({.attention_share = 0.75, .sketch = 0}, scored.problem(12));
  REQUIRE(chosen.positions.size() == 12);
  CHECK(std::equal(most->positions.begin(), most->positions.end(), chosen.positions.begin()));
  std::vector<kvfit::index_t> sorted = chosen.positions;
  std::sort(sorted.begin(), sorted.end());
  CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
}

TEST_CASE("joint selection on several threads chooses the same rows, folded, stored or made anew",
          "[selection][joint][threads]") {
  // More keys than one thread takes of what a pick leaves.
  const head made = make_head(12, {.queries = 300, .keys = 9000, .depth = 4, .width = 3});
  const scored_head scored(made.cache(), made.queries);
  const double share = GENERATE(0.0, 0.75);
  const auto candidates = GENERATE(kvfit::index_t{0}, kvfit::index_t{12});
  for (const kvfit::index_t memory : {kvfit::index_t{0}, kvfit::index_t{1} << 30}) {
    for (const kvfit::index_t sketch : {0, 64}) {
      kvfit::selection_problem problem = scored.problem(12);
      problem.memory_cap = memory;
      const joint policy{.attention_share = share, .candidates = candidates, .sketch = sketch};
      const auto alone = select(policy, problem);
      REQUIRE(alone);
      for (const int threads : {2, 5}) {
        kvfit::thread_pool pool(threads);
        problem.threads = pool;
        const auto shared = select(policy, problem);
        REQUIRE(shared);
        CAPTURE(memory, sketch, threads);
        CHECK(shared->positions == alone->positions);
      }
    }
  }
}

TEST_CASE("target columns are the outputs' weights, and outputs over their rms norm",
          "[selection][joint][target]") {
  const head made = make_head(9, {.queries = 150, .keys = 20, .depth = 8, .width = 7});
  const scored_head scored(made.cache(), made.queries);
  const auto weighting = GENERATE(output_weighting::relative, output_weighting::absolute);
  const kvfit::target_columns targets(scored.problem(4), 2.5, weighting);
  const joint_equation equation =
      make_joint_equation(made.cache(), made.queries, 2.5, {}, weighting);
  REQUIRE(targets.columns().rows() == 150);
  REQUIRE(targets.columns().cols() == 8);
  const Eigen::MatrixXd found = oracle::to_double(targets.columns());
  CHECK(oracle::relative_error(found, equation.targets) <= 1e-5);
  const Eigen::VectorXd row_weights = targets.row_weights().cast<double>();
  CHECK(oracle::relative_error(found.col(0) / 2.5, row_weights) <= 1e-5);
}
