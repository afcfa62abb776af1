// SPDX-License-Identifier: MIT
// Each case fails where the guard it is named after is taken away (docs/requirements.md, Guards).
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/zero.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/move_keys.hpp"
#include "kvfit/compact/stages.hpp"
#include "kvfit/refine/gradient_descent.hpp"
#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/values/copy.hpp"
#include "kvfit/values/least_squares.hpp"
#include "support/catch.hpp"

/// Policies whose every call is written out by a test.
namespace scripted {

struct selection {
  std::function<kvfit::result<kvfit::selected_rows>(const kvfit::selection_problem&)> choose;
};

kvfit::score_options wanted_scores(const selection&) {
  return {.importance = kvfit::importance_kind::none};
}
kvfit::result<kvfit::selected_rows> select(const selection& policy,
                                           const kvfit::selection_problem& problem) {
  return policy.choose(problem);
}
bool may_replace(const selection&) {
  return true;
}

struct bias {
  std::function<kvfit::result<kvfit::bias_fit>(const kvfit::bias_problem&)> fit;
};

kvfit::result<kvfit::bias_fit> fit_bias(const bias& policy, const kvfit::bias_problem& problem) {
  return policy.fit(problem);
}

struct values {
  std::function<kvfit::result<kvfit::values_fit>(const kvfit::values_problem&)> fit;
};

kvfit::result<kvfit::values_fit> fit_values(const values& policy,
                                            const kvfit::values_problem& problem) {
  return policy.fit(problem);
}

/// Options with these policies.
struct composition : private kvfit::compact_options {
  using kvfit::compact_options::budget;
  using kvfit::compact_options::gradient;
  using kvfit::compact_options::keep_better_values;
  using kvfit::compact_options::memory;
  using kvfit::compact_options::protect;
  using kvfit::compact_options::queries;
  using kvfit::compact_options::refine;
  using kvfit::compact_options::replace_dead_keys;
  using kvfit::compact_options::rule;
  using kvfit::compact_options::storage;

  scripted::selection selection;
  scripted::bias bias;
  scripted::values values;

  [[nodiscard]] kvfit::compact_options all() const {
    kvfit::compact_options out = *this;
    out.selection = selection;
    out.bias = bias;
    out.values = values;
    return out;
  }
};

}  // namespace scripted

using namespace kvfit_test;
using kvfit::compacted;
using kvfit::errc;
using scripted::composition;

namespace {

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

kvfit::result<kvfit::values_fit> honest_values(const kvfit::values_problem& problem) {
  return fit_values(kvfit::values::least_squares{}, problem);
}
kvfit::result<kvfit::bias_fit> honest_bias(const kvfit::bias_problem& problem) {
  return fit_bias(kvfit::bias::nnls{}, problem);
}
kvfit::result<kvfit::bias_fit> no_bias(const kvfit::bias_problem& problem) {
  return fit_bias(kvfit::bias::zero{}, problem);
}

/// Exactly these rows.
auto rows(std::vector<index_t> positions) {
  return [positions = std::move(positions)](const kvfit::selection_problem&) {
    return kvfit::result<kvfit::selected_rows>(kvfit::selected_rows{.positions = positions});
  };
}

/// `values`, said to be fitted.
auto these_values(kvfit::matrix values) {
  return [values = std::move(values)](const kvfit::values_problem&) {
    return kvfit::result<kvfit::values_fit>(kvfit::values_fit{.values = values, .is_fitted = true});
  };
}

composition honest(index_t budget) {
  composition options;
  options.budget = budget;
  options.selection.choose = [](const kvfit::selection_problem& problem) {
    return select(kvfit::selection::joint{.attention_share = 0}, problem);
  };
  options.bias.fit = honest_bias;
  options.values.fit = honest_values;
  options.refine.steps = 0;
  options.queries.held_out = 0;
  options.queries.per_row = 0;
  return options;
}

compacted fitted_by(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                    const composition& options) {
  auto fitted = kvfit::compact(cache, queries, options.all());
  INFO((fitted ? "fitted" : fitted.error().message()));
  REQUIRE(fitted);
  return std::move(*fitted);
}

/// A refinement of twenty steps that keeps what it moves, were it not for its last fit of values.
struct refined_case {
  head made = make_head(1, {.queries = 320, .keys = 64, .depth = 8, .width = 6});
  composition options = honest(10);

  refined_case() { options.queries.held_out = 0.125; }

  [[nodiscard]] compacted plain() const { return fitted_by(made.cache(), made.queries, options); }
  [[nodiscard]] compacted refined() const {
    composition moving = options;
    moving.refine.steps = 20;
    return fitted_by(made.cache(), made.queries, moving);
  }
  /// The same where the first fit of values, which is that of the moved rows, goes by `spoil`.
  template <class Spoil>
  [[nodiscard]] compacted spoiled(Spoil spoil) const {
    composition moving = options;
    moving.refine.steps = 20;
    int calls = 0;
    moving.values.fit = [&](const kvfit::values_problem& problem) {
      auto fit = options.values.fit(problem);
      if (++calls == 1) spoil(fit->values);
      return fit;
    };
    auto result = fitted_by(made.cache(), made.queries, moving);
    CHECK(calls == 2);
    return result;
  }
};

/// The result is the one without refinement, and its report says so.
void check_is_start(const compacted& result, const compacted& plain) {
  CHECK(same_result(result, plain));
  CHECK(result.report.refinement.steps > 0);
  CHECK(result.report.refinement.kept_steps == 0);
  CHECK(result.report.copies_judged_better == plain.report.copies_judged_better);
  CHECK(result.report.is_values_fitted == plain.report.is_values_fitted);
  CHECK(result.report.train.output_error == plain.report.train.output_error);
}

}  // namespace

TEST_CASE("O: refined rows that the last fit of values makes worse give way to the start",
          "[compact][guard][refine]") {
  refined_case one;
  const bool keeps_better_values = GENERATE(false, true);
  one.options.keep_better_values = keeps_better_values;
  one.options.queries.held_out = GENERATE(0.125, 0.0);
  const compacted plain = one.plain();
  REQUIRE(one.refined().report.refinement.kept_steps > 0);
  const compacted spoiled = one.spoiled([](kvfit::matrix& values) { values *= 5; });
  check_is_start(spoiled, plain);
}

TEST_CASE("O: refined rows whose last values overflow the storage give way to the start",
          "[compact][guard][refine][storage]") {
  refined_case one;
  one.options.storage.rows = one.options.storage.bias =
      GENERATE(kvfit::dtype::fp16, kvfit::dtype::fp8_e4m3);
  const compacted plain = one.plain();
  REQUIRE(one.refined().report.refinement.kept_steps > 0);
  const compacted spoiled = one.spoiled([](kvfit::matrix& values) { values(3, 2) = 1e6F; });
  check_is_start(spoiled, plain);
}

TEST_CASE("O: rows that give way are fitted toward their own values, not toward rounded ones",
          "[compact][guard][refine][storage]") {
  refined_case one;
  one.options.storage.rows = kvfit::dtype::fp8_e4m3;
  one.options.values.fit = [](const kvfit::values_problem& problem) {
    return fit_values(
        kvfit::values::least_squares{.ridge_scaling = kvfit::linalg::ridge_mode::frobenius,
                                     .ridge = 3},
        problem);
  };
  const compacted plain = one.plain();
  check_is_start(one.spoiled([](kvfit::matrix& values) { values(3, 2) = 1e6F; }), plain);
  check_is_start(one.spoiled([](kvfit::matrix& values) { values *= 5; }), plain);
}

TEST_CASE("O: a policy that is cancelled in the last fit of values is not asked again",
          "[compact][guard][refine][policy]") {
  refined_case one;
  REQUIRE(one.refined().report.refinement.kept_steps > 0);
  one.options.refine.steps = 20;
  int calls = 0;
  one.options.values.fit = [&](const kvfit::values_problem&) {
    ++calls;
    return kvfit::result<kvfit::values_fit>(kvfit::error{errc::cancelled, "a user's own fit"});
  };
  const auto stopped = kvfit::compact(one.made.cache(), one.made.queries, one.options.all());
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().argument == "a user's own fit");
  CHECK(calls == 1);
}

TEST_CASE("O: rows that give way after copies were taken for them leave no word of copies",
          "[compact][guard][refine]") {
  refined_case one;
  const compacted plain = one.plain();
  REQUIRE(plain.report.is_values_fitted);
  // Copies are judged better than these, and are worse than what the start had.
  check_is_start(one.spoiled([](kvfit::matrix& values) { values *= -50; }), plain);
}

TEST_CASE("O: values that judge worse or are no numbers give way to the rows' own",
          "[compact][guard][values]") {
  const head made = make_head(2);
  composition options = honest(8);
  options.queries.held_out = GENERATE(0.0, 0.125);
  options.selection.choose = rows({1, 5, 9, 20, 30, 40, 50, 60});
  const float bad = GENERATE(nan_value, 1e4F);
  options.values.fit = these_values(kvfit::matrix::Constant(8, 8, bad));
  const compacted c = fitted_by(made.cache(), made.queries, options);
  CHECK(c.report.copies_judged_better);
  CHECK_FALSE(c.report.is_values_fitted);
  CHECK(std::isfinite(c.report.train.output_error));
  for (index_t j = 0; j < 8; ++j) {
    CHECK(c.values.row(j) == made.values.row(c.positions[static_cast<std::size_t>(j)]));
  }
}

TEST_CASE("O: values that are no numbers are an error where the rows' own may not replace them",
          "[compact][guard][values]") {
  const head made = make_head(2);
  composition options = honest(8);
  options.keep_better_values = false;
  options.selection.choose = rows({1, 5, 9, 20, 30, 40, 50, 60});
  kvfit::matrix values = kvfit::matrix::Ones(8, 8);
  values(3, 6) = nan_value;
  options.values.fit = these_values(values);
  const auto refused = kvfit::compact(made.cache(), made.queries, options.all());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message() == "non_finite: value policy's values: 3, column 6");
}

TEST_CASE("O: one query of many does not take fitted values away",
          "[compact][guard][values][judge]") {
  // Rows 0 and 2 look alike, and 2 is dropped: the mean of their values is exact for who asks for
  // both. One judge of eight asks for row 1, whose value is bent.
  head made = make_head(6, {.queries = 16, .keys = 3, .depth = 3, .width = 4});
  made.keys << 6, 0, 0, 0, 6, 0, 6, 0, 0;
  made.values << 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3;
  made.queries.setZero();
  made.queries.col(0).setConstant(12);
  made.queries.row(3) << 0, 12, 0;  // held out, as every second one
  composition options = honest(2);
  options.queries.held_out = 0.5;
  options.selection.choose = rows({0, 1});
  options.bias.fit = no_bias;
  kvfit::matrix values(2, 4);
  values << 2, 2, 2, 2, 90, 90, 90, 90;
  options.values.fit = these_values(values);
  const compacted c = fitted_by(made.cache(), made.queries, options);
  CHECK(c.report.is_values_fitted);
  CHECK(c.values == values);
  // Where they are closer for half of them alone, the mean decides.
  for (const index_t i : {1, 5, 7, 9}) made.queries.row(i) << 0, 12, 0;
  CHECK(fitted_by(made.cache(), made.queries, options).report.copies_judged_better);
}

TEST_CASE("O: copies that the storage can't hold are not returned, however they judge",
          "[compact][guard][values][storage]") {
  head made = make_head(3, {.queries = 40, .keys = 12});
  made.values.row(4).setConstant(70000);
  composition options = honest(4);
  options.storage.rows = kvfit::dtype::fp16;
  options.selection.choose = rows({2, 4, 7, 9});
  const kvfit::matrix values = kvfit::matrix::Constant(4, 8, 60000);
  options.values.fit = these_values(values);
  const compacted c = fitted_by(made.cache(), made.queries, options);
  CHECK(c.values.cwiseAbs().maxCoeff() <= 65504);
  CHECK_FALSE(c.report.copies_judged_better);
}

TEST_CASE("O: judges that see nothing leave the judgement to the queries fitted on",
          "[compact][guard][judge]") {
  const head made = make_head(1, {.queries = 320, .keys = 64, .depth = 8, .width = 6});
  kvfit::matrix mask = kvfit::matrix::Zero(320, 64);
  for (index_t i = 7; i < 320; i += 8) mask.row(i).setConstant(hidden_key);
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  composition options = honest(10);
  options.queries.held_out = 0.125;
  SECTION("refinement is judged by them") {
    options.refine.steps = 20;
    const compacted c = fitted_by(cache, made.queries, options);
    CHECK_FALSE(c.report.held_out);
    CHECK(c.report.refinement.kept_steps > 0);
    CHECK(c.report.refinement.start.queries == 280);
  }
  SECTION("values are judged by them") {
    options.values.fit = these_values(kvfit::matrix::Constant(10, 6, 1e4F));
    const compacted c = fitted_by(cache, made.queries, options);
    CHECK_FALSE(c.report.held_out);
    CHECK(c.report.copies_judged_better);
  }
}

TEST_CASE("O: a caller's count of rows by attention is not taken on trust",
          "[compact][guard][policy]") {
  const head made = make_head(2);
  composition options = honest(4);
  for (const index_t count : {-1, 5}) {
    options.selection.choose = [&](const kvfit::selection_problem&) {
      kvfit::selected_rows chosen{.positions = {1, 2, 3, 4}};
      chosen.report.by_attention = count;
      return kvfit::result<kvfit::selected_rows>(chosen);
    };
    const auto c = kvfit::compact(made.cache(), made.queries, options.all());
    REQUIRE_FALSE(c);
    CHECK(c.error().code == errc::shape_mismatch);
    CHECK(c.error().actual == count);
  }
}

TEST_CASE("O: a caller's values of another shape are refused", "[compact][guard][policy]") {
  const head made = make_head(2);
  composition options = honest(8);
  for (const auto& [t, d] : {std::pair<index_t, index_t>{7, 8}, {8, 7}, {0, 0}}) {
    options.values.fit = these_values(kvfit::matrix::Zero(t, d));
    const auto c = kvfit::compact(made.cache(), made.queries, options.all());
    REQUIRE_FALSE(c);
    CHECK(c.error().code == errc::shape_mismatch);
    CHECK(c.error().argument == "value policy's values");
  }
}

TEST_CASE("O: a caller's rows and weights are looked at before they are used",
          "[compact][guard][policy]") {
  const head made = make_head(2);
  std::vector<float> bias(64, 0.0F);
  bias[5] = hidden_key;
  kvfit::kv_block cache = made.cache();
  cache.bias = bias;
  composition options = honest(4);
  const auto error_of = [&](std::vector<index_t> positions, std::vector<double> weights = {}) {
    options.selection.choose = [&](const kvfit::selection_problem&) {
      return kvfit::result<kvfit::selected_rows>(
          kvfit::selected_rows{.positions = positions, .weights = weights});
    };
    const auto c = kvfit::compact(cache, made.queries, options.all());
    REQUIRE_FALSE(c);
    return c.error();
  };
  CHECK(error_of({}).code == errc::budget_out_of_range);
  CHECK(error_of({1, 2, 3, 4, 6}).code == errc::budget_out_of_range);
  CHECK(error_of({1, 2, 2, 4}).code == errc::invalid_position);
  CHECK(error_of({1, 2, 3, 64}).code == errc::invalid_position);
  CHECK(error_of({-1, 2, 3, 4}).code == errc::invalid_position);
  CHECK(error_of({1, 2, 3, 5}).code == errc::invalid_position);  // hidden
  const auto weights = error_of({1, 2, 3, 4}, {1, 1, 1});
  CHECK(weights.code == errc::shape_mismatch);
  CHECK(weights.actual == 3);
  CHECK(weights.expected == 4);
}

TEST_CASE("O: a caller's weights that have no finite logarithm are refused",
          "[compact][guard][policy]") {
  const head made = make_head(2);
  composition options = honest(4);
  const auto error_of = [&](const std::vector<double>& weights) {
    options.bias.fit = [&](const kvfit::bias_problem&) {
      return kvfit::result<kvfit::bias_fit>(kvfit::bias_fit{.weights = weights});
    };
    const auto c = kvfit::compact(made.cache(), made.queries, options.all());
    REQUIRE_FALSE(c);
    CHECK(c.error().argument == "bias policy's weights");
    return c.error().code;
  };
  CHECK(error_of(std::vector<double>(3, 1.0)) == errc::shape_mismatch);
  CHECK(error_of(std::vector<double>(5, 1.0)) == errc::shape_mismatch);
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                           std::numeric_limits<double>::quiet_NaN()}) {
    std::vector<double> weights(4, 1.0);
    weights[2] = bad;
    CHECK(error_of(weights) == errc::invalid_option);
  }
}

namespace {

/// Fits of weights under which slot 0 is always dead, round after round.
struct dead_case {
  head made;
  composition options;
  int fits = 0;
  /// Every weight of round k is `scales[k]`, or the last of them.
  std::vector<double> scales;

  dead_case(head given, std::vector<index_t> positions, std::vector<double> of_rounds)
      : made(std::move(given)),
        options(honest(static_cast<index_t>(positions.size()))),
        scales(std::move(of_rounds)) {
    options.selection.choose = rows(std::move(positions));
    options.bias.fit = [this](const kvfit::bias_problem& problem) {
      const auto round = std::min(static_cast<std::size_t>(fits++), scales.size() - 1);
      const auto columns = static_cast<std::size_t>(problem.columns->cols());
      kvfit::bias_fit fit{.weights = std::vector<double>(columns, scales[round])};
      fit.floor = fit.weights[0] / 2;
      fit.weights[0] = fit.floor;
      return kvfit::result<kvfit::bias_fit>(std::move(fit));
    };
  }
  dead_case(const dead_case&) = delete;
  dead_case& operator=(const dead_case&) = delete;

  compacted result() { return fitted_by(made.cache(), made.queries, options); }
};

}  // namespace

TEST_CASE("O: rows in the place of dead ones are kept only where less mass is missing",
          "[compact][guard][dead_keys]") {
  dead_case worse(make_head(4), {3, 8, 12, 30}, {1, 1e6});
  const compacted c = worse.result();
  CHECK(worse.fits > 1);
  CHECK(c.positions == std::vector<index_t>{3, 8, 12, 30});
  CHECK(c.report.dead_keys_replaced == 0);
  CHECK(c.report.dead_keys == 1);
  CHECK(c.bias[1] == 0);
}

TEST_CASE("O: dead rows are replaced three times at the most", "[compact][guard][dead_keys]") {
  dead_case dying(make_head(4), {3, 8, 12, 30}, {1});
  (void)dying.result();
  CHECK(dying.fits == 4);
}

TEST_CASE("O: a row that was dead once is not tried again", "[compact][guard][dead_keys]") {
  // One row is free: it takes the slot once, and then there is none left.
  dead_case last(make_head(4, {.keys = 5}), {0, 1, 2, 3}, {1});
  const compacted c = last.result();
  CHECK(last.fits == 2);
  CHECK(c.report.dead_keys_replaced <= 1);
}

TEST_CASE("O: no row takes a dead one's place where mass is not missing but too much",
          "[compact][guard][dead_keys]") {
  dead_case heavy(make_head(4), {3, 8, 12, 30}, {1e6});
  const compacted c = heavy.result();
  CHECK(heavy.fits == 1);
  CHECK(c.positions == std::vector<index_t>{3, 8, 12, 30});
  CHECK(c.report.dead_keys_replaced == 0);
}

TEST_CASE("O: a mass that is missing by rounding alone replaces no dead row",
          "[compact][guard][dead_keys]") {
  // Rows 8 … have next to no mass, and 8 among them is dead; 0 … 7 explain all there is.
  head made = make_head(5, {.queries = 60, .keys = 40, .depth = 8});
  made.queries.col(7).setConstant(8);
  made.keys.col(7).head(8).setZero();
  made.keys.col(7).tail(32).setConstant(-20);
  dead_case explained(std::move(made), {8, 0, 1, 2, 3, 4, 5, 6, 7}, {1});
  explained.options.bias.fit = [&](const kvfit::bias_problem& problem) {
    ++explained.fits;
    const auto columns = static_cast<std::size_t>(problem.columns->cols());
    kvfit::bias_fit fit{.weights = std::vector<double>(columns, 1.0), .floor = 0.5};
    fit.weights[8] = 0.5;  // row 8, in ascending order
    return kvfit::result<kvfit::bias_fit>(std::move(fit));
  };
  const compacted c = explained.result();
  CHECK(c.report.mass_residual < 1e-6);
  CHECK(explained.fits == 1);
  CHECK(c.report.dead_keys == 1);
}

TEST_CASE("O: keys that rounding lifts far above a query's maximum leave weights finite",
          "[compact][guard][storage]") {
  // Logits of some thousands, moved by hundreds where keys become fp8.
  head made = make_head(7, {.queries = 48, .keys = 24, .depth = 8});
  made.keys *= 60;
  made.queries *= 10;
  composition options = honest(6);
  options.storage.rows = kvfit::dtype::fp8_e4m3;
  options.values.fit = [](const kvfit::values_problem& problem) {
    return fit_values(kvfit::values::copy{}, problem);
  };
  options.selection.choose = rows({1, 4, 9, 13, 17, 21});
  const compacted c = fitted_by(made.cache(), made.queries, options);
  CHECK(c.report.bias.status == kvfit::linalg::bounded_status::optimal);
  CHECK(c.bias.allFinite());
}

namespace {

/// Refinement as the pipeline asks for it, of eight rows at even distances.
struct guarded_case {
  head made;
  kvfit::stages::targets full;
  compacted out;
  kvfit::compact_options options;
  kvfit::kv_block cache;

  explicit guarded_case(std::uint64_t seed, float key_scale = 1)
      : made(make_head(seed, {.queries = 160, .keys = 64, .depth = 8, .width = 6})) {
    made.keys *= key_scale;
    made.queries /= key_scale;
    cache = made.cache();
    options.queries = {.held_out = 0.125, .per_row = 0};
    options.selection = kvfit::selection::first{};
    options.budget = 8;
    auto scored = kvfit::stages::score(problem());
    REQUIRE(scored);
    auto both = kvfit::stages::score_held_out(problem(), std::move(*scored));
    REQUIRE(both);
    full = std::move(*both);
    for (index_t row = 3; row < 64; row += 8) out.positions.push_back(row);
    out.keys = kvfit::gather_rows(cache.keys, out.positions);
    out.values = kvfit::gather_rows(cache.values, out.positions);
    out.bias = kvfit::vector::Constant(8, 2);
  }
  guarded_case(const guarded_case&) = delete;
  guarded_case& operator=(const guarded_case&) = delete;

  [[nodiscard]] kvfit::stages::problem problem() const {
    return {.cache = cache, .queries = made.queries, .options = options};
  }
};

}  // namespace

TEST_CASE("O: what refinement keeps is worse neither in output nor in mass",
          "[compact][guard][refine]") {
  // One of the two alone is lowered, and the other rises where it may.
  const bool for_output = GENERATE(false, true);
  int kept = 0;
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    guarded_case one(seed);
    const kvfit::refinement settings{.steps = 12,
                                     .output_weight = for_output ? 1.0 : 0.0,
                                     .mass_weight = for_output ? 0.0 : 1.0};
    const kvfit::matrix original = one.out.values;
    kvfit::refiner moving(settings, one.cache, one.options.rule, one.full.parts.fit,
                          one.full.fitted, one.out.positions, original);
    const auto steps =
        kvfit::detail::refine_with_rollback(moving, one.problem(), one.full, one.out);
    REQUIRE(steps);
    if (steps->steps == 0) continue;
    ++kept;
    CHECK(steps->steps == moving.report().steps);  // one batch: its values stand
    const kvfit::fidelity errors =
        kvfit::detail::judged_errors(one.problem(), one.full, one.out, moving.values());
    INFO("seed " << seed);
    CHECK(errors.rms_output_error <= steps->start_errors.rms_output_error);
    CHECK(errors.mass_error <= steps->start_errors.mass_error);
  }
  CHECK(kept > 0);
}

TEST_CASE("O: what refinement keeps fits its storage", "[compact][guard][refine][storage]") {
  int overflowed = 0;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    float largest = 0;
    {
      const guarded_case plain(seed);
      largest = plain.out.keys.cwiseAbs().maxCoeff();
    }
    for (const kvfit::dtype type : {kvfit::dtype::fp32, kvfit::dtype::fp16}) {
      guarded_case one(seed, 65500 / largest);
      const kvfit::refinement settings{.steps = 12};
      const kvfit::matrix original = one.out.values;
      kvfit::refiner moving(settings, one.cache, one.options.rule, one.full.parts.fit,
                            one.full.fitted, one.out.positions, original);
      one.options.storage = {type, type};
      REQUIRE(kvfit::detail::refine_with_rollback(moving, one.problem(), one.full, one.out));
      const bool fits = one.out.keys.cwiseAbs().maxCoeff() < 65520;
      INFO("seed " << seed);
      if (type == kvfit::dtype::fp16) CHECK(fits);
      if (type == kvfit::dtype::fp32) overflowed += fits ? 0 : 1;
    }
  }
  CHECK(overflowed >= 3);
}

TEST_CASE("O: a gradient method's values are returned as they are, whatever copies would do",
          "[compact][guard][gradient]") {
  const head made = make_head(2);
  composition options = honest(8);
  options.refine.steps.reset();
  options.gradient = kvfit::gradient_keys{.loss = kvfit::gradient_loss::log_mass, .steps = 3};
  const kvfit::matrix values = kvfit::matrix::Constant(8, 8, 50);
  options.values.fit = these_values(values);
  options.queries.held_out = GENERATE(0.0, 0.125);
  const compacted c = fitted_by(made.cache(), made.queries, options);
  CHECK(c.values == values);
  CHECK_FALSE(c.report.copies_judged_better);
}

TEST_CASE("O: keys that a gradient method moves out of their storage are refused",
          "[compact][guard][gradient][storage]") {
  // 464 is the first number that fp8 can't hold, and many are next to it.
  head made = make_head(2);
  const float scale = 1000 / made.keys.cwiseAbs().maxCoeff();
  made.keys = (made.keys * scale).cwiseMin(463.0F).cwiseMax(-463.0F);
  made.queries /= scale;
  composition options = honest(16);
  options.selection.choose = rows(rows_up_to(16));
  options.refine.steps.reset();
  options.gradient = kvfit::gradient_keys{
      .loss = kvfit::gradient_loss::log_mass, .steps = 100, .learning_rate = 4};
  REQUIRE(fitted_by(made.cache(), made.queries, options).keys.cwiseAbs().maxCoeff() > 464);
  options.storage.rows = kvfit::dtype::fp8_e4m3;
  const auto refused = kvfit::compact(made.cache(), made.queries, options.all());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::storage_overflow);
  CHECK(refused.error().argument == "keys");
}

TEST_CASE("O: biases that are not fitted are not moved by a refinement left open",
          "[compact][guard][refine][zero_bias]") {
  const head made = make_head(1, {.queries = 320, .keys = 64, .depth = 8, .width = 6});
  const kvfit::compact_options options{.budget = 10,
                                       .selection = kvfit::selection::joint{.attention_share = 0},
                                       .bias = kvfit::bias::zero{}};
  const compacted c = compacted_head(made.cache(), made.queries, options);
  CHECK(c.report.refinement.kept_steps > 0);
  CHECK(c.bias.isZero(0));
}

TEST_CASE("O: refinement keeps the best of its batches, not the last", "[compact][guard][refine]") {
  int later = 0;  // ends of batches that judged worse than one before
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    double best = std::numeric_limits<double>::infinity();
    for (int total = 2; total <= 16; total += 2) {
      guarded_case one(seed);
      const kvfit::refinement settings{.steps = total, .batch = 24, .steps_a_batch = 2};
      const kvfit::matrix original = one.out.values;
      kvfit::refiner moving(settings, one.cache, one.options.rule, one.full.parts.fit,
                            one.full.fitted, one.out.positions, original);
      const auto steps =
          kvfit::detail::refine_with_rollback(moving, one.problem(), one.full, one.out);
      REQUIRE(steps);
      if (steps->steps == 0) continue;
      if (steps->steps < moving.report().steps) {
        ++later;
        continue;
      }
      const kvfit::fidelity errors =
          kvfit::detail::judged_errors(one.problem(), one.full, one.out, moving.values());
      const double both = errors.rms_output_error * std::sqrt(errors.mass_error);
      INFO("seed " << seed << ", " << total << " steps");
      CHECK(both < best);
      best = both;
    }
  }
  CHECK(later >= 4);
}
