// SPDX-License-Identifier: MIT
#include "kvfit/compact/compacted.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;

namespace {

std::vector<float> numbered(kvfit::index_t count, float first, float step) {
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (std::size_t j = 0; j < numbers.size(); ++j)
    numbers[j] = first + step * static_cast<float>(j);
  return numbers;
}

/// Two fits of the same problem whose inputs differ by rounding alone.
void check_nearly_same(const compacted& a, const compacted& b, double bias_bound,
                       double values_bound) {
  CHECK(a.positions == b.positions);
  if (a.positions != b.positions) return;
  const double bias = (a.bias - b.bias).cast<double>().cwiseAbs().maxCoeff();
  const double values = (a.values - b.values).norm() / a.values.norm();
  INFO("bias off by " << bias << " of " << bias_bound << ", values by a share of " << values
                      << " of " << values_bound);
  CHECK(bias <= bias_bound);
  CHECK(values <= values_bound);
}

/// Everything that may be judged is fitted on: results then depend on the set of queries alone.
compact_options without_holdout(kvfit::index_t budget) {
  return {.budget = budget, .queries = {.held_out = 0}};
}

}  // namespace

// ---- Identity

TEST_CASE("§9.27 a budget of T or more is the identity, byte for byte", "[compact][identity]") {
  const kvfit::index_t budget =
      GENERATE(kvfit::index_t{20}, kvfit::index_t{21}, std::numeric_limits<kvfit::index_t>::max());
  const bool is_biased = GENERATE(false, true);
  const head made = make_head(1, {.queries = 9, .keys = 20, .depth = 7, .width = 5});
  const std::vector<float> bias = numbered(20, -1.25F, 0.125F);
  kvfit::kv_block cache = made.cache();
  if (is_biased) cache.bias = bias;
  const compacted c = compacted_head(cache, made.queries, {.budget = budget});
  CHECK(c.positions == rows_up_to(20));
  CHECK(same_numbers(c.keys, made.keys));
  CHECK(same_numbers(c.values, made.values));
  const kvfit::vector expected =
      is_biased ? kvfit::vector(Eigen::Map<const kvfit::vector>(bias.data(), 20))
                : kvfit::vector(kvfit::vector::Zero(20));
  CHECK(same_numbers(c.bias, expected));
  CHECK(c.report.is_identity);
}

TEST_CASE("the identity is so for every preset, and leaves hidden rows out",
          "[compact][identity]") {
  const head made = make_head(2, {.queries = 9, .keys = 12});
  std::vector<float> bias(12, 0.0F);
  bias[0] = bias[5] = hidden_key;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    const compacted c = compacted_head(cache, made.queries, preset.make(12));
    CHECK(c.positions == std::vector<kvfit::index_t>{1, 2, 3, 4, 6, 7, 8, 9, 10, 11});
    CHECK(c.bias.isZero(0.0));
    check_sound(c, cache, 10);
  }
}

// ---- What every result promises

TEST_CASE("every preset and budget gives t ascending rows with their own keys",
          "[compact][positions]") {
  const head made = make_head(3);
  for (const auto& preset : kvfit::presets::all) {
    for (const kvfit::index_t budget : {1, 2, 13, 63}) {
      INFO(preset.name << ", budget " << budget);
      const compacted c = compacted_head(made.cache(), made.queries, preset.make(budget));
      check_sound(c, made.cache(), budget);
      CHECK_FALSE(c.report.is_identity);
    }
  }
}

TEST_CASE("§9.3 hidden rows are left out and fewer visible rows than the budget are all kept",
          "[compact][hidden]") {
  const head made = make_head(4, {.keys = 24});
  std::vector<float> bias = numbered(24, 0.3F, -0.02F);
  for (std::size_t j = 0; j < 24; j += 2) bias[j] = hidden_key;  // twelve stay visible
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  for (const auto& preset : kvfit::presets::all) {
    for (const kvfit::index_t budget : {5, 12, 20}) {
      INFO(preset.name << ", budget " << budget);
      const compacted c = compacted_head(cache, made.queries, preset.make(budget));
      check_sound(c, cache, std::min<kvfit::index_t>(budget, 12));
      CHECK(std::all_of(c.positions.begin(), c.positions.end(),
                        [](kvfit::index_t row) { return row % 2 == 1; }));
    }
  }
}

TEST_CASE("§9.9 §9.36 extreme ratios and sizes of one give finite results of the right size",
          "[compact][degenerate]") {
  struct shape {
    head_shape sizes;
    kvfit::index_t budget;
  };
  const auto [sizes, budget] = GENERATE(shape{{.queries = 40, .keys = 600}, 4},  // 150 ×
                                        shape{{.queries = 40, .keys = 512}, 1},  // 512 ×
                                        shape{{.queries = 1, .keys = 30}, 6},    // one query
                                        shape{{.queries = 2, .keys = 30}, 25},   // n < t
                                        shape{{.queries = 30, .keys = 2}, 1},    // two keys
                                        shape{{.queries = 30, .keys = 1}, 1},    // one key
                                        shape{{.keys = 30, .depth = 1, .width = 1}, 7},
                                        shape{{.keys = 30, .depth = 24, .width = 3}, 7},
                                        shape{{.keys = 30, .depth = 3, .width = 24}, 7});
  const head made = make_head(5, sizes);
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name << ", n " << sizes.queries << ", T " << sizes.keys << ", t " << budget);
    check_sound(compacted_head(made.cache(), made.queries, preset.make(budget)), made.cache(),
                budget);
  }
}

TEST_CASE("§9.9 zero queries, equal keys and equal values stay finite for every preset",
          "[compact][degenerate]") {
  head made = make_head(6, {.queries = 20, .keys = 30});
  const int kind = GENERATE(0, 1, 2, 3);
  if (kind == 0) made.queries.setZero();
  if (kind == 1) {
    for (kvfit::index_t j = 1; j < 30; ++j) made.keys.row(j) = made.keys.row(0);
  }
  if (kind == 2) made.keys.setZero();
  if (kind == 3) made.values.setZero();
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name << ", kind " << kind);
    const compacted c = compacted_head(made.cache(), made.queries, preset.make(8));
    check_sound(c, made.cache(), 8);
    if (kind == 3) CHECK(c.values.isZero(0.0));
  }
  if (kind == 3) return;
  // With a bias the mass comes back, however degenerate the head: all keys weigh alike.
  const compacted c = compacted_head(made.cache(), made.queries, without_holdout(8));
  const kvfit::fidelity errors = errors_of(made.queries, made.cache(), c.block());
  INFO("mass error " << errors.mass_error << ", output error " << errors.output_error);
  CHECK(errors.mass_error < 1e-4);
  CHECK(errors.output_error < 1e-3);
}

TEST_CASE("§9.4 logits that differ by hundreds, or are large alike, keep their mass",
          "[compact][degenerate]") {
  const head made = make_head(7);
  const float size = GENERATE(20.0F, 100.0F);
  INFO("logits " << size << " times as large");
  const compact_options options{
      .budget = 32, .rule = {.scale = size / 4}, .queries = {.held_out = 0}};
  const compacted c = compacted_head(made.cache(), made.queries, options);
  check_sound(c, made.cache(), 32);
  const kvfit::fidelity errors = errors_of(made.queries, made.cache(), c.block(), options.rule);
  INFO("mass error " << errors.mass_error << ", output error " << errors.output_error);
  CHECK(std::isfinite(errors.output_error_max));
  CHECK(c.report.train.mass_error == Approx(errors.mass_error).epsilon(1e-2).margin(1e-3));
}

// ---- Protected rows

TEST_CASE("protected rows stay exactly: key, value and bias, inside the budget",
          "[compact][protect]") {
  const head made = make_head(8);
  const std::vector<float> bias = numbered(64, -0.5F, 0.015625F);
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    compact_options options = preset.make(20);
    options.protect.first = 4;
    options.protect.last = 7;
    const compacted c = compacted_head(cache, made.queries, options);
    check_sound(c, cache, 20);
    for (kvfit::index_t j = 0; j < 20; ++j) {
      if (j >= 4 && j < 13) continue;
      const kvfit::index_t row = j < 4 ? j : 64 - 20 + j;
      CHECK(c.positions[static_cast<std::size_t>(j)] == row);
      CHECK(c.values.row(j) == made.values.row(row));
      CHECK(c.bias[j] == bias[static_cast<std::size_t>(row)]);
    }
  }
}

TEST_CASE("§9.17 the rows between are those of a compaction of the slice alone",
          "[compact][protect]") {
  const head made = make_head(9);
  const std::vector<float> bias = numbered(64, 0.25F, -0.0078125F);
  kvfit::matrix mask = random_matrix(96, 64, 5, 0.3F);
  mask(3, 20) = hidden_key;
  const std::vector<kvfit::row_view> masks = {mask};
  const std::vector<kvfit::row_view> middle_masks = {masks[0].middle_cols(6, 50)};
  // ALiBi, causal: positions of the slice count from where it stands.
  const kvfit::query_block queries(made.queries, 30, 0.01F);
  compact_options options{.budget = 30, .rule = {.causal = true, .window = 90}};

  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  cache.masks = masks;
  const kvfit::row_view keys = made.keys;
  const kvfit::row_view values = made.values;
  const kvfit::kv_block middle{.keys = keys.middle_rows(6, 50),
                               .values = values.middle_rows(6, 50),
                               .bias = std::span(bias).subspan(6, 50),
                               .first_position = 6,
                               .masks = middle_masks};
  options.budget = 16;
  const compacted slice = compacted_head(middle, queries, options);
  options.budget = 16 + 6 + 8;
  options.protect.first = 6;
  options.protect.last = 8;
  const compacted whole = compacted_head(cache, queries, options);
  REQUIRE(whole.positions.size() == 30);
  for (std::size_t j = 0; j < 16; ++j) CHECK(whole.positions[6 + j] == 6 + slice.positions[j]);
  CHECK(whole.bias.segment(6, 16) == slice.bias);
  CHECK(whole.values.middleRows(6, 16) == slice.values);
  CHECK(whole.report.train.output_error == slice.report.train.output_error);
}

TEST_CASE("§9.17 given rows are the caller's numbers beside protected rows too",
          "[compact][protect]") {
  const head made = make_head(11, {.keys = 20});
  const compacted c = compacted_head(made.cache(), made.queries,
                                     {.budget = 6,
                                      .selection = kvfit::selection::given{{12, 5}},
                                      .protect = {.first = 3, .last = 1}});
  check_sound(c, made.cache(), 6);
  CHECK(c.positions == std::vector<kvfit::index_t>{0, 1, 2, 5, 12, 19});
}

// ---- What must not matter

TEST_CASE("the order of queries, and saying each twice, changes nothing", "[compact][invariance]") {
  const std::uint64_t seed = GENERATE(1, 2, 3, 4);
  const head made = make_head(seed);
  kvfit::matrix shuffled(96, made.queries.cols());
  for (kvfit::index_t i = 0; i < 96; ++i) shuffled.row(i) = made.queries.row((i * 37 + 5) % 96);
  kvfit::matrix doubled(192, made.queries.cols());
  doubled << made.queries, shuffled;

  const compacted plain = compacted_head(made.cache(), made.queries, without_holdout(14));
  // The sums are the same up to their order: 2⁻²⁴ √96 a column, times condition numbers of
  // hundreds.
  check_nearly_same(plain, compacted_head(made.cache(), shuffled, without_holdout(14)), 1e-3, 1e-3);
  check_nearly_same(plain, compacted_head(made.cache(), doubled, without_holdout(14)), 1e-3, 1e-3);
}

TEST_CASE("a constant added to all logits of a query changes nothing", "[compact][invariance]") {
  const std::uint64_t seed = GENERATE(1, 2, 3, 4);
  const head made = make_head(seed);
  kvfit::matrix mask(96, 64);
  for (kvfit::index_t i = 0; i < 96; ++i) {
    mask.row(i).setConstant(static_cast<float>(i % 7) * 4 - 12);  // whole numbers, −12 to 12
  }
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  // Logits of up to 40 lose 2⁻²⁰ each by the sum; condition numbers of hundreds magnify it.
  check_nearly_same(compacted_head(made.cache(), made.queries, without_holdout(14)),
                    compacted_head(cache, made.queries, without_holdout(14)), 2e-3, 2e-3);
}

TEST_CASE("§9.6 queries that come scaled, with the scale to match, change nothing",
          "[compact][invariance]") {
  const head made = make_head(2);
  const kvfit::matrix quadrupled = 4 * made.queries;
  compact_options options{.budget = 14, .rule = {.scale = 0.25F}};
  const compacted plain = compacted_head(made.cache(), made.queries, options);
  CHECK(same_result(plain, compacted_head(made.cache(), made.queries, {.budget = 14})));  // 1/√16
  options.rule.scale = 0.0625F;
  CHECK(same_result(plain, compacted_head(made.cache(), quadrupled, options)));
  options.rule.scale = 0.25F;  // another softmax temperature is another problem
  CHECK_FALSE(same_result(plain, compacted_head(made.cache(), quadrupled, options)));
}

TEST_CASE("§9.16 several query heads are fitted as their rows together", "[compact][gqa]") {
  const head made = make_head(3);
  const kvfit::row_view all = made.queries;
  const std::vector<kvfit::query_block> heads = {all.middle_rows(0, 20), all.middle_rows(20, 50),
                                                 all.middle_rows(70, 26)};
  const compacted joint = compacted_head(made.cache(), made.queries, without_holdout(14));
  const compacted grouped =
      compacted_head(made.cache(), std::span<const kvfit::query_block>(heads), without_holdout(14));
  check_nearly_same(joint, grouped, 1e-4, 1e-4);
}

TEST_CASE("§9.28 the same call gives the same bytes", "[compact][determinism]") {
  const head made = make_head(4);
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    CHECK(same_result(compacted_head(made.cache(), made.queries, preset.make(17)),
                      compacted_head(made.cache(), made.queries, preset.make(17))));
  }
}

TEST_CASE(
    "§9.5 §9.32 a compacted block stands where its rows stood, under rules that look at places",
    "[compact][positions]") {
  const head made = make_head(8, {.queries = 40, .keys = 90});
  std::vector<kvfit::index_t> places(90);
  for (std::size_t j = 0; j < places.size(); ++j) places[j] = 700 + 3 * static_cast<int>(j);
  const bool is_given = GENERATE(false, true);
  kvfit::kv_block cache = made.cache();
  cache.first_position = 1000;
  if (is_given) cache.positions = places;
  const kvfit::query_block queries(made.queries, 1080, 0.1F);  // ALiBi, and some keys too late
  const kvfit::logit_rule rule = GENERATE(kvfit::logit_rule{}, kvfit::logit_rule{.causal = true},
                                          kvfit::logit_rule{.causal = true, .window = 150});
  for (const kvfit::index_t budget : {90, 30}) {
    compact_options options = without_holdout(budget);
    options.rule = rule;
    const compacted once = compacted_head(cache, queries, options);
    for (std::size_t j = 0; j < once.positions.size(); ++j) {
      CHECK(once.key_positions[j] == cache.position(once.positions[j]));
    }
    const kvfit::fidelity after = errors_of(queries, cache, once.block(), rule);
    INFO("budget " << budget << ", mass error " << after.mass_error);
    if (budget == 90) {
      CHECK(after.mass_error < 1e-5);
      CHECK(after.output_error < 1e-5);
    } else {
      CHECK(after.mass_error == Approx(once.report.train.mass_error).epsilon(1e-3).margin(1e-5));
    }
    // And again, whole: nothing moves.
    options.budget = 90;
    const compacted twice = compacted_head(once.block(), queries, options);
    CHECK(twice.key_positions == once.key_positions);
    CHECK(errors_of(queries, once.block(), twice.block(), rule).mass_error < 1e-5);
  }
}

TEST_CASE("where no query looks between the protected rows, these are what is kept",
          "[compact][protect][hidden]") {
  const head made = make_head(9, {.queries = 20, .keys = 200});
  const kvfit::query_block queries(made.queries, 200);
  compact_options options{.budget = 80};
  options.rule = {.causal = true, .window = 64};
  options.protect.last = 64;
  const compacted fitted = compacted_head(made.cache(), queries, options);
  REQUIRE(fitted.positions.size() == 64);
  CHECK(fitted.positions.front() == 136);
  CHECK(fitted.report.masked_queries == 20);
  CHECK(errors_of(queries, made.cache(), fitted.block(), options.rule).output_error < 1e-5);
  options.protect.last = 0;  // without them there is nothing to fall back on, but rows to fit
  options.budget = 30;
  CHECK(try_compact(made.cache(), queries, options));
}

TEST_CASE("where only queries held out see any key, all are fitted on", "[compact][hidden]") {
  const head made = make_head(10, {.queries = 32, .keys = 40});
  kvfit::matrix mask = kvfit::matrix::Constant(32, 40, hidden_key);
  mask.row(15).setZero();  // every 16th is held out
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  const compacted fitted = compacted_head(cache, made.queries, {.budget = 10});
  CHECK(fitted.report.masked_queries == 31);
  CHECK_FALSE(fitted.report.held_out.has_value());
}

TEST_CASE("§9.31 calls at the same time give the bytes of calls one by one",
          "[compact][determinism]") {
  const head made = make_head(4);
  constexpr auto calls = static_cast<kvfit::index_t>(kvfit::presets::all.size());
  const auto options_of = [](kvfit::index_t i) {
    return kvfit::presets::all[static_cast<std::size_t>(i) % kvfit::presets::all.size()].make(9 +
                                                                                              i);
  };
  std::vector<compacted> together(calls);
  kvfit::thread_pool pool(4);
  pool.run(calls, [&](kvfit::index_t i) noexcept {
    auto fitted = try_compact(made.cache(), made.queries, options_of(i));
    if (fitted) together[static_cast<std::size_t>(i)] = std::move(*fitted);
  });
  for (kvfit::index_t i = 0; i < calls; ++i) {
    INFO(i);
    CHECK(same_result(together[static_cast<std::size_t>(i)],
                      compacted_head(made.cache(), made.queries, options_of(i))));
  }
}

TEST_CASE("fp16 rows interleaved in strided memory give what fp32 copies give",
          "[compact][memory]") {
  const head made = make_head(5, {.depth = 16, .width = 12});
  // Token by token: key, value, padding; column-major queries.
  constexpr kvfit::index_t stride = 16 + 12 + 5;
  std::vector<kvfit::fp16> tokens(64 * stride, kvfit::to_fp16(-777));
  std::vector<kvfit::fp16> queries(96 * 16);
  head copy = made;
  for (kvfit::index_t j = 0; j < 64; ++j) {
    for (kvfit::index_t k = 0; k < 28; ++k) {
      const float x = k < 16 ? made.keys(j, k) : made.values(j, k - 16);
      const kvfit::fp16 stored = kvfit::to_fp16(x);
      tokens[static_cast<std::size_t>(j * stride + k)] = stored;
      (k < 16 ? copy.keys(j, k) : copy.values(j, k - 16)) = kvfit::to_float(stored);
    }
  }
  for (kvfit::index_t i = 0; i < 96; ++i) {
    for (kvfit::index_t k = 0; k < 16; ++k) {
      const kvfit::fp16 stored = kvfit::to_fp16(made.queries(i, k));
      queries[static_cast<std::size_t>(k * 96 + i)] = stored;
      copy.queries(i, k) = kvfit::to_float(stored);
    }
  }
  const kvfit::kv_block strided{.keys = kvfit::row_view(tokens.data(), 64, 16, stride),
                                .values = kvfit::row_view(tokens.data() + 16, 64, 12, stride)};
  const kvfit::row_view strided_queries(queries.data(), 96, 16, 1, 96);
  for (const auto& preset : kvfit::presets::all) {
    INFO(preset.name);
    CHECK(same_result(compacted_head(strided, strided_queries, preset.make(15)),
                      compacted_head(copy.cache(), copy.queries, preset.make(15))));
  }
}

// ---- The method

TEST_CASE("the whole method follows the double-precision oracle", "[compact][oracle]") {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const head made = make_head(seed);
    compact_options options = without_holdout(12);
    options.selection = kvfit::selection::omp{};
    options.values = kvfit::values::least_squares{.cross_validate_below = 0,
                                                  .weighting = kvfit::output_weighting::absolute};
    options.replace_dead_keys = false;
    options.keep_better_values = false;
    const auto equation =
        make_mass_equation(made.cache(), made.queries, {}, kvfit::mass_weighting::relative);
    const oracle_selection chosen = omp_in_double(equation, {}, 12, rows_up_to(64));
    INFO("seed " << seed << ", margin " << chosen.margin);
    if (chosen.margin < 1e-5) continue;
    ++compared;
    const oracle_compacted expected =
        compact_in_double(made.cache(), made.queries, {}, chosen.positions, std::exp(-1.0));
    const compacted c = compacted_head(made.cache(), made.queries, options);
    REQUIRE(c.positions == expected.positions);
    const double bias = oracle::largest_difference(c.bias.cast<double>(), expected.bias);
    const double values = oracle::relative_error(oracle::to_double(c.values), expected.values);
    INFO("bias off by " << bias << ", values by a share of " << values);
    // fp32 columns are off by 3e-5 at worst, condition numbers are some tens.
    CHECK(bias < 2e-3);
    CHECK(values < 2e-3);
  }
  INFO(compared << " of 6 heads were clear enough to compare");
  CHECK(compared >= 3);
}

TEST_CASE("§9.32 compacting twice carries the bias: as good as compacting once",
          "[compact][recompaction]") {
  double once_error = 0;
  double twice_error = 0;
  double forgetful_error = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const head made = make_head(seed);
    const compacted first = compacted_head(made.cache(), made.queries, without_holdout(32));
    const compacted twice = compacted_head(first.block(), made.queries, without_holdout(16));
    const compacted once = compacted_head(made.cache(), made.queries, without_holdout(16));
    kvfit::kv_block unbiased = first.block();
    unbiased.bias = {};
    const compacted forgetful = compacted_head(unbiased, made.queries, without_holdout(16));
    const auto mass_error = [&](const compacted& c) {
      kvfit::kv_block block = c.block();
      block.positions = {};
      return errors_of(made.queries, made.cache(), block).mass_error;
    };
    INFO("seed " << seed << ": once " << mass_error(once) << ", twice " << mass_error(twice)
                 << ", without the bias " << mass_error(forgetful));
    CHECK(mass_error(twice) < 1.5 * mass_error(once) + 0.01);
    once_error += mass_error(once) / 5;
    twice_error += mass_error(twice) / 5;
    forgetful_error += mass_error(forgetful) / 5;
  }
  INFO("mean mass error: once " << once_error << ", twice " << twice_error
                                << ", with the bias forgotten " << forgetful_error);
  CHECK(forgetful_error > 3 * twice_error);  // the published trap
}

TEST_CASE("§9.32 dropping one row of a biased cache costs next to no mass",
          "[compact][recompaction]") {
  const head made = make_head(6, {.queries = 40});
  std::vector<float> bias = numbered(64, 0.0F, 0.0F);
  kvfit::random_source random(1);
  for (float& b : bias) b = static_cast<float>(3 * random.uniform());
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  const compacted c = compacted_head(cache, made.queries, without_holdout(63));
  const double error = errors_of(made.queries, cache, c.block()).mass_error;
  compacted trap = c;  // as published: ln w alone
  for (kvfit::index_t j = 0; j < 63; ++j) {
    trap.bias[j] -= bias[static_cast<std::size_t>(c.positions[static_cast<std::size_t>(j)])];
  }
  const double trap_error = errors_of(made.queries, cache, trap.block()).mass_error;
  INFO("mass error " << error << ", without the rows' own bias " << trap_error);
  CHECK(error < 1e-3);
  CHECK(trap_error > 0.5);
}

TEST_CASE(
    "§9.5 a compact prefix beside a live suffix is nearly full attention, because of its bias",
    "[compact][concatenation]") {
  double with_bias = 0;
  double without_bias = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const head made = make_head(seed);
    const head live = make_head(seed + 100, {.keys = 10});
    const compacted c = compacted_head(made.cache(), made.queries, {.budget = 20});
    kvfit::kv_block prefix = c.block();
    prefix.positions = {};
    const std::vector<kvfit::kv_block> full = {made.cache(), live.cache()};
    const std::vector<kvfit::kv_block> compact = {prefix, live.cache()};
    const double error = errors_of(made.test_queries, full, compact).output_error;
    prefix.bias = {};
    const std::vector<kvfit::kv_block> unbiased = {prefix, live.cache()};
    const double error_unbiased = errors_of(made.test_queries, full, unbiased).output_error;
    INFO("seed " << seed << ": output error " << error << ", without bias " << error_unbiased);
    with_bias += error / 5;
    without_bias += error_unbiased / 5;
  }
  INFO("mean output error " << with_bias << ", without bias " << without_bias);
  CHECK(with_bias < 0.15);
  CHECK(without_bias > 2 * with_bias);
}

TEST_CASE("more budget does not hurt", "[compact]") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const head made = make_head(seed);
    double previous = std::numeric_limits<double>::infinity();
    for (const kvfit::index_t budget : {4, 8, 16, 32, 48}) {
      const compacted c = compacted_head(made.cache(), made.queries, without_holdout(budget));
      const double error = c.report.train.output_error;
      INFO("seed " << seed << ", budget " << budget << ": " << error << " after " << previous);
      CHECK(error < 1.05 * previous);
      previous = error;
    }
    CHECK(previous < 0.05);
  }
}

// ---- Stages

TEST_CASE("§9.29 leaving a stage out changes that stage and what follows, nothing before",
          "[compact][stages]") {
  const head made = make_head(7);
  compact_options options{.budget = 14,
                          .refine = {.steps = 0},
                          .replace_dead_keys = false,
                          .keep_better_values = false};
  const compacted all = compacted_head(made.cache(), made.queries, options);
  compact_options no_values = options;
  no_values.values = kvfit::values::copy{};
  const compacted copied = compacted_head(made.cache(), made.queries, no_values);
  CHECK(copied.positions == all.positions);
  CHECK(same_numbers(copied.bias, all.bias));
  CHECK_FALSE(same_numbers(copied.values, all.values));
  for (kvfit::index_t j = 0; j < 14; ++j) {
    CHECK(copied.values.row(j) == made.values.row(copied.positions[static_cast<std::size_t>(j)]));
  }
  CHECK_FALSE(copied.report.is_values_fitted);

  compact_options no_bias = options;
  no_bias.bias = kvfit::bias::zero{};
  const compacted unbiased = compacted_head(made.cache(), made.queries, no_bias);
  CHECK(unbiased.positions == all.positions);
  CHECK(unbiased.bias.isZero(0.0));
  CHECK_FALSE(unbiased.report.is_bias_fitted);
  CHECK(unbiased.report.is_values_fitted);
}

TEST_CASE("given rows are kept even where their weights end on the floor", "[compact][stages]") {
  const head made = make_head(8);
  compact_options options{.budget = 5, .selection = kvfit::selection::given{{40, 2, 63, 17, 8}}};
  options.bias = kvfit::bias::nnls{.lower = 1e6};  // all of them
  const compacted c = compacted_head(made.cache(), made.queries, options);
  CHECK(c.positions == std::vector<kvfit::index_t>{2, 8, 17, 40, 63});
  CHECK(c.report.dead_keys == 5);
  CHECK(c.report.dead_keys_replaced == 0);
}

TEST_CASE("weights of the selection stay with their rows", "[compact][stages]") {
  const head made = make_head(9);
  compact_options options{
      .budget = 12, .selection = kvfit::selection::omp{}, .queries = {.held_out = 0}};
  options.bias = kvfit::bias::from_selection{};
  const compacted c = compacted_head(made.cache(), made.queries, options);
  const auto equation =
      make_mass_equation(made.cache(), made.queries, {}, kvfit::mass_weighting::relative);
  const Eigen::VectorXd w = c.bias.cast<double>().array().exp();
  const Eigen::MatrixXd columns = equation.columns_of(c.positions);
  const Eigen::VectorXd best =
      clipped(least_squares_weights(columns, equation.target), 1e-12, infinity);
  INFO("weights " << w.transpose() << "\nexpected " << best.transpose());
  CHECK((w - best).cwiseAbs().maxCoeff() < 2e-3 * best.maxCoeff());
}
