// SPDX-License-Identifier: MIT
#include "kvfit/selection/residual_ranking.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kvfit/core/random.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

using kvfit::mass_weighting;

namespace {

/// What every key scores, from all correlations in fp32.
std::vector<kvfit::index_t> rank_all(kvfit::mass_columns& columns, const kvfit::vector& residual,
                                     const std::vector<char>& open, double power, bool absolute,
                                     kvfit::index_t count) {
  kvfit::vector score;
  kvfit::vector norms;
  columns.norms(norms);
  std::vector<kvfit::index_t> rows(static_cast<std::size_t>(columns.keys()));
  std::iota(rows.begin(), rows.end(), 0);
  columns.set_residual(residual);
  columns.correlations(rows, score);  // one sum each, as the ranking takes them
  rows.clear();
  for (kvfit::index_t j = 0; j < score.size(); ++j) {
    if (absolute) score[j] = std::abs(score[j]);
    if (power != 0) score[j] /= std::pow(norms[j] + 1e-12F, static_cast<float>(power));
    if (open[static_cast<std::size_t>(j)] != 0) rows.push_back(j);
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [&](kvfit::index_t a, kvfit::index_t b) { return score[a] > score[b]; });
  rows.resize(std::min(rows.size(), static_cast<std::size_t>(count)));
  return rows;
}

}  // namespace

TEST_CASE("keys ranked by bounds are those ranked by looking at all, whatever the residual does",
          "[selection][residual_ranking]") {
  const double power = GENERATE(0.0, 0.5, 1.0);
  const bool absolute = GENERATE(false, true);
  const auto weighting = GENERATE(mass_weighting::relative, mass_weighting::absolute);
  // In fp32 alone, in bf16 too, in bf16 alone.
  const int storage = GENERATE(0, 1, 2);
  const auto head = kvfit_test::make_head(3, {.queries = 120, .keys = 700});
  const kvfit_test::scored_head scored(head.cache(), head.queries,
                                       {.keep_exponentials = storage == 2 ? -1 : 120 * 700 * 4});
  kvfit::selection_problem problem = scored.problem(50);
  if (storage == 2) problem.memory_cap = 4 * kvfit::simd::half_words(120) * 700;
  kvfit::thread_pool pool(3);
  if (power == 0.5) problem.threads = pool;
  kvfit::mass_columns columns(problem, weighting);
  REQUIRE(columns.is_stored() == (storage != 2));
  kvfit::residual_ranking ranking(columns, power, absolute, storage == 1 ? 1000 : 0);
  REQUIRE(ranking.is_at_hand());
  kvfit::random_source draw(7);
  std::vector<char> open(700, 1);
  kvfit::vector residual = columns.target();
  kvfit::index_t candidates = 0;
  for (int round = 0; round < 60; ++round) {
    const auto count = static_cast<kvfit::index_t>(1 + draw.below(6));
    candidates += std::count(open.begin(), open.end(), 1);
    const auto found = ranking.best(residual, open, count);
    const std::vector<kvfit::index_t> rows(found.begin(), found.end());
    INFO("round " << round << ", " << count << " rows");
    REQUIRE(rows == rank_all(columns, residual, open, power, absolute, count));
    for (const kvfit::index_t row : rows) open[static_cast<std::size_t>(row)] = 0;
    if (round % 10 == 9) open.assign(700, 1);  // closed rows may come back
    switch (round % 5) {
      case 0:  // a little of everything
        for (float& r : residual) r += 0.02F * static_cast<float>(draw.uniform() - 0.5);
        break;
      case 1:  // shorter, same direction
        residual *= 0.7F;
        break;
      case 2:  // one query explained
        residual[static_cast<kvfit::index_t>(draw.below(120))] = 0;
        break;
      case 3:  // nothing at all
        break;
      case 4:  // turned round
        residual = -residual;
        break;
    }
  }
  INFO(ranking.examined() << " looks at " << candidates << " candidates");
  CHECK(ranking.examined() < candidates);
}

TEST_CASE("keys alike, of no weight or of far too little are ranked as by looking at all",
          "[selection][residual_ranking]") {
  const double power = GENERATE(0.0, 0.5);
  const int storage = GENERATE(0, 1, 2);
  auto head = kvfit_test::make_head(8, {.queries = 90, .keys = 300});
  for (kvfit::index_t j = 0; j < 300; ++j) {
    if (j % 3 == 0) head.keys.row(j) = head.keys.row(7);             // alike
    if (j % 7 == 1) head.keys.row(j) *= -8;                          // hardly looked at, or a lot
    if (j % 11 == 2) head.keys.row(j) = -12 * head.keys.row(j % 9);  // weights down to e⁻¹⁰⁰
  }
  const kvfit_test::scored_head scored(head.cache(), head.queries,
                                       {.keep_exponentials = storage == 2 ? -1 : 90 * 300 * 4});
  kvfit::selection_problem problem = scored.problem(50);
  if (storage == 2) problem.memory_cap = 4 * kvfit::simd::half_words(90) * 300;
  kvfit::mass_columns columns(problem, mass_weighting::absolute);
  kvfit::residual_ranking ranking(columns, power, false, storage == 1 ? 1000 : 0);
  kvfit::random_source draw(9);
  std::vector<char> open(300, 1);
  kvfit::vector residual = columns.target();
  for (int round = 0; round < 150; ++round) {  // till hardly any are left
    const auto count = static_cast<kvfit::index_t>(1 + draw.below(3));
    const auto found = ranking.best(residual, open, count);
    const std::vector<kvfit::index_t> rows(found.begin(), found.end());
    INFO("round " << round << ", " << count << " rows");
    REQUIRE(rows == rank_all(columns, residual, open, power, false, count));
    for (const kvfit::index_t row : rows) open[static_cast<std::size_t>(row)] = 0;
    for (float& r : residual) r *= 1 + 0.1F * static_cast<float>(draw.uniform() - 0.5);
  }
  CHECK(std::count(open.begin(), open.end(), 1) < 30);
  CHECK(ranking.best(residual, open, 400).size() ==
        static_cast<std::size_t>(std::count(open.begin(), open.end(), 1)));
}

TEST_CASE("few keys need a look while the residual changes little",
          "[selection][residual_ranking]") {
  const auto head = kvfit_test::make_head(5, {.queries = 100, .keys = 600});
  const kvfit_test::scored_head scored(head.cache(), head.queries,
                                       {.keep_exponentials = 100 * 600 * 4});
  kvfit::mass_columns columns(scored.problem(50), mass_weighting::absolute);
  kvfit::residual_ranking ranking(columns, 0, false, GENERATE(0, 1000));
  const std::vector<char> open(600, 1);
  ranking.best(columns.target(), open, 1);
  const kvfit::index_t first = ranking.examined();
  kvfit::vector residual = columns.target();
  residual[3] *= 0.999F;
  ranking.best(residual, open, 1);
  CHECK(ranking.examined() - first <= 60);  // the runners-up, and those as near
}

TEST_CASE("no rows open, or none asked for, gives none", "[selection][residual_ranking]") {
  const bool is_stored = GENERATE(false, true);
  const auto head = kvfit_test::make_head(6, {.queries = 20, .keys = 40});
  const kvfit_test::scored_head scored(head.cache(), head.queries);
  kvfit::selection_problem problem = scored.problem(5);
  if (!is_stored) problem.memory_cap = 0;
  kvfit::mass_columns columns(problem, mass_weighting::relative);
  REQUIRE(columns.is_stored() == is_stored);
  kvfit::residual_ranking ranking(columns, 0.5, false, 10);
  CHECK(ranking.is_at_hand() == is_stored);
  std::vector<char> open(40, 0);
  CHECK(ranking.best(columns.target(), open, 3).empty());
  open[7] = open[9] = 1;
  CHECK(ranking.best(columns.target(), open, 0).empty());
  CHECK(ranking.best(columns.target(), open, 3).size() == 2);
  const kvfit::vector nothing = kvfit::vector::Zero(20);
  const auto rows = ranking.best(nothing, open, 1);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0] == 7);  // ties go to the earlier row
}

TEST_CASE("O: keys that differ by rounding alone are ranked as by looking at all",
          "[selection][residual_ranking][guard]") {
  const int storage = GENERATE(0, 1, 2);
  auto head = kvfit_test::make_head(11, {.queries = 160, .keys = 400});
  const kvfit::matrix noise = kvfit_test::random_matrix(400, head.keys.cols(), 12, 2e-6F);
  for (kvfit::index_t j = 0; j < 400; ++j) head.keys.row(j) = head.keys.row(j % 3) + noise.row(j);
  const kvfit_test::scored_head scored(head.cache(), head.queries,
                                       {.keep_exponentials = storage == 2 ? -1 : 160 * 400 * 4});
  kvfit::selection_problem problem = scored.problem(50);
  if (storage == 2) problem.memory_cap = 4 * kvfit::simd::half_words(160) * 400;
  kvfit::mass_columns columns(problem, mass_weighting::relative);
  kvfit::residual_ranking ranking(columns, 0, false, storage == 1 ? 1000 : 0);
  kvfit::random_source draw(13);
  const std::vector<char> open(400, 1);
  kvfit::vector residual = columns.target();
  for (int round = 0; round < 80; ++round) {
    const auto found = ranking.best(residual, open, 1);
    INFO("storage " << storage << ", round " << round);
    REQUIRE(found.size() == 1);
    CHECK(found[0] == rank_all(columns, residual, open, 0, false, 1)[0]);
    residual[static_cast<kvfit::index_t>(draw.below(160))] *= 1 + 1e-6F;
  }
}

TEST_CASE("O: keys whose squares vanish are ranked as by looking at all",
          "[selection][residual_ranking][guard]") {
  const int storage = GENERATE(0, 1, 2);
  // Weights of some e⁻⁶⁰, beside one key that has all.
  auto head = kvfit_test::make_head(14, {.queries = 60, .keys = 200, .depth = 8});
  head.queries.col(0).setConstant(8);
  head.keys.col(0).setConstant(-21);
  head.keys(0, 0) = 0;
  const kvfit_test::scored_head scored(head.cache(), head.queries,
                                       {.keep_exponentials = storage == 2 ? -1 : 60 * 200 * 4});
  kvfit::selection_problem problem = scored.problem(50);
  if (storage == 2) problem.memory_cap = 4 * kvfit::simd::half_words(60) * 200;
  kvfit::mass_columns columns(problem, mass_weighting::relative);
  kvfit::residual_ranking ranking(columns, 0, false, storage == 1 ? 1000 : 0);
  std::vector<char> open(200, 1);
  open[0] = 0;
  kvfit::vector residual = columns.target();
  for (int round = 0; round < 60; ++round) {
    const auto found = ranking.best(residual, open, 1);
    INFO("storage " << storage << ", round " << round);
    REQUIRE(found.size() == 1);
    CHECK(found[0] == rank_all(columns, residual, open, 0, false, 1)[0]);
    residual[round] *= -1;
    open[static_cast<std::size_t>(found[0])] = 0;
  }
}
