// SPDX-License-Identifier: MIT
#include "kvfit/presets.hpp"

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "compact/door.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
namespace bias = kvfit::bias;
namespace presets = kvfit::presets;
namespace selection = kvfit::selection;
namespace values = kvfit::values;

namespace {

compact_options named(std::string_view name, kvfit::index budget = 7) {
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
  CHECK(options.held_out == 0);
  const auto& fit = std::get<values::least_squares>(options.values);
  CHECK(fit.method == kvfit::linalg::least_squares_method::qr_unpivoted);
  CHECK(fit.ridge == 0);
  CHECK_FALSE(fit.toward_original);
}

void check_published_omp(const compact_options& options, kvfit::index k, kvfit::index tau) {
  check_published(options);
  const auto& search = std::get<selection::omp>(options.selection);
  CHECK(search.keys_per_round == k);
  CHECK(search.refit_interval == tau);
  CHECK(search.norm_power == 0);
  CHECK_FALSE(search.absolute);
  CHECK(search.weighting == kvfit::mass_weighting::absolute);
  CHECK(search.lower == 1e-12);
  CHECK(search.upper == std::exp(7.0));
  CHECK(search.gradient_steps == 0);
  REQUIRE(search.drop_below);
  CHECK(*search.drop_below == -7);
  CHECK(search.drop_passes == 3);
  CHECK_FALSE(search.final_refit);
  CHECK(std::holds_alternative<bias::from_selection>(options.bias));
}

}  // namespace

TEST_CASE("presets are found by their names, which are all different", "[presets]") {
  std::set<std::string_view> names;
  for (const auto& preset : presets::all) {
    named(preset.name);
    names.insert(preset.name);
  }
  CHECK(names.size() == presets::all.size());
  CHECK(names == std::set<std::string_view>{"first", "last", "random", "topk", "h2o", "snapkv",
                                            "kvzip", "expected_attention", "highest_attention",
                                            "omp", "omp_fast", "omp_progressive", "select_only",
                                            "zero_bias", "default"});
  CHECK_FALSE(presets::find("Default"));
  CHECK_FALSE(presets::find(""));
}

TEST_CASE("published presets carry the published settings", "[presets]") {
  const compact_options attention = named("highest_attention");
  check_published(attention);
  const auto& chosen = std::get<selection::highest_attention>(attention.selection);
  CHECK(chosen.importance == kvfit::importance_kind::rms);
  CHECK(chosen.pooling == kvfit::pooling_kind::none);
  const auto& weights = std::get<bias::nnls>(attention.bias);
  CHECK(weights.solver == kvfit::nnls_solver::projected_gradient);
  CHECK(weights.weighting == kvfit::mass_weighting::absolute);
  CHECK(weights.lower == std::exp(-3.0));
  CHECK(weights.upper == std::exp(3.0));
  CHECK(weights.iterations == 2);

  check_published_omp(named("omp"), 1, 1);
  CHECK(std::get<selection::omp>(named("omp").selection).schedule.empty());
  check_published_omp(named("omp_fast"), 4, 2);
  check_published_omp(named("omp_progressive"), 1, 1);
  const auto schedule = std::get<selection::omp>(named("omp_progressive").selection).schedule;
  REQUIRE(schedule.size() == 3);
  const kvfit::index expected[3][3] = {
      {300, 1, 1}, {1500, 2, 2}, {std::numeric_limits<kvfit::index>::max(), 4, 2}};
  for (std::size_t s = 0; s < 3; ++s) {
    CHECK(schedule[s].limit == expected[s][0]);
    CHECK(schedule[s].keys_per_round == expected[s][1]);
    CHECK(schedule[s].refit_interval == expected[s][2]);
  }
}

TEST_CASE("evictions keep rows as they are: no bias, own values", "[presets]") {
  const head made = make_head(1);
  for (const std::string_view name : {"first", "last", "random", "topk", "select_only"}) {
    INFO(name);
    const kvfit::compacted c = compacted_head(made.cache(), made.queries, named(name, 9));
    CHECK(c.bias.isZero(0.0));
    for (kvfit::index j = 0; j < 9; ++j) {
      CHECK(c.values.row(j) == made.values.row(c.positions[static_cast<std::size_t>(j)]));
    }
  }
  CHECK(compacted_head(made.cache(), made.queries, named("first", 3)).positions ==
        std::vector<kvfit::index>{0, 1, 2});
  CHECK(compacted_head(made.cache(), made.queries, named("last", 3)).positions ==
        std::vector<kvfit::index>{61, 62, 63});
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

TEST_CASE("§9.37 the default beats first, last, random and top-k on held-out queries",
          "[presets]") {
  const kvfit::index budget = GENERATE(kvfit::index{8}, kvfit::index{16});
  for (const std::string_view baseline : {"first", "last", "random", "topk"}) {
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
