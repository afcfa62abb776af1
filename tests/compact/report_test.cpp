// SPDX-License-Identifier: MIT
#include "kvfit/compact/report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;

namespace {

/// Every eighth query judges, the others are fitted on: what held_out = 0.125 documents.
struct parts {
  explicit parts(const kvfit::matrix& queries, kvfit::index_t stride = 8) {
    const kvfit::index_t judged = queries.rows() / stride;
    fit.resize(queries.rows() - judged, queries.cols());
    judge.resize(judged, queries.cols());
    kvfit::index_t fitted_on = 0;
    kvfit::index_t held_out = 0;
    for (kvfit::index_t i = 0; i < queries.rows(); ++i) {
      if (i % stride == stride - 1) {
        judge.row(held_out++) = queries.row(i);
      } else {
        fit.row(fitted_on++) = queries.row(i);
      }
    }
  }
  kvfit::matrix fit;
  kvfit::matrix judge;
};

void check_same(const kvfit::fidelity& reported, const kvfit::fidelity& measured) {
  // Both in fp32 from the same result: outputs agree to 1e-5, log-masses of up to 40 to 4e-6.
  CHECK(reported.queries == measured.queries);
  CHECK(reported.output_error == Approx(measured.output_error).margin(1e-5));
  CHECK(reported.output_error_max == Approx(measured.output_error_max).margin(1e-4));
  CHECK(reported.mass_error == Approx(measured.mass_error).margin(1e-5));
  CHECK(reported.mass_error_max == Approx(measured.mass_error_max).margin(1e-4));
  CHECK(reported.cosine == Approx(measured.cosine).margin(1e-5));
  CHECK(reported.cosine_min == Approx(measured.cosine_min).margin(1e-4));
}

}  // namespace

TEST_CASE("§9.18 the report's errors are those of the result, measured through attention",
          "[compact][report]") {
  const std::uint64_t seed = GENERATE(1, 2);
  const auto storage = GENERATE(kvfit::dtype::fp32, kvfit::dtype::fp16, kvfit::dtype::bf16);
  const head made = make_head(seed);
  const parts split(made.queries);
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name << ", seed " << seed << ", storage " << name(storage));
    compact_options options = preset.make(15);
    options.storage.rows = options.storage.bias = storage;
    options.queries.held_out = 0.125;
    const compacted c = compacted_head(made.cache(), made.queries, options);
    check_same(c.report.train, errors_of(split.fit, made.cache(), c.block()));
    REQUIRE(c.report.held_out);
    check_same(*c.report.held_out, errors_of(split.judge, made.cache(), c.block()));
  }
}

TEST_CASE("§9.5 the reported mass residual is that of the bias that attention executes",
          "[compact][report]") {
  const head made = make_head(3);
  const compacted c =
      compacted_head(made.cache(), made.queries,
                     {.budget = 15, .refine = {.steps = 0}, .queries = {.held_out = 0}});
  CHECK_FALSE(c.report.held_out);
  const kvfit::kv_block compact = c.block();
  const auto full = attend_in_double(made.queries, made.cache());
  const auto found = attend_in_double(made.queries, compact);
  const double residual =
      std::sqrt(((found.log_mass - full.log_mass).array().exp() - 1).square().sum() / 96);
  INFO("reported " << c.report.mass_residual << ", measured " << residual);
  CHECK(c.report.mass_residual == Approx(residual).epsilon(1e-3));
  CHECK(c.report.bias.status == kvfit::linalg::bounded_status::optimal);
  // The fit's objective is ½ Σ (ŷ/y − 1)².
  CHECK(c.report.bias.objective == Approx(0.5 * 96 * residual * residual).epsilon(1e-3));
}

TEST_CASE("protected rows do not enter the report", "[compact][report][protect]") {
  const head made = make_head(4);
  compact_options options{
      .budget = 20, .protect = {.first = 5, .last = 3}, .queries = {.held_out = 0.125}};
  const compacted c = compacted_head(made.cache(), made.queries, options);
  const parts split(made.queries);
  const kvfit::row_view keys = made.keys;
  const kvfit::row_view values = made.values;
  const kvfit::row_view compact_keys = c.keys;
  const kvfit::row_view compact_values = c.values;
  const kvfit::kv_block open{.keys = keys.middle_rows(5, 56), .values = values.middle_rows(5, 56)};
  const kvfit::kv_block fitted{.keys = compact_keys.middle_rows(5, 12),
                               .values = compact_values.middle_rows(5, 12),
                               .bias = {c.bias.data() + 5, 12}};
  check_same(c.report.train, errors_of(split.fit, open, fitted));
  check_same(*c.report.held_out, errors_of(split.judge, open, fitted));
}

TEST_CASE("too few queries to hold any out: none are", "[compact][report]") {
  const head made = make_head(5, {.queries = 7});
  const compacted c = compacted_head(made.cache(), made.queries, {.budget = 12});
  CHECK_FALSE(c.report.held_out);
  CHECK(c.report.train.queries == 7);
}

TEST_CASE("§9.18 where copied values judge better they are returned, and reported so",
          "[compact][report][judge]") {
  // Six queries fitted on look at row 2, which is dropped and has a value like no other, and a
  // little at row 0: its value must bend to make up. The judges look at rows 0 and 1 alone, kept as
  // they are.
  head made = make_head(6, {.queries = 12, .keys = 3, .depth = 3, .width = 4});
  made.keys = 4 * kvfit::matrix::Identity(3, 3);
  made.values.row(2).setConstant(100);
  for (kvfit::index_t i = 0; i < 12; ++i) {
    const bool judges = i % 2 == 1;  // held_out = 0.5
    made.queries.row(i) << 4, (i % 4 == 1 ? 8.0F : 0.0F), (judges ? -8.0F : 5.0F);
  }
  compact_options options{
      .budget = 2, .selection = kvfit::selection::given{{0, 1}}, .queries = {.held_out = 0.5}};
  const compacted c = compacted_head(made.cache(), made.queries, options);
  CHECK(c.report.copies_judged_better);
  CHECK_FALSE(c.report.is_values_fitted);
  CHECK(c.values == made.values.topRows(2));
  const parts split(made.queries, 2);
  check_same(*c.report.held_out, errors_of(split.judge, made.cache(), c.block()));
  check_same(c.report.train, errors_of(split.fit, made.cache(), c.block()));

  options.keep_better_values = false;
  const compacted fitted = compacted_head(made.cache(), made.queries, options);
  CHECK_FALSE(fitted.report.copies_judged_better);
  CHECK(fitted.report.is_values_fitted);
  INFO("held-out output error: copies " << c.report.held_out->output_error << ", fitted "
                                        << fitted.report.held_out->output_error);
  CHECK(c.report.held_out->output_error < 0.5 * fitted.report.held_out->output_error);
  check_same(*fitted.report.held_out, errors_of(split.judge, made.cache(), fitted.block()));

  options.keep_better_values = true;
  options.values = kvfit::values::copy{};  // asked for: nothing was judged
  CHECK_FALSE(compacted_head(made.cache(), made.queries, options).report.copies_judged_better);
}

TEST_CASE("fitted values that judge better stay", "[compact][report][judge]") {
  const head made = make_head(7);
  const compacted c =
      compacted_head(made.cache(), made.queries, {.budget = 12, .queries = {.held_out = 0.125}});
  CHECK(c.report.is_values_fitted);
  CHECK_FALSE(c.report.copies_judged_better);
  compacted copied = c;
  for (kvfit::index_t j = 0; j < 12; ++j) {
    copied.values.row(j) = made.values.row(c.positions[static_cast<std::size_t>(j)]);
  }
  const parts split(made.queries);
  CHECK(c.report.held_out->output_error <
        errors_of(split.judge, made.cache(), copied.block()).output_error);
}

TEST_CASE("keys that end on their floor are replaced, counted, and the mass error falls",
          "[compact][report][dead_keys]") {
  int replaced_heads = 0;
  double before = 0;
  double after = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const head made = make_head(seed);
    compact_options options{.budget = 12,
                            .selection = kvfit::selection::highest_attention{},
                            .queries = {.held_out = 0},
                            .replace_dead_keys = false};
    const double lower = std::exp(-1.0);
    const compacted kept = compacted_head(made.cache(), made.queries, options);
    const auto on_floor = [&](const compacted& c) {
      return (c.bias.array() == static_cast<float>(std::log(lower))).count();
    };
    CHECK(kept.report.dead_keys == on_floor(kept));
    CHECK(kept.report.dead_keys_replaced == 0);

    options.replace_dead_keys = true;
    const compacted replaced = compacted_head(made.cache(), made.queries, options);
    check_sound(replaced, made.cache(), 12);
    CHECK(replaced.report.dead_keys == on_floor(replaced));
    INFO("seed " << seed << ": " << kept.report.dead_keys << " dead, "
                 << replaced.report.dead_keys_replaced << " replaced, " << replaced.report.dead_keys
                 << " left; mass residual " << kept.report.mass_residual << " to "
                 << replaced.report.mass_residual);
    if (kept.report.dead_keys == 0) {
      CHECK(same_result(kept, replaced));
      continue;
    }
    CHECK(replaced.report.dead_keys_replaced >= kept.report.dead_keys);
    CHECK(replaced.report.mass_residual < kept.report.mass_residual);
    ++replaced_heads;
    before += kept.report.mass_residual;
    after += replaced.report.mass_residual;
  }
  INFO(replaced_heads << " of 8 heads had dead keys: " << before << " to " << after);
  REQUIRE(replaced_heads >= 2);
  CHECK(after < 0.9 * before);
}

TEST_CASE("results are rounded to their storage types, and values fitted with the bias as stored",
          "[compact][storage]") {
  const auto storage = GENERATE(kvfit::dtype::fp16, kvfit::dtype::bf16);
  const head made = make_head(8);
  compact_options options{.budget = 15,
                          .refine = {.steps = 0},
                          .queries = {.held_out = 0},
                          .keep_better_values = false};
  options.values = kvfit::values::least_squares{.cross_validate_below = 0,
                                                .weighting = kvfit::output_weighting::absolute};
  options.storage.rows = options.storage.bias = storage;
  const compacted c = compacted_head(made.cache(), made.queries, options);
  const auto stored = [&](float x) {
    return storage == kvfit::dtype::fp16 ? kvfit::to_float(kvfit::to_fp16(x))
                                         : kvfit::to_float(kvfit::to_bf16(x));
  };
  for (kvfit::index_t j = 0; j < 15; ++j) {
    const kvfit::index_t row = c.positions[static_cast<std::size_t>(j)];
    CHECK(c.bias[j] == stored(c.bias[j]));
    for (kvfit::index_t k = 0; k < c.keys.cols(); ++k) {
      CHECK(c.keys(j, k) == stored(made.keys(row, k)));
    }
    for (kvfit::index_t k = 0; k < c.values.cols(); ++k) {
      CHECK(c.values(j, k) == stored(c.values(j, k)));
    }
  }

  // Values alone in fp32, to tell whose softmax they were fitted under.
  options.storage.rows = kvfit::dtype::fp32;
  const compacted fitted = compacted_head(made.cache(), made.queries, options);
  options.storage.bias = kvfit::dtype::fp32;
  const compacted exact = compacted_head(made.cache(), made.queries, options);
  REQUIRE(fitted.positions == exact.positions);
  const auto values_under = [&](const kvfit::vector& bias) {
    const Eigen::MatrixXd all = make_logits(made.cache(), made.queries, {}).logit;
    Eigen::MatrixXd logits(96, 15);
    Eigen::MatrixXd own(15, made.values.cols());
    for (kvfit::index_t j = 0; j < 15; ++j) {
      const kvfit::index_t row = fitted.positions[static_cast<std::size_t>(j)];
      logits.col(j) = all.col(row).array() + static_cast<double>(bias[j]);
      own.row(j) = made.values.row(row).cast<double>();
    }
    const Eigen::MatrixXd output = oracle::product(softmax(all), oracle::to_double(made.values));
    return fitted_values(softmax(logits), output, own);
  };
  const Eigen::MatrixXd found = oracle::to_double(fitted.values);
  const double as_stored = oracle::relative_error(values_under(fitted.bias), found);
  const double as_fitted = oracle::relative_error(values_under(exact.bias), found);
  INFO("values off by " << as_stored << " from those under the stored bias, by " << as_fitted
                        << " from those under the exact one");
  CHECK(as_stored < 1e-4);
  CHECK(as_fitted > 3 * as_stored);
}

TEST_CASE("queries that see nothing are counted and left out", "[compact][report][hidden]") {
  const head made = make_head(9, {.queries = 40});
  kvfit::matrix mask = kvfit::matrix::Zero(40, 64);
  mask.row(3).setConstant(hidden_key);
  mask.row(20).setConstant(hidden_key);
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  const compact_options options{.budget = 12, .refine = {.steps = 0}, .queries = {.held_out = 0}};
  const compacted c = compacted_head(cache, made.queries, options);
  CHECK(c.report.masked_queries == 2);
  CHECK(c.report.train.queries == 38);
  CHECK(std::isfinite(c.report.mass_residual));

  kvfit::matrix others(38, made.queries.cols());
  for (kvfit::index_t i = 0, to = 0; i < 40; ++i) {
    if (i != 3 && i != 20) others.row(to++) = made.queries.row(i);
  }
  const compacted without = compacted_head(made.cache(), others, options);
  CHECK(c.positions == without.positions);
  CHECK((c.bias - without.bias).cwiseAbs().maxCoeff() < 1e-3F);
  CHECK((c.values - without.values).norm() < 1e-3F * c.values.norm());
}

TEST_CASE("§9.9 numerical trouble is a status beside the best answer", "[compact][report]") {
  using kvfit::linalg::least_squares_status;
  const head few = make_head(10, {.queries = 6});
  compact_options options{.budget = 20, .queries = {.held_out = 0}};
  options.values = kvfit::values::least_squares{.cross_validate_below = 0};
  const compacted c = compacted_head(few.cache(), few.queries, options);
  CHECK(c.report.values.status == least_squares_status::rank_deficient);
  CHECK(c.report.values.rank == 6);
  CHECK(c.report.bias.rank_deficient);
  CHECK(c.report.selection.filled > 0);

  const head enough = make_head(10);
  const compacted sound = compacted_head(enough.cache(), enough.queries, {.budget = 10});
  CHECK(sound.report.values.status == least_squares_status::solved);
  CHECK(sound.report.values.rank == 10);
  CHECK_FALSE(sound.report.bias.rank_deficient);
}

TEST_CASE("§9.26 a small memory cap is reported, and gives the same rows", "[compact][report]") {
  const head made = make_head(11);
  compact_options options{.budget = 12};
  const compacted stored = compacted_head(made.cache(), made.queries, options);
  options.memory.selection = 0;
  const compacted recomputed = compacted_head(made.cache(), made.queries, options);
  CHECK_FALSE(stored.report.selection.recomputed);
  CHECK(recomputed.report.selection.recomputed);
  CHECK(stored.positions == recomputed.positions);
  CHECK((stored.bias - recomputed.bias).cwiseAbs().maxCoeff() < 1e-3F);
}

TEST_CASE("seconds are of every stage and add up", "[compact][report]") {
  const head made = make_head(12);
  const kvfit::stage_seconds s =
      compacted_head(made.cache(), made.queries, {.budget = 20}).report.seconds;
  const double stages[] = {s.check, s.score, s.select, s.bias, s.values, s.judge};
  double sum = 0;
  for (const double seconds : stages) {
    CHECK(seconds > 0);
    sum += seconds;
  }
  INFO("stages " << sum << " s, total " << s.total << " s");
  CHECK(s.total >= sum);
}
