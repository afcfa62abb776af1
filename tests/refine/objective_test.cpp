// SPDX-License-Identifier: MIT
#include "kvfit/refine/objective.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/refine/batch.hpp"
#include "refine/refine_case.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/random_matrix.hpp"

namespace {

using kvfit_test::MatrixXd;
using kvfit_test::moved_logits;
using kvfit_test::refine_case;
using kvfit_test::VectorXd;

/// J as `objective.hpp` writes it, in double.
class naive_objective {
 public:
  naive_objective(const refine_case& of, const kvfit::objective_settings& settings)
      : of_(of), settings_(settings), logits_(of) {
    const std::span<const kvfit::query_block> blocks(of.blocks);
    full_ = kvfit_test::attend_in_double(blocks, of.cache(), of.rule);
    const kvfit::index_t n = full_.output.rows();
    const VectorXd lengths = full_.output.rowwise().norm();
    const auto nonzero = static_cast<double>((lengths.array() > 0).count());
    const double floor = 0.01 * std::sqrt(lengths.squaredNorm() / nonzero);
    f_ = VectorXd::Zero(n);
    for (kvfit::index_t i = 0; i < n; ++i) {
      if (lengths[i] > 0) f_[i] = 1 / std::max(lengths[i], floor);
      seen_ += full_.log_mass[i] > -kvfit_test::infinity ? 1 : 0;
    }
  }

  struct parts {
    double total;
    double output;
    double mass;
    double ridge;  ///< λ
    double penalty;  ///< output_weight · λ ‖C − C₀‖² / n: what the values' fit lowers beside J
    MatrixXd values;
  };

  /// `ridge`: λ; the header's share of the mean diagonal at this point where negative.
  [[nodiscard]] parts at(const MatrixXd& keys, const VectorXd& bias, double ridge = -1) const {
    const MatrixXd logits = logits_(keys, bias);
    const kvfit::index_t n = logits.rows();
    MatrixXd x = MatrixXd::Zero(n, logits.cols());
    parts out{0, 0, 0, 0, 0, {}};
    for (kvfit::index_t i = 0; i < n; ++i) {
      if (full_.log_mass[i] == -kvfit_test::infinity) continue;
      x.row(i) = (logits.row(i).array() - full_.log_mass[i]).exp();
      const double mass = x.row(i).sum();
      const double s = settings_.mass_softness;
      out.mass += (std::sqrt((mass - 1) * (mass - 1) + s * s) - s) / seen_;
      if (mass > 0) x.row(i) /= mass;
    }
    const MatrixXd fx = f_.asDiagonal() * x;
    const MatrixXd start = oracle::to_double(of_.original);
    MatrixXd gram = oracle::transposed_product(fx, fx);
    out.ridge = ridge < 0 ? 1e-6 * gram.trace() / static_cast<double>(gram.rows()) : ridge;
    gram.diagonal().array() += out.ridge;
    const MatrixXd target = f_.asDiagonal() * full_.output;
    const MatrixXd rest = target - oracle::product(fx, start);
    out.values = start + oracle::solve_by_ldlt(gram, oracle::transposed_product(fx, rest));
    if (settings_.output_weight > 0) {
      out.penalty = settings_.output_weight * out.ridge *
                    std::pow(oracle::distance(out.values, start), 2) / seen_;
      out.output = std::pow(oracle::residual_norm(fx, out.values, target), 2) / seen_;
    }
    out.total = settings_.output_weight * out.output + settings_.mass_weight * out.mass;
    return out;
  }

 private:
  const refine_case& of_;
  kvfit::objective_settings settings_;
  moved_logits logits_;
  kvfit_test::oracle_attention full_;
  VectorXd f_;
  double seen_ = 0;
};

/// Value, values and gradients against the naive ones, gradients by central differences of J with
/// values fitted anew at both ends. By the envelope theorem the gradient is exactly that of J plus
/// the ridge's penalty (λ held still), which fp32 leaves 2e-4 of; without it, 1e-3.
void check_objective(const refine_case& of, kvfit::objective_settings settings) {
  settings.soft_cap = of.rule.soft_cap;
  const kvfit::query_part part = of.part();
  const auto scores = kvfit::score_pass(part.beside(of.made.cache()), part.set(), of.rule);
  REQUIRE(scores);
  const kvfit::scored_part one{&part, &*scores};
  const kvfit::refine_batch batch =
      kvfit::make_batch(std::span(&one, 1), {}, of.cache(), of.rule, of.rows);
  kvfit::attention_objective objective(settings, of.original);
  objective.use(batch);
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  const auto value = objective(of.keys, of.bias, keys_gradient, bias_gradient);

  const naive_objective naive(of, settings);
  const MatrixXd keys = oracle::to_double(of.keys);
  const VectorXd bias = of.bias.cast<double>();
  const auto expected = naive.at(keys, bias);
  CHECK(value.total == Approx(expected.total).epsilon(1e-4));
  CHECK(value.mass == Approx(expected.mass).epsilon(1e-4).margin(1e-6));
  CHECK(value.output == Approx(expected.output).epsilon(1e-4).margin(1e-12));
  if (settings.output_weight > 0) {
    CHECK(oracle::relative_error(oracle::to_double(objective.values()), expected.values) <= 1e-3);
  }

  constexpr double h = 1e-4;
  MatrixXd by_keys(6, 8);
  VectorXd by_bias(6);
  MatrixXd lowered_by_keys(6, 8);
  VectorXd lowered_by_bias(6);
  const auto slope = [&](const MatrixXd& of_keys, const VectorXd& of_bias, double& of_objective,
                         double& of_lowered) {
    const auto up = naive.at(keys + of_keys, bias + of_bias);
    const auto down = naive.at(keys - of_keys, bias - of_bias);
    of_objective = (up.total - down.total) / (2 * h);
    const auto held_up = naive.at(keys + of_keys, bias + of_bias, expected.ridge);
    const auto held_down = naive.at(keys - of_keys, bias - of_bias, expected.ridge);
    of_lowered = (held_up.total + held_up.penalty - held_down.total - held_down.penalty) / (2 * h);
  };
  const MatrixXd still_keys = MatrixXd::Zero(6, 8);
  const VectorXd still_bias = VectorXd::Zero(6);
  for (kvfit::index_t l = 0; l < 6; ++l) {
    for (kvfit::index_t k = 0; k < 8; ++k) {
      MatrixXd step = still_keys;
      step(l, k) = h;
      slope(step, still_bias, by_keys(l, k), lowered_by_keys(l, k));
    }
    VectorXd step = still_bias;
    step[l] = h;
    slope(still_keys, step, by_bias[l], lowered_by_bias[l]);
  }
  REQUIRE(keys_gradient.rows() == 6);
  REQUIRE(keys_gradient.cols() == 8);
  REQUIRE(bias_gradient.size() == 6);
  const auto share_off = [](const kvfit::matrix& found, const MatrixXd& wanted) {
    return oracle::relative_error(oracle::to_double(found), wanted);
  };
  INFO("gradients off by shares of " << share_off(keys_gradient, by_keys) << " (keys) and "
                                     << share_off(bias_gradient, by_bias) << " (bias)");
  INFO("with the ridge's own, " << share_off(keys_gradient, lowered_by_keys) << " and "
                                << share_off(bias_gradient, lowered_by_bias));
  CHECK(share_off(keys_gradient, lowered_by_keys) <= 2e-4);
  CHECK(share_off(bias_gradient, lowered_by_bias) <= 2e-4);
  // Hardly more queries than keys: the ridge is what keeps the values where they are.
  if (of.made.queries.rows() < 20) return;
  CHECK(share_off(keys_gradient, by_keys) <= 1e-3);
  CHECK(share_off(bias_gradient, by_bias) <= 1e-3);
}

}  // namespace

TEST_CASE("the refined objective and its gradient are those of the formula in double",
          "[refine][objective]") {
  const std::uint64_t seed = GENERATE(1U, 2U);
  refine_case of(seed);
  SECTION("with the defaults") {
    check_objective(of, {});
  }
  SECTION("with other weights") {
    check_objective(of, {.output_weight = 0.3, .mass_weight = 2, .mass_softness = 0.5});
  }
  SECTION("for the outputs alone") {
    check_objective(of, {.mass_weight = 0});
  }
  SECTION("for the mass alone") {
    check_objective(of, {.output_weight = 0});
  }
  SECTION("under a soft-cap") {
    of.rule.soft_cap = 3;
    of.rule.scale = 0.5F;
    check_objective(of, {});
    check_objective(of, {.output_weight = 0});
  }
  SECTION("under masks, and with queries that see nothing") {
    of.add_masks();
    check_objective(of, {});
  }
  SECTION("under ALiBi, causality and a window") {
    of.add_positions();
    check_objective(of, {});
  }
  SECTION("with all of the logit's rule at once") {
    of.add_positions();
    of.rule.soft_cap = 4;
    of.rule.scale = 0.4F;
    // Masks go block by block.
    of.mask = kvfit_test::random_matrix(277, 30, 78, 0.4F);
    of.mask.row(210).setConstant(kvfit_test::hidden_key);
    const kvfit::row_view all = of.mask;
    of.masks = {all.middle_rows(0, 200), all.middle_rows(200, 77)};
    check_objective(of, {});
  }
}

TEST_CASE("the objective takes any number of queries", "[refine][objective][panel]") {
  const kvfit::index_t queries =
      GENERATE(kvfit::index_t{7}, kvfit::index_t{239}, kvfit::index_t{240}, kvfit::index_t{241},
               kvfit::index_t{480});
  INFO(queries << " queries");
  const refine_case of(3, queries);
  check_objective(of, {});
}

TEST_CASE("values fitted alone are those fitted on the way", "[refine][objective]") {
  const refine_case of(4);
  const kvfit::query_part part = of.part();
  const auto scores = kvfit::score_pass(of.cache(), part.set(), of.rule);
  REQUIRE(scores);
  const kvfit::scored_part one{&part, &*scores};
  const auto batch = kvfit::make_batch(std::span(&one, 1), {}, of.cache(), of.rule, of.rows);
  kvfit::attention_objective on_the_way({}, of.original);
  on_the_way.use(batch);
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  on_the_way(of.keys, of.bias, keys_gradient, bias_gradient);
  kvfit::attention_objective alone({.output_weight = 0}, of.original);
  alone.use(batch);
  CHECK(alone.fit(of.keys, of.bias));
  CHECK(alone.values() == on_the_way.values());
  CHECK((alone.values() - of.original).norm() > 0.01F * of.original.norm());
}

TEST_CASE("the objective on several threads is the same to the bit, values and gradients too",
          "[refine][objective][threads]") {
  // Enough for threads to be woken: no product is below two million multiply-adds.
  constexpr kvfit::index_t kept = 230;
  constexpr kvfit::index_t queries = 500;
  const kvfit::matrix q = kvfit_test::random_matrix(queries, 64, 1);
  const kvfit::matrix keys = kvfit_test::random_matrix(400, 64, 2);
  const kvfit::matrix values = kvfit_test::random_matrix(400, 64, 3);
  const kvfit::kv_block cache{.keys = keys, .values = values};
  kvfit::logit_rule rule;
  rule.soft_cap = GENERATE(0.0F, 5.0F);
  const bool is_tied = GENERATE(false, true);
  kvfit::query_part part;
  part.blocks.push_back(kvfit::query_block(q));
  part.origins.emplace_back();
  const auto scores = kvfit::score_pass(cache, part.set(), rule);
  REQUIRE(scores);
  std::vector<kvfit::index_t> rows(kept);
  for (std::size_t k = 0; k < rows.size(); ++k) rows[k] = static_cast<kvfit::index_t>(k);
  const kvfit::matrix moved = keys.topRows(kept);
  const kvfit::matrix original = values.topRows(kept);
  kvfit::vector bias(kept);
  std::fill_n(bias.data(), kept, 0.5F);
  const kvfit::scored_part one{&part, &*scores};
  const auto batch = kvfit::make_batch(std::span(&one, 1), {}, cache, rule, rows);
  kvfit::objective_settings settings{.soft_cap = rule.soft_cap};
  if (is_tied) settings.tied_from = 0;
  struct point {
    kvfit::objective_value value;
    kvfit::matrix values;
    kvfit::matrix keys_gradient;
    kvfit::vector bias_gradient;
  };
  const auto at = [&](const kvfit::executor_ref& threads) {
    kvfit::attention_objective objective(settings, original, threads);
    objective.use(batch);
    point out;
    out.value = objective(moved, bias, out.keys_gradient, out.bias_gradient);
    out.values = objective.values();
    return out;
  };
  const point alone = at({});
  REQUIRE(std::isfinite(alone.value.total));
  for (const int threads : {2, 3}) {
    kvfit::thread_pool pool(threads);
    const point shared = at(pool);
    CHECK(shared.value.total == alone.value.total);
    CHECK(shared.values == alone.values);
    CHECK(shared.keys_gradient == alone.keys_gradient);
    CHECK(shared.bias_gradient == alone.bias_gradient);
  }
}

TEST_CASE("keys that overflow give an infinite objective and no values",
          "[refine][objective][degenerate]") {
  const refine_case of(5);
  const kvfit::query_part part = of.part();
  const auto scores = kvfit::score_pass(of.cache(), part.set(), of.rule);
  REQUIRE(scores);
  const kvfit::scored_part one{&part, &*scores};
  const auto batch = kvfit::make_batch(std::span(&one, 1), {}, of.cache(), of.rule, of.rows);
  kvfit::attention_objective objective({}, of.original);
  objective.use(batch);
  kvfit::matrix keys = of.keys;
  keys(2, 3) = std::numeric_limits<float>::infinity();
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  CHECK_FALSE(std::isfinite(objective(keys, of.bias, keys_gradient, bias_gradient).total));
  CHECK_FALSE(objective.fit(keys, of.bias));
  CHECK(std::isfinite(objective(of.keys, of.bias, keys_gradient, bias_gradient).total));
}

TEST_CASE("keys that are all alike still get values, and a finite gradient",
          "[refine][objective][degenerate]") {
  const refine_case of(6);
  const kvfit::query_part part = of.part();
  const auto scores = kvfit::score_pass(of.cache(), part.set(), of.rule);
  REQUIRE(scores);
  const kvfit::scored_part one{&part, &*scores};
  const auto batch = kvfit::make_batch(std::span(&one, 1), {}, of.cache(), of.rule, of.rows);
  kvfit::attention_objective objective({}, of.original);
  objective.use(batch);
  kvfit::matrix keys = of.keys;
  for (kvfit::index_t l = 1; l < 6; ++l) keys.row(l) = keys.row(0);
  kvfit::matrix keys_gradient;
  kvfit::vector bias_gradient;
  const kvfit::vector bias = kvfit::vector::Constant(6, 1.0F);
  const auto value = objective(keys, bias, keys_gradient, bias_gradient);
  const naive_objective naive(of, {});
  CHECK(value.total ==
        Approx(naive.at(keys.cast<double>(), bias.cast<double>()).total).epsilon(1e-3));
  CHECK(keys_gradient.allFinite());
  CHECK(bias_gradient.allFinite());
}

TEST_CASE("a batch takes every s-th query of every part, counted through its blocks",
          "[refine][batch]") {
  refine_case of(7, 277);
  of.add_positions();
  const kvfit::query_part part = of.part();
  const kvfit::matrix others = kvfit_test::random_matrix(10, 8, 5);
  const kvfit::query_block block(others, 40);
  const kvfit::query_part second = kvfit::split_queries(block, {}, 0).fit;
  const auto scores = kvfit::score_pass(of.cache(), part.set(), of.rule);
  const auto second_scores = kvfit::score_pass(of.cache(), second.set(), of.rule);
  REQUIRE(scores);
  REQUIRE(second_scores);
  const std::vector<kvfit::scored_part> parts = {{&part, &*scores}, {&second, &*second_scores}};
  const kvfit::index_t first = GENERATE(kvfit::index_t{0}, kvfit::index_t{2});
  const auto batch =
      kvfit::make_batch(parts, {.first = first, .stride = 4}, of.cache(), of.rule, of.rows);
  std::vector<kvfit::index_t> taken;  // those of the second part from 277 on
  for (kvfit::index_t i = first; i < 277; i += 4) taken.push_back(i);
  for (kvfit::index_t i = first; i < 10; i += 4) taken.push_back(277 + i);
  REQUIRE(batch.queries.rows() == static_cast<kvfit::index_t>(taken.size()));
  REQUIRE(batch.log_mass.size() == batch.queries.rows());
  REQUIRE(batch.added_across.rows() == 6);

  kvfit::kv_block rest = of.cache();
  const kvfit::matrix nothing = kvfit::matrix::Zero(30, 8);
  rest.keys = nothing;
  const MatrixXd added = kvfit_test::make_logits(rest, part.set(), of.rule).logit;
  const MatrixXd added_second = kvfit_test::make_logits(rest, second.set(), of.rule).logit;
  const auto scale = 1 / std::sqrt(8.0);
  for (std::size_t k = 0; k < taken.size(); ++k) {
    const auto at = static_cast<kvfit::index_t>(k);
    const bool is_second = taken[k] >= 277;
    const kvfit::index_t i = is_second ? taken[k] - 277 : taken[k];
    const kvfit::matrix& from = is_second ? others : of.made.queries;
    const auto& of_part = is_second ? *second_scores : *scores;
    CHECK(oracle::distance(oracle::to_double(batch.queries.row(at)),
                           scale * oracle::to_double(from.row(i))) < 1e-5);
    CHECK(batch.log_mass[at] == of_part.log_mass[i]);
    const bool sees = of_part.log_mass[i] > -std::numeric_limits<float>::infinity();
    CHECK(batch.sees[at] == (sees ? 1.0F : 0.0F));
    for (kvfit::index_t l = 0; l < 6; ++l) {
      const kvfit::index_t row = of.rows[static_cast<std::size_t>(l)];
      const double expected = is_second ? added_second(i, row) : added(i, row);
      const auto found = static_cast<double>(batch.added_across(l, at));
      CHECK((found == expected || std::abs(found - expected) < 1e-5));
    }
    const MatrixXd whole = oracle::to_double(of_part.output.row(i));
    const double length = whole.norm();
    const double square = static_cast<double>(batch.inverse_length[at]) *
                          static_cast<double>(batch.inverse_length[at]);
    if (sees) CHECK(static_cast<double>(batch.inverse_length[at]) <= 1.00001 / length);
    CHECK(oracle::distance(oracle::to_double(batch.weighted_output.row(at)), square * whole) <=
          1e-5 * std::max(1.0, square * length));
  }
}

TEST_CASE("across lays panels out one after the other, each with its rows side by side",
          "[refine][batch][panel]") {
  const kvfit::matrix from = kvfit_test::random_matrix(500, 3, 1);
  kvfit::matrix to(from.rows(), from.cols());
  kvfit::refine_detail::across(from, to);
  REQUIRE(to.size() == from.size());
  bool is_right = true;
  for (kvfit::index_t i = 0; i < 500; ++i) {
    const kvfit::index_t first = i / 240 * 240;
    const kvfit::index_t count = std::min<kvfit::index_t>(240, 500 - first);
    for (kvfit::index_t k = 0; k < 3; ++k) {
      is_right = is_right && to.data()[first * 3 + k * count + i - first] == from(i, k);
    }
  }
  CHECK(is_right);
}
