// SPDX-License-Identifier: MIT
#include "kvfit/parallel/stop.hpp"

#include <chrono>
#include <set>
#include <string>

#include "compact/counted_queries.hpp"
#include "compact/entry_point.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::errc;

namespace {

kvfit::result<kvfit::compacted> run(const head& made, const counted_queries& queries,
                                    const kvfit::compact_options& options) {
  return try_compact(made.cache(), queries.view(), options, {.cancel = &queries.wish});
}

}  // namespace

TEST_CASE("a wish to stop, or a deadline, is heeded before anything is computed",
          "[compact][stop]") {
  const head made = make_head(1);
  kvfit::cancellation wish;
  const auto now = std::chrono::steady_clock::now();
  CHECK(try_compact(made.cache(), made.queries, {.budget = 8}, {.cancel = &wish}));
  CHECK(try_compact(made.cache(), made.queries, {.budget = 8},
                    {.deadline = now + std::chrono::hours(1)}));
  const auto late = try_compact(made.cache(), made.queries, {.budget = 8}, {.deadline = now});
  REQUIRE_FALSE(late);
  CHECK(late.error().code == errc::cancelled);
  CHECK(late.error().detail == "the deadline has passed");
  wish.request();
  const auto unwanted = try_compact(made.cache(), made.queries, {.budget = 8}, {.cancel = &wish});
  REQUIRE_FALSE(unwanted);
  CHECK(unwanted.error().code == errc::cancelled);
  CHECK(unwanted.error().argument == "check");
  CHECK(unwanted.error().detail == "asked to stop");
  // What is wrong with the input comes first.
  CHECK(try_compact(made.cache(), made.queries, {.budget = 0}, {.cancel = &wish}).error().code ==
        errc::budget_out_of_range);
}

TEST_CASE("a wish to stop is heeded in every stage, and one that comes too late changes nothing",
          "[compact][stop]") {
  const head made = make_head(6, {.queries = 260});
  struct example {
    kvfit::compact_options options;
    std::set<std::string> stages;
  };
  example greedy{kvfit::presets::joint(20), {"score pass", "selection", "weights", "refinement"}};
  // A dead key, for its replacement to be met.
  greedy.options.selection = kvfit::selection::joint{
      .mass_weight = 0.1, .attention_share = 0, .weighting = kvfit::output_weighting::relative};
  greedy.options.memory.selection = 0;  // so that every sweep reads the queries
  greedy.options.refine.steps = 20;
  greedy.options.refine.sets = 2;
  greedy.options.refine.steps_a_batch = 5;
  example omp{kvfit::presets::omp(12), {"score pass", "selection", "weights", "values"}};
  omp.options.memory.selection = 0;
  const example moved{kvfit::presets::gradient_mass(6), {"score pass", "gradient"}};
  for (const example& one : {greedy, omp, moved}) {
    const counted_queries undisturbed{made.queries};
    const auto whole = run(made, undisturbed, one.options);
    REQUIRE(whole);
    const kvfit::index_t all = undisturbed.readings;
    REQUIRE(all > 1000);
    std::set<std::string> stages;
    constexpr kvfit::index_t moments = 96;
    for (kvfit::index_t k = 0; k < moments; ++k) {
      const counted_queries asking{made.queries, {}, 0, k * all / moments};
      const auto stopped = run(made, asking, one.options);
      if (stopped) {  // asked for in the last stage: nothing looked at the wish any more
        CHECK(k > moments / 2);
        CHECK(same_result(*stopped, *whole));
        continue;
      }
      CHECK(stopped.error().code == errc::cancelled);
      stages.insert(stopped.error().argument);
    }
    for (const std::string& stage : one.stages) {
      INFO(stage);
      CHECK(stages.count(stage) == 1);
    }
    const counted_queries late{made.queries, {}, 0, all};
    const auto same = run(made, late, one.options);
    REQUIRE(same);
    CHECK(same_result(*same, *whole));
  }
}
