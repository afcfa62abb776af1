// SPDX-License-Identifier: MIT
#include "kvfit/presets.hpp"

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "compact/entry_point.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
namespace bias = kvfit::bias;
namespace presets = kvfit::presets;
namespace selection = kvfit::selection;
namespace values = kvfit::values;

namespace {

compact_options named(std::string_view name, kvfit::index_t budget = 7) {
  const auto found = presets::find(name);
  INFO(name);
  REQUIRE(found);
  CHECK(found->name == name);
  CHECK_FALSE(found->summary.empty());
  const compact_options options = found->make(budget);
  CHECK(options.budget == budget);
  return options;
}

/// No judging and no repair: what the published methods do not do.
void check_published(const compact_options& options) {
  CHECK_FALSE(options.replace_dead_keys);
  CHECK_FALSE(options.keep_better_values);
  CHECK(options.queries.held_out == 0);
  CHECK(options.queries.per_row == 0);
  CHECK(options.values.equals(values::unpivoted_qr{}));
}

void check_published_omp(const compact_options& options, kvfit::index_t k, kvfit::index_t tau) {
  check_published(options);
  const auto& search = *options.selection.get_if<selection::omp>();
  CHECK(search.keys_per_round == k);
  CHECK(search.refit_interval == tau);
  CHECK(search.norm_power == 0);
  CHECK_FALSE(search.absolute);
  CHECK(search.weighting == kvfit::mass_weighting::absolute);
  CHECK(search.lower == 1e-12);
  CHECK(search.upper == std::exp(7.0));
  REQUIRE(search.drop_below);
  CHECK(*search.drop_below == -7);
  CHECK(search.drop_passes == 3);
  CHECK_FALSE(search.final_refit);
  CHECK(options.bias.holds<bias::from_selection>());
}

}  // namespace

TEST_CASE("presets are found by their names, which are all different", "[presets]") {
  std::set<std::string_view> names;
  for (const auto& preset : presets::all) {
    named(preset.name);
    names.insert(preset.name);
  }
  CHECK(names.size() == presets::all.size());
  CHECK(names == std::set<std::string_view>{"first",
                                            "last",
                                            "random",
                                            "topk",
                                            "h2o",
                                            "snapkv",
                                            "kvzip",
                                            "expected_attention",
                                            "highest_attention",
                                            "omp",
                                            "omp_fast",
                                            "omp_progressive",
                                            "gradient_mass",
                                            "gradient_joint",
                                            "select_only",
                                            "zero_bias",
                                            "joint",
                                            "refined",
                                            "joint_zero_bias",
                                            "refined_zero_bias",
                                            "default"});
  CHECK_FALSE(presets::find("Default"));
  CHECK_FALSE(presets::find(""));
}

TEST_CASE("published presets carry the published settings", "[presets]") {
  const compact_options attention = named("highest_attention");
  check_published(attention);
  const auto& chosen = *attention.selection.get_if<selection::highest_attention>();
  CHECK(chosen.importance == kvfit::importance_kind::rms);
  CHECK(chosen.pooling == kvfit::pooling_kind::none);
  const auto& weights = *attention.bias.get_if<bias::projected_gradient>();
  CHECK(weights.weighting == kvfit::mass_weighting::absolute);
  CHECK(weights.lower == std::exp(-3.0));
  CHECK(weights.upper == std::exp(3.0));
  CHECK(weights.iterations == 2);

  check_published_omp(named("omp"), 1, 1);
  CHECK(named("omp").selection.get_if<selection::omp>()->schedule.empty());
  check_published_omp(named("omp_fast"), 4, 2);
  check_published_omp(named("omp_progressive"), 1, 1);
  const auto schedule = named("omp_progressive").selection.get_if<selection::omp>()->schedule;
  REQUIRE(schedule.size() == 3);
  const kvfit::index_t expected[3][3] = {
      {300, 1, 1}, {1500, 2, 2}, {std::numeric_limits<kvfit::index_t>::max(), 4, 2}};
  for (std::size_t s = 0; s < 3; ++s) {
    CHECK(schedule[s].limit == expected[s][0]);
    CHECK(schedule[s].keys_per_round == expected[s][1]);
    CHECK(schedule[s].refit_interval == expected[s][2]);
  }
}

TEST_CASE("the published gradient methods carry the published settings", "[presets]") {
  for (const std::string_view name : {"gradient_mass", "gradient_joint"}) {
    INFO(name);
    const compact_options options = named(name);
    check_published(options);
    CHECK(options.selection.holds<selection::random>());
    CHECK(options.bias.holds<bias::zero>());
    REQUIRE(options.gradient.holds<kvfit::gradient_keys>());
    CHECK(options.gradient.get_if<kvfit::gradient_keys>()->optimiser ==
          kvfit::gradient_optimiser::adam);
    CHECK(options.gradient.get_if<kvfit::gradient_keys>()->steps == 2000);
    CHECK(options.gradient.get_if<kvfit::gradient_keys>()->learning_rate == 0.02);
    CHECK(options.gradient.get_if<kvfit::gradient_keys>()->penalty == 0);
    CHECK(options.gradient.get_if<kvfit::gradient_keys>()->patience == 2000);
    CHECK(options.gradient.get_if<kvfit::gradient_keys>()->improvement == 1e-6);
  }
  CHECK(named("gradient_mass").gradient.get_if<kvfit::gradient_keys>()->loss ==
        kvfit::gradient_loss::log_mass);
  CHECK(named("gradient_mass").gradient.get_if<kvfit::gradient_keys>()->least_share == 1);
  CHECK(named("gradient_joint").gradient.get_if<kvfit::gradient_keys>()->loss ==
        kvfit::gradient_loss::joint);
  CHECK(named("gradient_joint").gradient.get_if<kvfit::gradient_keys>()->least_share == 0);
  CHECK(named("gradient_joint").gradient.get_if<kvfit::gradient_keys>()->mass_weight == 0.05);
  for (const auto& preset : presets::all) {
    if (!preset.name.starts_with("gradient_"))
      CHECK(preset.make(7).gradient.holds<kvfit::no_gradient>());
  }
}

TEST_CASE("evictions keep rows as they are: no bias, own values", "[presets]") {
  const head made = make_head(1);
  for (const std::string_view name : {"first", "last", "random", "topk", "h2o", "snapkv", "kvzip",
                                      "expected_attention", "select_only"}) {
    INFO(name);
    const kvfit::compacted c = compacted_head(made.cache(), made.queries, named(name, 9));
    CHECK(c.bias.isZero(0.0));
    for (kvfit::index_t j = 0; j < 9; ++j) {
      CHECK(c.values.row(j) == made.values.row(c.positions[static_cast<std::size_t>(j)]));
    }
  }
  CHECK(compacted_head(made.cache(), made.queries, named("first", 3)).positions ==
        std::vector<kvfit::index_t>{0, 1, 2});
  CHECK(compacted_head(made.cache(), made.queries, named("last", 3)).positions ==
        std::vector<kvfit::index_t>{61, 62, 63});
}

TEST_CASE("evictions of others carry the settings of their papers", "[presets]") {
  const auto attention = [](std::string_view name) {
    return *named(name).selection.get_if<selection::highest_attention>();
  };
  CHECK(attention("h2o").importance == kvfit::importance_kind::mean);
  CHECK(attention("h2o").pooling == kvfit::pooling_kind::none);
  CHECK(attention("h2o").window == 0);
  CHECK(attention("snapkv").importance == kvfit::importance_kind::mean);
  CHECK(attention("snapkv").pooling == kvfit::pooling_kind::max);
  CHECK(attention("snapkv").pooling_width == 7);
  CHECK(attention("snapkv").window == 32);
  CHECK(attention("kvzip").importance == kvfit::importance_kind::max);
  CHECK(attention("kvzip").pooling == kvfit::pooling_kind::none);
  CHECK(attention("kvzip").window == 0);
  CHECK(named("expected_attention").selection.get_if<selection::expected_attention>()->epsilon ==
        0);
}

TEST_CASE("with queries held out, window and Gaussian are those of the other queries, head by head",
          "[presets]") {
  const double share = GENERATE(0.5, 0.125, 0.03);  // runs of rows, interleaved rows, a single row
  const std::string_view name = GENERATE("snapkv", "expected_attention");
  CAPTURE(share, name);
  const auto stride = static_cast<kvfit::index_t>(std::lround(1 / share));
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    const head made = make_head(seed);
    std::vector<kvfit::matrix> fitted_on;
    std::vector<kvfit::query_block> heads;
    for (const auto& [first, count] :
         {std::pair<kvfit::index_t, kvfit::index_t>{0, 56}, {56, 40}}) {
      const kvfit::row_view rows(made.queries);
      heads.emplace_back(rows.middle_rows(first, count));
      std::vector<kvfit::index_t> others;
      for (kvfit::index_t i = 0; i < count; ++i) {
        if (i % stride != stride - 1) others.push_back(i);
      }
      fitted_on.push_back(kvfit::gather_rows(heads.back().rows, others));
    }
    std::vector<kvfit::query_block> others;
    for (const kvfit::matrix& rows : fitted_on) others.emplace_back(kvfit::row_view(rows));
    compact_options options = named(name, 12);
    if (auto* window = options.selection.get_if<selection::highest_attention>()) {
      window->window = 9;
    }
    const auto positions = [&](const std::vector<kvfit::query_block>& queries) {
      return compacted_head(made.cache(), std::span<const kvfit::query_block>(queries), options)
          .positions;
    };
    const std::vector<kvfit::index_t> expected = positions(others);
    options.queries.held_out = share;
    CHECK(positions(heads) == expected);
  }
}

TEST_CASE("the selections of evictions take fitted bias and values, which bring them nearer",
          "[presets]") {
  for (const std::string_view name : {"h2o", "snapkv", "kvzip", "expected_attention"}) {
    double plain = 0;
    double fitted = 0;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      const head made = make_head(seed);
      compact_options options{.budget = 12};
      options.selection = named(name).selection;
      const kvfit::compacted ours = compacted_head(made.cache(), made.queries, options);
      CHECK_FALSE(ours.bias.isZero(0.0));
      fitted += errors_of(made.test_queries, made.cache(), ours.block()).output_error / 4;
      const kvfit::compacted theirs = compacted_head(made.cache(), made.queries, named(name, 12));
      plain += errors_of(made.test_queries, made.cache(), theirs.block()).output_error / 4;
    }
    INFO(name << ": output error " << fitted << ", of copies without bias " << plain);
    CHECK(fitted < plain);
  }
}

TEST_CASE("the flash-safe preset has no bias either, and better values than copies", "[presets]") {
  double fitted = 0;
  double copied = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const head made = make_head(seed);
    const kvfit::compacted c = compacted_head(made.cache(), made.queries, named("zero_bias", 12));
    CHECK(c.bias.isZero(0.0));
    fitted += errors_of(made.test_queries, made.cache(), c.block()).output_error / 4;
    const kvfit::compacted top = compacted_head(made.cache(), made.queries, named("topk", 12));
    copied += errors_of(made.test_queries, made.cache(), top.block()).output_error / 4;
  }
  INFO("output error " << fitted << ", of copies " << copied);
  CHECK(fitted < copied);
}

TEST_CASE("the default preset is what plain options say", "[presets]") {
  const head made = make_head(2);
  CHECK(same_result(compacted_head(made.cache(), made.queries, named("default", 15)),
                    compacted_head(made.cache(), made.queries, {.budget = 15})));
}

TEST_CASE("§9.37 the default beats every eviction on held-out queries", "[presets]") {
  const kvfit::index_t budget = GENERATE(kvfit::index_t{8}, kvfit::index_t{16});
  for (const std::string_view baseline :
       {"first", "last", "random", "topk", "h2o", "snapkv", "kvzip", "expected_attention"}) {
    int wins = 0;
    double ours_mean = 0;
    double theirs_mean = 0;
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      const head made = make_head(seed, {.queries = 128, .keys = 96});
      const auto error_of = [&](const compact_options& options) {
        const kvfit::compacted c = compacted_head(made.cache(), made.queries, options);
        return errors_of(made.test_queries, made.cache(), c.block());
      };
      const kvfit::fidelity ours = error_of(named("default", budget));
      const kvfit::fidelity theirs = error_of(named(baseline, budget));
      INFO(baseline << ", seed " << seed << ": output " << ours.output_error << " against "
                    << theirs.output_error << ", mass " << ours.mass_error << " against "
                    << theirs.mass_error);
      CHECK(ours.mass_error < theirs.mass_error);
      wins += ours.output_error < theirs.output_error ? 1 : 0;
      ours_mean += ours.output_error / 8;
      theirs_mean += theirs.output_error / 8;
    }
    INFO(baseline << ": " << wins << " of 8 heads won, mean output error " << ours_mean
                  << " against " << theirs_mean);
    CHECK(wins >= 7);
    CHECK(ours_mean < theirs_mean);
  }
}
