// SPDX-License-Identifier: MIT
// Each case fails where the guard it is named after is taken away (docs/requirements.md, Guards).
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kvfit/refine/objective.hpp"
#include "kvfit/refine/refiner.hpp"
#include "refine/refine_case.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;

namespace {

kvfit::attention_scores scores_of(const refine_case& of, const kvfit::query_part& part) {
  auto scores = kvfit::score_pass(part.beside(of.made.cache()), part.set(), of.rule);
  REQUIRE(scores);
  return std::move(*scores);
}

}  // namespace

TEST_CASE("O: keys that no query looks at keep their values", "[refine][guard]") {
  refine_case of(1, 40);
  of.mask = kvfit::matrix::Constant(40, 30, hidden_key);
  of.masks = {of.mask};
  const kvfit::refine_batch batch = whole_batch(of);
  kvfit::attention_objective objective({}, of.original);
  objective.use(batch);
  REQUIRE(objective.fit(of.keys, of.bias));
  CHECK(objective.values() == of.original);
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  CHECK(objective(of.keys, of.bias, keys_gradient, bias_gradient).total == 0);
  CHECK(keys_gradient.isZero(0));
}

TEST_CASE("O: sums in fp32 that leave a matrix indefinite do not end a refinement",
          "[refine][guard]") {
  // Hundreds of keys that are nearly one: what tells them apart is below fp32.
  constexpr index_t t = 700;
  const head made = make_head(2, {.queries = 240, .keys = 30, .depth = 8, .width = 5});
  const kvfit::query_block block(made.queries);
  const kvfit::query_part part = kvfit::split_queries(made.queries, {}, 0).fit;
  const auto scores = kvfit::score_pass(made.cache(), part.set(), {});
  REQUIRE(scores);
  const std::vector<index_t> rows(t, 3);
  const kvfit::scored_part one{&part, &*scores};
  const kvfit::refine_batch batch =
      kvfit::make_batch(std::span(&one, 1), {}, made.cache(), {}, rows);
  const kvfit::matrix original = random_matrix(t, 5, 3);
  const kvfit::matrix keys =
      random_matrix(t, 8, 4, 1e-3F).rowwise() + kvfit::matrix(made.keys.row(3)).row(0);
  kvfit::attention_objective objective({}, original);
  objective.use(batch);
  CHECK(objective.fit(keys, kvfit::vector::Zero(t)));
  CHECK(objective.values().allFinite());
}

TEST_CASE("O: values after a step are those of the point that is kept, not of a rejected trial",
          "[refine][guard]") {
  int rejected = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const refine_case of(seed, 24);
    const kvfit::query_part part = of.part();
    const kvfit::attention_scores scores = scores_of(of, part);
    kvfit::refiner moving({.steps = 3000, .weighting = kvfit::output_weighting::relative},
                          of.cache(), of.rule, part, scores, of.rows, of.original);
    moving.start(of.keys, of.bias);
    REQUIRE(moving.step());
    if (moving.report().steps < 3000) ++rejected;
    const kvfit::refine_batch batch = whole_batch(of);
    kvfit::attention_objective objective({.mass_weight = kvfit::refinement{}.mass_weight},
                                         of.original);
    objective.use(batch);
    REQUIRE(objective.fit(moving.keys(), moving.bias()));
    INFO("seed " << seed << ", " << moving.report().steps << " steps");
    CHECK(moving.values() == objective.values());
  }
  CHECK(rejected >= 1);
}

TEST_CASE("O: queries of no length, or fewer than a key has numbers, give a metric",
          "[refine][guard]") {
  refine_case of(3, GENERATE(index_t{3}, index_t{40}));
  if (of.made.queries.rows() == 40) of.made.queries.setZero();
  const kvfit::query_part part = of.part();
  const kvfit::attention_scores scores = scores_of(of, part);
  kvfit::refiner moving({.steps = 5}, of.cache(), of.rule, part, scores, of.rows, of.original);
  moving.start(of.keys, of.bias);
  while (!moving.is_done()) REQUIRE(moving.step());
  CHECK(moving.keys().allFinite());
  CHECK(moving.bias().allFinite());
  CHECK(moving.report().steps > 0);
}

TEST_CASE("O: a refinement that no step improves is done", "[refine][guard]") {
  const refine_case of(4, 40);
  const kvfit::query_part part = of.part();
  const kvfit::attention_scores scores = scores_of(of, part);
  // Nothing to lower: J is 0 everywhere.
  kvfit::refiner moving({.steps = 5, .output_weight = 0, .mass_weight = 0}, of.cache(), of.rule,
                        part, scores, of.rows, of.original);
  moving.start(of.keys, of.bias);
  int rounds = 0;
  while (!moving.is_done() && rounds < 20) {
    REQUIRE(moving.step());
    ++rounds;
  }
  CHECK(rounds == 1);
  CHECK(moving.keys() == of.keys);
}
