// SPDX-License-Identifier: MIT
#include "kvfit/selection/expected_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "kvfit/attention/split.hpp"
#include "kvfit/core/random.hpp"
#include "selection/heads.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"

using kvfit::query_block;
using kvfit::selection::expected_attention;
namespace selection = kvfit::selection;

namespace {

using row_list = std::vector<kvfit::index_t>;

/// ln score of every key by the formula, term by term; kᵀ Σ k is the variance of the products q·k.
/// `heads`: the query heads' rows. `bias`: all that is added to a key's logit.
Eigen::VectorXd log_scores_in_double(const std::vector<Eigen::MatrixXd>& heads,
                                     const Eigen::MatrixXd& keys, const Eigen::MatrixXd& values,
                                     double scale, const Eigen::VectorXd& bias, double epsilon) {
  Eigen::MatrixXd logs(keys.rows(), static_cast<kvfit::index_t>(heads.size()));
  for (std::size_t h = 0; h < heads.size(); ++h) {
    Eigen::VectorXd logits(keys.rows());
    for (kvfit::index_t j = 0; j < keys.rows(); ++j) {
      const Eigen::VectorXd products = scale * oracle::product(heads[h], keys.row(j).transpose());
      const double mean = products.mean();
      logits[j] = mean + 0.5 * (products.array() - mean).square().mean() + bias[j];
    }
    const double largest = logits.maxCoeff();
    const double mass = largest + std::log((logits.array() - largest).exp().sum());
    logs.col(static_cast<kvfit::index_t>(h)) = logits.array() - mass;
  }
  Eigen::VectorXd scores(keys.rows());
  for (kvfit::index_t j = 0; j < keys.rows(); ++j) {
    const double largest = std::max(logs.row(j).maxCoeff(), -1e300);
    const double share = largest + std::log((logs.row(j).array() - largest).exp().mean());
    const double lifted = epsilon > 0 ? std::log(std::exp(share) + epsilon) : share;
    scores[j] = lifted + std::log(values.row(j).norm());
  }
  return scores;
}

row_list ranking_by(const Eigen::VectorXd& scores) {
  row_list rows = kvfit_test::rows_up_to(scores.size());
  std::stable_sort(rows.begin(), rows.end(),
                   [&](kvfit::index_t a, kvfit::index_t b) { return scores[a] > scores[b]; });
  return rows;
}

/// The smallest distance of two scores next to each other among the `count` + 1 best.
double narrowest_gap(const Eigen::VectorXd& scores, const row_list& ranking, std::size_t count) {
  double narrowest = kvfit_test::infinity;
  for (std::size_t k = 0; k < count; ++k) {
    narrowest = std::min(narrowest, scores[ranking[k]] - scores[ranking[k + 1]]);
  }
  return narrowest;
}

row_list kept(const kvfit::kv_block& cache, const kvfit::query_set& queries, kvfit::index_t budget,
              const kvfit::logit_rule& rule = {}, const expected_attention& policy = {}) {
  const kvfit_test::scored_head scored(cache, queries, selection::wanted_scores(policy), rule);
  const auto chosen = select(policy, scored.problem(budget));
  INFO((chosen ? "chosen" : chosen.error().message()));
  REQUIRE(chosen);
  CHECK(chosen->weights.empty());
  return chosen->positions;
}

kvfit::error refused(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                     const kvfit::logit_rule& rule, const expected_attention& policy = {}) {
  const kvfit_test::scored_head scored(cache, queries, {}, rule);
  const auto chosen = select(policy, scored.problem(2));
  REQUIRE_FALSE(chosen);
  return chosen.error();
}

}  // namespace

TEST_CASE("expected attention ranks as the formula in double, over heads, bias, scale and ALiBi",
          "[selection][expected_attention]") {
  const double epsilon = GENERATE(0.0, 0.01);
  const bool has_slope = GENERATE(false, true);
  CAPTURE(epsilon, has_slope);
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    CAPTURE(seed);
    const auto head = kvfit_test::make_head(seed, {.queries = 330, .keys = 300});
    const kvfit::row_view rows(head.queries);
    const float slope = has_slope ? 0.05F : 0.0F;
    const std::vector<query_block> blocks = {
        query_block(rows.middle_rows(0, 270), 400, slope),  // more than a tile
        query_block(rows.middle_rows(270, 20), 300, slope / 2),
        query_block(rows.middle_rows(290, 40), 300, slope / 2)};
    std::vector<float> bias(300);
    std::vector<kvfit::index_t> places(300);
    kvfit::random_source draw(seed);
    for (std::size_t j = 0; j < 300; ++j) {
      bias[j] = static_cast<float>(draw.uniform());
      places[j] = static_cast<kvfit::index_t>(draw.below(200));
    }
    bias[11] = bias[299] = kvfit_test::hidden_key;
    kvfit::kv_block cache = head.cache();
    cache.bias = bias;
    cache.positions = places;
    const kvfit::logit_rule rule{.scale = 0.125F};

    // The slopes differ from head to head, so each has a bias of its own.
    const Eigen::MatrixXd all = kvfit_test::to_double(rows);
    const Eigen::MatrixXd keys = kvfit_test::to_double(head.keys);
    const Eigen::MatrixXd values = kvfit_test::to_double(head.values);
    Eigen::VectorXd shares = Eigen::VectorXd::Zero(300);
    kvfit::index_t first = 0;
    for (const query_block& block : blocks) {
      Eigen::VectorXd added(300);
      for (std::size_t j = 0; j < 300; ++j) {
        added[static_cast<kvfit::index_t>(j)] =
            static_cast<double>(bias[j]) +
            static_cast<double>(block.alibi_slope) * static_cast<double>(places[j]);
      }
      const Eigen::MatrixXd unit = Eigen::MatrixXd::Ones(300, 1);
      shares += log_scores_in_double({all.middleRows(first, block.rows.rows())}, keys, unit, 0.125,
                                     added, 0)
                    .array()
                    .exp()
                    .matrix() /
                3;
      first += block.rows.rows();
    }
    Eigen::VectorXd expected(300);
    for (kvfit::index_t j = 0; j < 300; ++j) {
      expected[j] = std::log(shares[j] + epsilon) + std::log(values.row(j).norm());
    }
    expected[11] = expected[299] = -kvfit_test::infinity;
    const row_list ranking = ranking_by(expected);
    REQUIRE(narrowest_gap(expected, ranking, 100) > 1e-9);  // double tells them all apart
    CHECK(kept(cache, std::span<const query_block>(blocks), 100, rule, {.epsilon = epsilon}) ==
          row_list(ranking.begin(), ranking.begin() + 100));
  }
}

TEST_CASE("expected logits are the expectation under a Gaussian, by quadrature",
          "[selection][expected_attention]") {
  kvfit::matrix queries(4, 1);
  queries << -0.5F, 0.25F, 1.5F, 2.0F;
  kvfit::matrix keys(5, 1);
  keys << -2.0F, -0.5F, 0.0F, 1.0F, 3.0F;
  const kvfit::matrix values = kvfit::matrix::Ones(5, 1);
  const std::vector<query_block> blocks = {kvfit::row_view(queries)};
  const std::span<const query_block> head(blocks);
  const kvfit_test::scored_head scored({.keys = keys, .values = values}, head, {},
                                       {.scale = 0.75F});
  const Eigen::VectorXd found = kvfit::detail::expected_logits(scored.problem(1), head);
  const double mean = queries.cast<double>().mean();
  const double deviation = std::sqrt((queries.cast<double>().array() - mean).square().mean());
  for (kvfit::index_t j = 0; j < 5; ++j) {
    double expectation = 0;
    constexpr double step = 0.01;  // the trapezoidal rule is exact to rounding for a Gaussian
    for (double x = -14; x <= 14; x += step) {
      expectation += step * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0)) *
                     std::exp(0.75 * (mean + deviation * x) * static_cast<double>(keys(j, 0)));
    }
    CHECK(found[j] == Approx(std::log(expectation)).margin(1e-10));
  }
}

TEST_CASE("one query's expected attention is its attention", "[selection][expected_attention]") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const auto head = kvfit_test::make_head(seed, {.queries = 1, .keys = 50});
    const auto full = kvfit_test::attend_in_double(head.queries, head.cache());
    const Eigen::VectorXd expected = full.weights.row(0).transpose().array() *
                                     head.values.cast<double>().rowwise().norm().array();
    const row_list ranking = ranking_by(expected);
    CHECK(kept(head.cache(), head.queries, 12) == row_list(ranking.begin(), ranking.begin() + 12));
  }
}

TEST_CASE("queries of zero look everywhere alike: the longest values stay, equal ones in order",
          "[selection][expected_attention]") {
  auto head = kvfit_test::make_head(1, {.queries = 5, .keys = 8, .width = 2});
  head.queries.setZero();
  head.values.setOnes();
  head.values.row(6) *= 3;
  head.values.row(2).setZero();
  head.values.row(3) *= -2;
  CHECK(kept(head.cache(), head.queries, 8) == row_list{6, 3, 0, 1, 4, 5, 7, 2});
}

TEST_CASE("equal keys with equal values tie, whatever their place in memory",
          "[selection][expected_attention]") {
  // An odd depth: rows begin at all alignments.
  auto head = kvfit_test::make_head(2, {.queries = 40, .keys = 300, .depth = 17, .width = 5});
  const Eigen::RowVectorXf towards = 40 * head.queries.colwise().mean();
  for (const kvfit::index_t j : {30, 31, 100, 257, 299}) {
    head.keys.row(j) = towards;
    head.values.row(j).setConstant(50);
  }
  CHECK(kept(head.cache(), head.queries, 5) == row_list{30, 31, 100, 257, 299});
  CHECK(kept(head.cache(), head.queries, 3) == row_list{30, 31, 100});
}

TEST_CASE("§17 permuting queries, saying each twice or cutting heads in parts changes nothing",
          "[selection][expected_attention]") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const auto head = kvfit_test::make_head(seed);
    const kvfit::row_view rows(head.queries);
    const std::vector<query_block> heads = {rows.middle_rows(0, 60), rows.middle_rows(60, 36)};
    const row_list plain = kept(head.cache(), std::span<const query_block>(heads), 20);
    CHECK(row_list(plain) != kept(head.cache(), rows, 20));  // two heads are not one

    kvfit::matrix doubled(192, head.queries.cols());
    for (kvfit::index_t i = 0; i < 60; ++i) {
      doubled.row(i) = doubled.row(119 - i) = head.queries.row(i * 7 % 60);
    }
    for (kvfit::index_t i = 0; i < 36; ++i) {
      doubled.row(120 + i) = doubled.row(191 - i) = head.queries.row(60 + i * 5 % 36);
    }
    const kvfit::row_view twice(doubled);
    const std::vector<query_block> doubled_heads = {twice.middle_rows(0, 120),
                                                    twice.middle_rows(120, 72)};
    CHECK(kept(head.cache(), std::span<const query_block>(doubled_heads), 20) == plain);

    const std::vector<query_block> parts = {heads[1].rows.middle_rows(9, 27), heads[0],
                                            heads[1].rows.middle_rows(0, 9)};
    const std::vector<query_block> ordered = {parts[1], parts[0], parts[2]};
    const std::vector<kvfit::block_origin> origins = {{0, 0, 1}, {1, 9, 1}, {1, 0, 1}};
    const std::span<const query_block> cut(ordered);
    const kvfit_test::scored_head scored(head.cache(), cut);
    kvfit::selection_problem problem = scored.problem(20);
    problem.origins = origins;
    const auto chosen = select(expected_attention{}, problem);
    REQUIRE(chosen);
    CHECK(chosen->positions == plain);
    CHECK(select(expected_attention{}, scored.problem(20))->positions != plain);
  }
}

TEST_CASE("permuted keys are ranked the same", "[selection][expected_attention]") {
  const auto head = kvfit_test::make_head(3);
  const row_list plain = kept(head.cache(), head.queries, 20);
  auto mixed = head;
  for (kvfit::index_t j = 0; j < 64; ++j) {
    mixed.keys.row(j * 27 % 64) = head.keys.row(j);
    mixed.values.row(j * 27 % 64) = head.values.row(j);
  }
  row_list moved;
  for (const kvfit::index_t row : plain) moved.push_back(row * 27 % 64);
  CHECK(kept(mixed.cache(), mixed.queries, 20) == moved);
}

TEST_CASE("§9.4 huge logits keep the order of shares that no number could hold",
          "[selection][expected_attention]") {
  const float size = GENERATE(1e2F, 1e8F, 1e15F);
  CAPTURE(size);
  auto head = kvfit_test::make_head(4, {.queries = 30, .keys = 40, .depth = 4});
  head.queries *= size;
  head.keys *= size;
  head.values.setOnes();
  const Eigen::VectorXd expected =
      log_scores_in_double({kvfit_test::to_double(head.queries)}, kvfit_test::to_double(head.keys),
                           kvfit_test::to_double(head.values), 0.5, Eigen::VectorXd::Zero(40), 0);
  const row_list ranking = ranking_by(expected);
  REQUIRE(expected[ranking[1]] < -750);  // exp() of it is 0
  CHECK(kept(head.cache(), head.queries, 40) == ranking);
}

TEST_CASE("what a Gaussian has no model of is refused by name, and no model is needed otherwise",
          "[selection][expected_attention]") {
  const auto head = kvfit_test::make_head(5, {.queries = 20, .keys = 30});
  const query_block after(head.queries, 30);
  const row_list plain = kept(head.cache(), after, 8);
  const auto check = [](const kvfit::error& cause, const std::string& argument) {
    CHECK(cause.code == kvfit::errc::invalid_option);
    CHECK(cause.argument == argument);
    CHECK_FALSE(cause.detail.empty());
  };
  check(refused(head.cache(), after, {.soft_cap = 50}), "rule.soft_cap");

  const kvfit::matrix mask = kvfit::matrix::Zero(20, 30);
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block masked = head.cache();
  masked.masks = masks;
  check(refused(masked, after, {}), "masks");

  // Queries at 30 … 49, keys at 0 … 29.
  CHECK(kept(head.cache(), after, 8, {.causal = true}) == plain);
  CHECK(kept(head.cache(), query_block(head.queries, 29), 8, {.causal = true}) == plain);
  check(refused(head.cache(), query_block(head.queries, 28), {.causal = true}), "rule.causal");
  query_block backwards(head.queries, 29 + 19);
  backwards.position_step = -1;
  CHECK(kept(head.cache(), backwards, 8, {.causal = true}) == plain);
  backwards.first_position = 29 + 18;
  check(refused(head.cache(), backwards, {.causal = true}), "rule.causal");
  CHECK(kept(head.cache(), after, 8, {.window = 50}) == plain);
  check(refused(head.cache(), after, {.window = 49}), "rule.window");
}

TEST_CASE("H: hidden rows are no keys of a Gaussian: neither their numbers nor their positions",
          "[selection][expected_attention]") {
  const kvfit_test::head made = kvfit_test::make_head(5, {.queries = 20, .keys = 30});
  std::vector<float> bias(30, 0.25F);
  std::vector<kvfit::index_t> positions(30);
  std::iota(positions.begin(), positions.end(), 0);
  kvfit::matrix keys = made.keys;
  kvfit::matrix values = made.values;
  for (const kvfit::index_t row : {0, 7, 29}) {
    bias[static_cast<std::size_t>(row)] = kvfit_test::hidden_key;
    positions[static_cast<std::size_t>(row)] = std::numeric_limits<kvfit::index_t>::max();
    keys.row(row).setConstant(std::numeric_limits<float>::quiet_NaN());
    values.row(row).setConstant(std::numeric_limits<float>::infinity());
  }
  kvfit::kv_block clean = made.cache();
  clean.bias = bias;
  const kvfit::kv_block spoilt{
      .keys = keys, .values = values, .bias = bias, .positions = positions};
  // Causal, with every visible key before every query: there is nothing that a Gaussian can't say.
  const query_block queries(made.queries, 29, 0.01F);
  const kvfit::logit_rule rule{.causal = true, .window = 1000};
  const kvfit_test::scored_head expected(clean, queries, {}, rule);
  const kvfit_test::scored_head scored(spoilt, queries, {}, rule);
  const auto wanted = select(expected_attention{}, expected.problem(12));
  const auto chosen = select(expected_attention{}, scored.problem(12));
  REQUIRE(wanted);
  INFO((chosen ? "" : chosen.error().message()));
  REQUIRE(chosen);
  CHECK(chosen->positions == wanted->positions);
}

TEST_CASE("a share of attention that is negative or no number is refused",
          "[selection][expected_attention]") {
  const auto head = kvfit_test::make_head(6, {.queries = 5, .keys = 6});
  for (const double epsilon : {-1e-9, kvfit_test::infinity, std::nan("")}) {
    CAPTURE(epsilon);
    const kvfit::error cause = refused(head.cache(), head.queries, {}, {.epsilon = epsilon});
    CHECK(cause.code == kvfit::errc::invalid_option);
    CHECK(cause.argument == "expected_attention.epsilon");
  }
}
