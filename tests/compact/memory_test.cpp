// SPDX-License-Identifier: MIT
// The estimate of what compact() holds, against what it asks of malloc; and the cap.
#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::errc;

namespace {

/// The preset, its thousands of steps cut short: memory does not depend on them.
compact_options cut_short(const kvfit::presets::preset& preset, kvfit::index_t budget) {
  compact_options options = preset.make(budget);
  if (options.gradient.holds<kvfit::gradient_keys>())
    options.gradient.get_if<kvfit::gradient_keys>()->steps = 3;
  if (options.refine.steps.value_or(0) > 0) options.refine.steps = 14;
  return options;
}

/// A call with several query blocks and whatever else may add to its memory.
struct memory_case {
  const char* name;
  head_shape shape;
  kvfit::index_t budget;
  std::vector<kvfit::index_t> block_ends = {};  // of all query blocks but the last
  bool has_mask = false;
  kvfit::logit_rule rule = {};
  kvfit::index_t protect = 0;
  std::optional<double> held_out = {};
  std::optional<kvfit::index_t> queries_per_row = {};
  std::optional<kvfit::index_t> selection_memory = {};
  kvfit::precision_kind precision = kvfit::precision_kind::fp32;
};

struct memory_call {
  explicit memory_call(const memory_case& of) : made(make_head(3, of.shape)), cache(made.cache()) {
    const kvfit::row_view rows(made.queries);
    kvfit::index_t first = 0;
    auto ends = of.block_ends;
    ends.push_back(of.shape.queries);
    for (const kvfit::index_t end : ends) {
      blocks.emplace_back(rows.middle_rows(first, end - first), of.shape.keys + first);
      if (of.has_mask) {
        masks.push_back(random_matrix(end - first, of.shape.keys, 5));
        views.emplace_back(masks.back());
      }
      first = end;
    }
    cache.masks = views;
  }
  memory_call(const memory_call&) = delete;
  memory_call& operator=(const memory_call&) = delete;

  [[nodiscard]] kvfit::query_set queries() const {
    return std::span<const kvfit::query_block>(blocks);
  }

  head made;
  kvfit::kv_block cache;
  std::vector<kvfit::query_block> blocks;
  std::vector<kvfit::matrix> masks;
  std::vector<kvfit::row_view> views;
};

compact_options options_of(const memory_case& one, const kvfit::presets::preset& preset) {
  compact_options options = cut_short(preset, one.budget);
  options.rule = one.rule;
  options.protect.first = options.protect.last = one.protect;
  if (one.held_out) options.queries.held_out = *one.held_out;
  if (one.queries_per_row) {
    options.queries.per_row = *one.queries_per_row;
    options.queries.at_least = 1;
  }
  if (one.selection_memory) options.memory.selection = *one.selection_memory;
  options.precision = one.precision;
  return options;
}

/// What the call held at most, and what came of it.
struct measured_call {
  std::ptrdiff_t peak = 0;
  kvfit::result<kvfit::compacted> fitted;
};

measured_call measure(const memory_call& call, const compact_options& options) {
  measured_call out{0, kvfit::error{}};
  out.peak = count_allocations([&] {
               out.fitted = try_compact(call.cache, call.queries(), options);
             }).peak_bytes;
  return out;
}

kvfit::memory_report planned(const memory_call& call, const compact_options& options) {
  const auto plan = kvfit::planned_memory(kvfit::sizes_of(call.cache, call.queries()), options);
  REQUIRE(plan);
  return *plan;
}

bool same_report(const kvfit::memory_report& a, const kvfit::memory_report& b) {
  return a.needed == b.needed && a.wanted == b.wanted && a.result == b.result &&
         a.is_complete == b.is_complete && a.lowers_selection == b.lowers_selection &&
         a.panels_at_once == b.panels_at_once && a.lowers_refinement == b.lowers_refinement &&
         a.lowers_queries == b.lowers_queries && a.selection_memory == b.selection_memory &&
         a.refine_batch == b.refine_batch && a.refine_sets_at_once == b.refine_sets_at_once &&
         a.fitted_queries == b.fitted_queries;
}

}  // namespace

TEST_CASE("no preset holds more than was estimated, whatever the sizes", "[compact][memory]") {
  if (!can_count) return;
  const std::vector<memory_case> cases = {
      {"small", {}, 7},
      {"two heads", {.queries = 900, .keys = 700, .width = 24}, 60, {350}},
      {"fewer queries than kept", {.queries = 40, .keys = 300}, 100},
      {"long", {.queries = 400, .keys = 6000, .depth = 8}, 30},
      {"streamed", {.queries = 300, .keys = 3000, .depth = 8}, 30, {}, false, {}, 0, {}, {}, 0},
      {"folded alone",
       {.queries = 900, .keys = 2000, .depth = 8, .width = 4},
       40,
       {},
       false,
       {},
       0,
       0.02,
       {},
       kvfit::index_t{6400000}},
      {"thinned",
       {.queries = 3000, .keys = 200, .depth = 8},
       20,
       {1000, 2000},
       false,
       {},
       4,
       0.1,
       20},
      {"judged by half", {.queries = 600, .keys = 300}, 40, {}, false, {.soft_cap = 30}, 0, 0.5},
      {"masked", {.queries = 200, .keys = 400}, 30, {90}, true, {.causal = true}, 3},
      {.name = "by three products",
       .shape = {.queries = 400, .keys = 1500, .depth = 64, .width = 64},
       .budget = 20,
       .precision = kvfit::precision_kind::bf16x3},
      {"many kept", {.queries = 500, .keys = 600, .depth = 8}, 300},
      {"identity", {.queries = 20, .keys = 900, .depth = 64}, 900},
  };
  // The others do with memory what one of these does.
  const std::vector<std::string_view> distinct = {"topk",
                                                  "expected_attention",
                                                  "highest_attention",
                                                  "omp_fast",
                                                  "gradient_joint",
                                                  "zero_bias",
                                                  "joint",
                                                  "refined"};
  for (const memory_case& one : cases) {
    const memory_call call(one);
    const bool is_long = one.shape.keys * one.shape.queries > 500000;
    for (const auto& preset : kvfit::presets::all) {
      // Expected attention has no model of masks and soft caps.
      if (preset.name == "expected_attention" && (one.has_mask || one.rule.soft_cap > 0)) continue;
      if (is_long && std::find(distinct.begin(), distinct.end(), preset.name) == distinct.end()) {
        continue;
      }
      if (one.budget == 300 && preset.name != "zero_bias" && preset.name != "joint") continue;
      const compact_options options = options_of(one, preset);
      const kvfit::memory_report plan = planned(call, options);
      const measured_call ran = measure(call, options);
      REQUIRE(ran.fitted);
      CAPTURE(one.name, preset.name, ran.peak, plan.needed);
      CHECK(plan.is_complete);
      CHECK(plan.wanted == plan.needed);
      CHECK(ran.peak <= plan.needed);
      CHECK(plan.result < plan.needed);
      CHECK(same_report(plan, ran.fitted->report.memory));
    }
  }
}

TEST_CASE("G: tied values hold no more than was estimated", "[compact][memory][tied]") {
  if (!can_count) return;
  const std::vector<memory_case> cases = {
      {"tied", {.queries = 900, .keys = 700, .depth = 24, .width = 16}, 60, {350}},
      {"tied, masked, protected",
       {.queries = 200, .keys = 400},
       30,
       {90},
       true,
       {.causal = true},
       3},
      {"tied, soft-capped", {.queries = 600, .keys = 300}, 40, {}, false, {.soft_cap = 30}, 0, 0.5},
      {"tied latents", {.queries = 256, .keys = 500, .depth = 288, .width = 256}, 20, {64, 128}},
      {"tied, many kept", {.queries = 500, .keys = 600, .depth = 8, .width = 8}, 300},
      {"tied identity", {.queries = 20, .keys = 900, .depth = 64, .width = 64}, 900},
  };
  for (const memory_case& one : cases) {
    memory_call call(one);
    call.cache.values = call.cache.keys.middle_cols(0, one.shape.width);
    for (const char* name : {"joint", "refined", "highest_attention"}) {
      compact_options options =
          kvfit::presets::tied(options_of(one, *kvfit::presets::find(name)), 0);
      for (const bool is_still : {false, true}) {
        if (is_still) options.refine.steps = 0;
        const kvfit::memory_report plan = planned(call, options);
        const measured_call ran = measure(call, options);
        CAPTURE(one.name, name, is_still, ran.peak, plan.needed);
        REQUIRE(ran.fitted);
        CHECK(ran.peak <= plan.needed);
        CHECK(same_report(plan, ran.fitted->report.memory));
      }
    }
  }
}

TEST_CASE("copies of a prior are counted", "[compact][memory][prior]") {
  if (!can_count) return;
  const head made = make_head(4, {.queries = 16, .keys = 400'000, .depth = 2, .width = 2});
  compact_options options{.budget = 8};
  options.selection =
      kvfit::selection::joint{.attention_share = 1, .prior = std::vector<float>(400'000, 1.0F)};
  options.bias = kvfit::bias::zero{};
  options.values = kvfit::values::copy{};
  options.replace_dead_keys = false;
  options.queries.held_out = 0;
  const auto cache = made.cache();
  const std::ptrdiff_t peak = count_allocations([&] {
                                const auto c = kvfit::compact(cache, made.queries, options);
                                REQUIRE(c);
                              }).peak_bytes;
  const auto plan = kvfit::planned_memory(kvfit::sizes_of(cache, made.queries), options);
  REQUIRE(plan);
  CHECK(peak <= plan->needed);
  options.selection.get_if<kvfit::selection::joint>()->prior.pop_back();
  const auto refused = kvfit::planned_memory(kvfit::sizes_of(cache, made.queries), options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::shape_mismatch);
  CHECK(refused.error().argument == "joint.prior");
}

TEST_CASE("threads in the fits are counted", "[compact][memory][threads]") {
  if (!can_count) return;
  const memory_call call({"many kept", {.queries = 800, .keys = 600, .depth = 64}, 200, {350}});
  kvfit::thread_pool pool(3);
  for (const std::string_view name : {"highest_attention", "joint"}) {
    compact_options options = cut_short(*kvfit::presets::find(name), 200);
    options.queries.per_row = 0;
    kvfit::result<kvfit::compacted> fitted = kvfit::error{};
    const auto peak = count_allocations([&] {
                        fitted = try_compact(call.cache, call.queries(), options, {}, pool);
                      }).peak_bytes;
    REQUIRE(fitted);
    CAPTURE(name, peak);
    CHECK(peak <= fitted->report.memory.needed);
    CHECK(fitted->report.memory.needed < 3 * peak);
  }
}

TEST_CASE("threads are counted, and given up first", "[compact][memory][threads]") {
  if (!can_count) return;
  const memory_call call({"long", {.queries = 400, .keys = 20000, .depth = 8}, 30});
  kvfit::thread_pool pool(3);
  for (const std::string_view name : {"highest_attention", "joint"}) {
    compact_options options = cut_short(*kvfit::presets::find(name), 30);
    const auto alone = planned(call, options);
    const auto plan =
        kvfit::planned_memory(kvfit::sizes_of(call.cache, call.queries(), pool), options);
    REQUIRE(plan);
    CHECK(plan->panels_at_once == 3);
    const auto run = [&] {
      kvfit::result<kvfit::compacted> fitted = kvfit::error{};
      const auto peak = count_allocations([&] {
                          fitted = try_compact(call.cache, call.queries(), options, {}, pool);
                        }).peak_bytes;
      REQUIRE(fitted);
      CAPTURE(name, peak, plan->needed);
      CHECK(peak <= fitted->report.memory.needed);
      return fitted->report.memory;
    };
    CHECK(same_report(run(), *plan));
    if (plan->needed == alone.needed) continue;  // the pass is not where it holds most
    options.memory.cap = plan->needed - 1;
    const kvfit::memory_report capped = run();
    CHECK(capped.panels_at_once == 1);
    CHECK_FALSE(capped.lowers_selection);
    CHECK(capped.needed <= *options.memory.cap);
  }
  kvfit::compaction_sizes sizes = kvfit::sizes_of(call.cache, call.queries());
  sizes.threads = 0;
  const auto refused = kvfit::planned_memory(sizes, compact_options{.budget = 5});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().argument == "threads");
}

TEST_CASE("the estimate of a large call is no more than twice what it takes", "[compact][memory]") {
  if (!can_count) return;
  const memory_call call({"large", {.queries = 700, .keys = 8192, .depth = 32, .width = 32}, 48});
  for (const std::string_view name : {"topk", "expected_attention", "highest_attention", "omp_fast",
                                      "gradient_joint", "zero_bias", "joint", "refined"}) {
    compact_options options = cut_short(*kvfit::presets::find(name), 48);
    for (const kvfit::index_t selection_memory : {options.memory.selection, kvfit::index_t{0}}) {
      options.memory.selection = selection_memory;
      if (selection_memory == 0 && name != "omp_fast") continue;
      const kvfit::memory_report plan = planned(call, options);
      const measured_call ran = measure(call, options);
      REQUIRE(ran.fitted);
      CAPTURE(name, selection_memory, ran.peak, plan.needed);
      CHECK(ran.peak <= plan.needed);
      CHECK(plan.needed <= 2 * ran.peak);
    }
  }
}

TEST_CASE("§9.26 a cap is kept or refused, and what it took is reported in the documented order",
          "[compact][memory]") {
  if (!can_count) return;
  const memory_call call({"capped", {.queries = 2000, .keys = 800, .depth = 8}, 20});
  bool is_seen[3] = {};
  for (const std::string_view name :
       {"topk", "highest_attention", "omp_fast", "joint", "refined"}) {
    compact_options options = cut_short(*kvfit::presets::find(name), 20);
    options.refine.sets = std::min(options.refine.sets, 4);
    const kvfit::memory_report free = planned(call, options);
    const measured_call whole = measure(call, options);
    REQUIRE(whole.fitted);
    options.memory.cap = free.wanted;
    const measured_call enough = measure(call, options);
    REQUIRE(enough.fitted);
    CHECK(same_result(*enough.fitted, *whole.fitted));
    CHECK(same_report(enough.fitted->report.memory, free));

    kvfit::index_t cap = free.wanted;
    kvfit::index_t least = 0;
    for (;; cap -= cap / 5) {
      options.memory.cap = cap;
      const auto plan = kvfit::planned_memory(kvfit::sizes_of(call.cache, call.queries()), options);
      const measured_call ran = measure(call, options);
      REQUIRE(plan.has_value() == ran.fitted.has_value());
      if (!plan) {
        CHECK(plan.error().code == errc::memory_cap_exceeded);
        CHECK(ran.fitted.error().code == errc::memory_cap_exceeded);
        CHECK(ran.fitted.error().actual == plan.error().actual);
        CHECK(ran.fitted.error().expected == cap);
        CHECK(ran.fitted.error().actual > cap);
        CHECK(ran.peak < 300000);  // the inputs were read, and nothing more
        least = plan.error().actual;
        break;
      }
      CAPTURE(name, cap, ran.peak, plan->needed);
      CHECK(ran.peak <= cap);
      CHECK(plan->needed <= cap);
      CHECK(plan->wanted == free.wanted);
      CHECK(same_report(*plan, ran.fitted->report.memory));
      CHECK(ran.fitted->positions.size() == 20);
      CHECK(ran.fitted->values.allFinite());
      const bool is_lowered =
          plan->lowers_selection || plan->lowers_refinement || plan->lowers_queries;
      CHECK(is_lowered == (cap < free.wanted));
      // A later step is taken only where all before it, taken as far as they go, do not do.
      if (plan->lowers_refinement || plan->lowers_queries) {
        CHECK(plan->needed < free.wanted);
      }
      CHECK(plan->lowers_queries == (plan->fitted_queries < free.fitted_queries));
      CHECK(plan->fitted_queries >= 256);
      is_seen[0] = is_seen[0] || plan->lowers_selection;
      is_seen[1] = is_seen[1] || plan->lowers_refinement;
      is_seen[2] = is_seen[2] || plan->lowers_queries;
    }
    // What the refusal names is enough, and a byte less is not.
    options.memory.cap = least;
    const measured_call barely = measure(call, options);
    CAPTURE(name, least, barely.peak);
    REQUIRE(barely.fitted);
    CHECK(barely.peak <= least);
    options.memory.cap = least - 1;
    CHECK_FALSE(try_compact(call.cache, call.queries(), options));
  }
  for (const bool is_one : is_seen) CHECK(is_one);
}

TEST_CASE("recomputing under a cap chooses the rows that storing chooses", "[compact][memory]") {
  const memory_call call({"recomputed", {.queries = 300, .keys = 3000, .depth = 8}, 24});
  for (const std::string_view name : {"omp", "joint"}) {
    compact_options options = kvfit::presets::find(name)->make(24);
    // Among some keys the search makes its columns anew, once, whatever the cap.
    if (name == "joint") options.selection = kvfit::selection::joint{.candidates = 0};
    const auto stored = try_compact(call.cache, call.queries(), options);
    const kvfit::index_t all = 4 * 300 * 3000;
    // Neither all columns nor a copy in bf16 find place.
    options.memory.cap = planned(call, options).wanted - all * 3 / 5;
    const auto remade = try_compact(call.cache, call.queries(), options);
    CAPTURE(name);
    REQUIRE(stored);
    REQUIRE(remade);
    CHECK_FALSE(stored->report.selection.recomputed);
    CHECK(remade->report.selection.recomputed);
    CHECK(remade->report.memory.lowers_selection);
    CHECK_FALSE(remade->report.memory.lowers_queries);
    CHECK(remade->positions == stored->positions);
  }
}

TEST_CASE("where the queries chosen see nothing, all of them are counted", "[compact][memory]") {
  if (!can_count) return;
  const head made = make_head(4, {.queries = 2000, .keys = 300});
  kvfit::matrix mask = kvfit::matrix::Constant(2000, 300, hidden_key);
  for (kvfit::index_t i = 7; i < 2000; i += 8) mask.row(i).setZero();  // those held out
  const std::vector<kvfit::row_view> masks = {mask};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  compact_options options{.budget = 20, .queries = {.held_out = 0.125, .per_row = 5}};
  options.queries.at_least = 100;
  const kvfit::query_block block(made.queries);
  const auto sizes = kvfit::sizes_of(cache, block);
  const auto plan = kvfit::planned_memory(sizes, options);
  REQUIRE(plan);
  CHECK(plan->fitted_queries < 300);
  kvfit::result<kvfit::compacted> fitted = kvfit::error{};
  const auto held =
      count_allocations([&] { fitted = try_compact(cache, block, options); }).peak_bytes;
  REQUIRE(fitted);
  CHECK(fitted->report.masked_queries == 1750);
  CHECK(held <= plan->needed);
  // Under a cap that leaves no room for them all, as many as were chosen are spread over all.
  options.memory.cap = 0;
  const auto refused = kvfit::planned_memory(sizes, options);
  REQUIRE_FALSE(refused);
  options.memory.cap = refused.error().actual;
  CHECK(2 * *options.memory.cap < plan->wanted);
  const auto small = kvfit::planned_memory(sizes, options);
  REQUIRE(small);
  CHECK(small->lowers_queries);
  const auto capped =
      count_allocations([&] { fitted = try_compact(cache, block, options); }).peak_bytes;
  CHECK(capped <= *options.memory.cap);
  REQUIRE(fitted);
  CHECK(fitted->report.masked_queries < 300);
}

TEST_CASE("what can't be planned is refused as compact() refuses it", "[compact][memory]") {
  const kvfit::compaction_sizes sizes{.keys = 100, .depth = 8, .width = 8, .query_rows = {50, 50}};
  const auto refusal = [](const kvfit::compaction_sizes& of, const compact_options& options) {
    const auto plan = kvfit::planned_memory(of, options);
    REQUIRE_FALSE(plan);
    return plan.error();
  };
  REQUIRE(kvfit::planned_memory(sizes, {.budget = 10}));
  CHECK(refusal(sizes, {.budget = 0}).code == errc::budget_out_of_range);
  CHECK(refusal(sizes, {.budget = 10, .memory = {.cap = -1}}).code == errc::invalid_option);
  CHECK(refusal(sizes, {.budget = 10, .memory = {.cap = -1}}).argument == "memory.cap");
  CHECK(refusal(sizes, {.budget = 10, .memory = {.cap = 0}}).code == errc::memory_cap_exceeded);
  auto without = sizes;
  without.keys = 0;
  CHECK(refusal(without, {.budget = 10}).argument == "keys");
  without = sizes;
  without.query_rows = {50, 0};
  CHECK(refusal(without, {.budget = 10}).argument == "query_rows");
  // Sizes that no machine has overflow nothing.
  auto huge = sizes;
  huge.keys = kvfit::index_t{1} << 53;
  huge.query_rows = {kvfit::index_t{1} << 53};
  for (const auto& preset : kvfit::presets::all) {
    compact_options options = preset.make(kvfit::index_t{1} << 50);
    options.refine.sets = options.refine.sets_at_once = std::numeric_limits<int>::max();
    options.queries.per_row = std::numeric_limits<kvfit::index_t>::max();
    const auto of_huge = kvfit::planned_memory(huge, options);
    REQUIRE(of_huge);
    CHECK(of_huge->needed == 9000000000000000000);
    options.memory.cap = 1000;
    CHECK(refusal(huge, options).code == errc::memory_cap_exceeded);
  }
  huge.query_rows.push_back(1);
  CHECK(refusal(huge, {.budget = 10}).argument == "query_rows");
}

TEST_CASE("where joint selection looks among some keys, no n x T numbers are held",
          "[compact][memory]") {
  const kvfit::compaction_sizes sizes{
      .keys = 65536, .depth = 128, .width = 128, .query_rows = {4096}};
  const auto planned = kvfit::planned_memory(sizes, kvfit::presets::joint(1024));
  auto options = kvfit::presets::joint(1024);
  options.selection = kvfit::selection::joint{.candidates = 0};
  const auto among_all = kvfit::planned_memory(sizes, options);
  REQUIRE(planned);
  REQUIRE(among_all);
  const double all = 4.0 * 65536 * 4096;
  CHECK(static_cast<double>(planned->needed) < 0.4 * all);
  CHECK(static_cast<double>(among_all->needed) > all);
}

TEST_CASE("a cap is kept among candidates: many rows, wide values, dead keys that give way",
          "[compact][memory]") {
  if (!can_count) return;
  struct sizes {
    kvfit::index_t queries, keys, depth, width, budget;
  };
  const sizes all[] = {{40, 2731, 8, 8, 500}, {257, 5000, 4, 1, 500}, {1100, 3000, 8, 256, 24}};
  for (const sizes& of : all) {
    const kvfit::matrix keys = random_matrix(of.keys, of.depth, 1);
    const kvfit::matrix values = random_matrix(of.keys, of.width, 2);
    const kvfit::matrix queries = 3 * random_matrix(of.queries, of.depth, 3);
    for (const double share : {0.0, 0.85}) {
      compact_options options{.budget = of.budget};
      options.selection = kvfit::selection::joint{.attention_share = share};
      options.refine.steps = 0;
      if (share > 0) {
        REQUIRE(kvfit::detail::search_candidates({.attention_share = share}, of.keys, of.budget) <
                of.keys);
      }
      options.memory.cap = 1;
      const auto refused = kvfit::compact(keys, values, queries, options);
      REQUIRE_FALSE(refused);
      for (const double times : {1.0, 1.5, 10.0}) {
        options.memory.cap =
            static_cast<kvfit::index_t>(times * static_cast<double>(refused.error().actual));
        kvfit::result<kvfit::compacted> fitted = kvfit::error{};
        const auto peak = count_allocations([&] {
                            fitted = kvfit::compact(keys, values, queries, options);
                          }).peak_bytes;
        CAPTURE(of.queries, of.keys, of.width, of.budget, share, times);
        REQUIRE(fitted);
        CHECK(peak <= *options.memory.cap);
      }
    }
  }
}
