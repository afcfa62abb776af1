// SPDX-License-Identifier: MIT
// Layers that read one layer's keys and values: several entries of queries name it.
#include <span>
#include <string>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/compact_chunks.hpp"
#include "kvfit/cache/global_ranking.hpp"
#include "kvfit/cache/queries_of_layer.hpp"
#include "kvfit/cache/rolling.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/cache/zero_bias_refit.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/queries/held_out_judge.hpp"
#include "kvfit/queries/refit_by_layers.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::cache_queries;
using kvfit::errc;
using kvfit::query_block;

namespace {

/// A layer 3 of two KV heads that is read by itself, with two query heads a KV head, and by another
/// layer with three; and a layer 5 that is read by itself alone.
struct shared_layer_case {
  cache_case own{{{.number = 3, .rows = 64}, {.number = 5, .rows = 80, .key_size = 10}}};
  std::vector<kvfit::matrix> memory;
  kvfit::layer_queries other{.layer = 3, .heads = {}};
  cache_queries queries;                       ///< layer 3's own, layer 5's, those of the reader
  std::vector<std::vector<query_block>> head;  ///< of layer 3, put together by hand

  shared_layer_case() {
    memory.reserve(6);
    for (std::uint64_t h = 0; h < 6; ++h) {
      memory.push_back(4 * random_matrix(40 + static_cast<kvfit::index_t>(h), 8, 100 + h));
      other.heads.emplace_back(kvfit::row_view(memory.back()));
    }
    queries = own.queries;
    queries.push_back(other);
    for (std::size_t h = 0; h < 2; ++h) {
      const auto first = own.pair(0, h);
      std::vector<query_block>& blocks = head.emplace_back(first.begin(), first.end());
      for (std::size_t g = 0; g < 3; ++g) blocks.push_back(other.heads[3 * h + g]);
    }
  }
};

kvfit::cache_options few_queries(kvfit::index_t budget) {
  kvfit::cache_options options{.budget = budget};
  options.head.selection = kvfit::selection::highest_attention{};
  return options;
}

std::string refused_argument(const kvfit::cache_view& view, const cache_queries& queries,
                             const kvfit::cache_options& options) {
  const auto found = compact_cache(view, queries, options);
  REQUIRE_FALSE(found);
  return found.error().message();
}

}  // namespace

TEST_CASE("B: queries of two layers that share one cache are both used", "[cache][shared_layers]") {
  const shared_layer_case given;
  const auto options = few_queries(36);
  const auto both = compact_cache(given.own.view, given.queries, options);
  REQUIRE(both);
  for (std::size_t h = 0; h < 2; ++h) {
    auto own = options.head;
    own.budget = both->layers[0].heads[h].rows;
    const auto alone = kvfit::compact(given.own.view.layers[0].heads[h],
                                      std::span<const query_block>(given.head[h]), own);
    REQUIRE(alone);
    CHECK(is_head(both->layers[0], h, *alone));
    CHECK(both->layers[0].heads[h].report.train.queries == alone->report.train.queries);
  }
  const auto first_alone = compact_cache(given.own.view, given.own.queries, options);
  REQUIRE(first_alone);
  CHECK_FALSE(same_layer(both->layers[0], first_alone->layers[0]));
  CHECK(same_layer(both->layers[1], first_alone->layers[1]));

  // The order of entries is that of a head's blocks; entries of one layer need not be neighbours.
  cache_queries apart = {given.queries[0], given.queries[2], given.queries[1]};
  const auto same = compact_cache(given.own.view, apart, options);
  REQUIRE(same);
  CHECK(same_cache(*same, *both));
}

TEST_CASE("B: blocks of several entries are grouped by KV head, entry after entry",
          "[cache][shared_layers]") {
  const shared_layer_case given;
  const auto all = kvfit::queries_of_layer(given.queries, 3, 2);
  REQUIRE(all);
  REQUIRE(all->size() == 10);
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t b = 0; b < 5; ++b) {
      const query_block& block = (*all)[5 * h + b];
      CHECK(block.rows.rows() == given.head[h][b].rows.rows());
      CHECK(block.rows(0, 0) == given.head[h][b].rows(0, 0));
    }
  }
  CHECK(kvfit::queries_of_layer(given.queries, 4, 2).error().code == errc::missing_entry);
  CHECK(kvfit::queries_of_layer(given.queries, 3, 0).error().code == errc::empty_input);
}

TEST_CASE("B: every entry must be a multiple of the KV heads by itself", "[cache][shared_layers]") {
  shared_layer_case given;
  given.queries[0].heads.pop_back();  // three, and seven: ten together, which two divides
  given.queries[2].heads.push_back(given.other.heads[0]);
  CHECK(refused_argument(given.own.view, given.queries, few_queries(36)) ==
        "shape_mismatch: layer 3: query heads: 3, expected 2 (must be a multiple of the KV heads; "
        "entry 0 of this layer)");
  given = shared_layer_case();
  given.queries[2].heads.clear();
  CHECK(refused_argument(given.own.view, given.queries, few_queries(36)) ==
        "shape_mismatch: layer 3: query heads: 0, expected 2 (must be a multiple of the KV heads; "
        "entry 1 of this layer)");
}

TEST_CASE("B: queries of a layer that the cache does not have are refused by its number",
          "[cache][shared_layers]") {
  shared_layer_case given;
  given.queries[2].layer = 4;
  const std::string refusal = "invalid_option: queries of layer 4 (the cache has no such layer)";
  auto options = few_queries(36);
  CHECK(refused_argument(given.own.view, given.queries, options) == refusal);
  CHECK(kvfit::held_out_judge::make(given.own.view, given.queries).error().message() == refusal);
  const auto chunks = kvfit::plan_chunks(*kvfit::split_by_length({0, 64}, 32), 64, 2, 12);
  REQUIRE(chunks);
  options.skip = {5};
  const auto text = compact_chunks(given.own.view, std::span(&given.queries, 1), *chunks, options,
                                   kvfit::serial{});
  REQUIRE_FALSE(text);
  CHECK(text.error().argument == "queries of layer 4");
}

TEST_CASE("B: queries of sliding and skipped layers may be given, and are not used",
          "[cache][shared_layers]") {
  cache_case given({{.number = 0}, {.number = 1}, {.number = 2}});
  given.view.layers[1].kind = kvfit::layer_kind::sliding;
  auto options = few_queries(16);
  options.skip = {2};
  const auto with = compact_cache(given.view, given.queries, options);
  REQUIRE(with);
  const cache_queries first = {given.queries[0]};
  const auto without = compact_cache(given.view, first, options);
  REQUIRE(without);
  CHECK(same_cache(*with, *without));
  // Pieces, too, whose own view has the layers.
  const auto chunks = kvfit::plan_chunks(*kvfit::split_by_length({0, 64}, 32), 64, 2, 12);
  REQUIRE(chunks);
  const auto text =
      compact_chunks(given.view, std::span(&given.queries, 1), *chunks, options, kvfit::serial{});
  const auto fewer =
      compact_chunks(given.view, std::span(&first, 1), *chunks, options, kvfit::serial{});
  REQUIRE(text);
  REQUIRE(fewer);
  CHECK(same_cache(text->cache, fewer->cache));
}

TEST_CASE("B: masks stand one for each block of all entries", "[cache][shared_layers]") {
  shared_layer_case given;
  kvfit::cache_view view{{given.own.view.layers[0]}};
  const cache_queries queries = {given.queries[0], given.queries[2]};
  std::vector<std::vector<kvfit::matrix>> masks(2);
  std::vector<std::vector<kvfit::row_view>> views(2);
  for (std::size_t h = 0; h < 2; ++h) {
    for (const query_block& block : given.head[h]) {
      masks[h].push_back(kvfit::matrix::Zero(block.rows.rows(), 64));
    }
    masks[h].back().leftCols(40).setConstant(-3);  // of the reader's last head alone
    for (const kvfit::matrix& mask : masks[h]) views[h].emplace_back(mask);
    view.layers[0].heads[h].masks = views[h];
  }
  const auto options = few_queries(16);
  const auto masked = compact_cache(view, queries, options);
  REQUIRE(masked);
  auto own = options.head;
  own.budget = masked->layers[0].heads[1].rows;
  const auto alone =
      kvfit::compact(view.layers[0].heads[1], std::span<const query_block>(given.head[1]), own);
  REQUIRE(alone);
  CHECK(is_head(masked->layers[0], 1, *alone));
  view.layers[0].heads[0].masks = std::span(views[0]).first(2);  // of the first entry alone
  const auto refused = compact_cache(view, queries, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().argument == "L3H0: masks");
  CHECK(refused.error().expected == 5);
}

TEST_CASE("B: plans, rankings and memory count the queries of all entries",
          "[cache][shared_layers]") {
  const shared_layer_case given;
  const auto tasks = kvfit::tasks_of(given.own.view, given.queries);
  REQUIRE(tasks);
  CHECK((*tasks)[0].queries.size() == 5);
  CHECK((*tasks)[2].queries.size() == 2);
  // A global ranking by both entries' attention.
  auto options = few_queries(36);
  options.shares = kvfit::budgets::global_ranking{};
  const auto plan = plan_cache(given.own.view, given.queries, options, kvfit::serial{});
  REQUIRE(plan);
  std::vector<std::vector<float>> importance;
  for (const kvfit::head_task& task : *tasks) {
    const bool is_shared = task.id.layer == 3;
    const auto head = static_cast<std::size_t>(task.id.head);
    const auto blocks =
        is_shared ? std::span<const query_block>(given.head[head]) : given.own.pair(1, head);
    const auto scores =
        kvfit::score_pass(task.block, blocks, {}, wanted_scores(options.head.selection));
    REQUIRE(scores);
    importance.emplace_back(scores->importance.begin(), scores->importance.end());
  }
  const std::vector<kvfit::row_bounds> bounds = {{1, 64}, {1, 64}, {1, 80}, {1, 80}};
  CHECK(plan->rows == *kvfit::rank_globally(importance, bounds, 36));
  // Memory is planned for the queries of both entries.
  const auto planned = [&](std::span<const query_block> blocks) {
    auto own = options.head;
    own.budget = 9;
    const auto memory =
        kvfit::planned_memory(kvfit::sizes_of((*tasks)[0].block, kvfit::query_set(blocks)), own);
    REQUIRE(memory);
    return *memory;
  };
  const auto of_both = planned((*tasks)[0].queries);
  CHECK(of_both.needed == planned(given.head[0]).needed);
  CHECK(of_both.fitted_queries == planned(given.head[0]).fitted_queries);
  CHECK(of_both.fitted_queries > planned(given.own.pair(0, 0)).fitted_queries);
}

TEST_CASE("B: refits, shared positions, judges and rounds use the queries of all entries",
          "[cache][shared_layers]") {
  const shared_layer_case given;
  const auto options = few_queries(36);
  const auto both = compact_cache(given.own.view, given.queries, options);
  REQUIRE(both);
  const kvfit::cache_layer& layer = given.own.view.layers[0];
  const auto asked = kvfit::queries_of_layer(given.queries, 3, 2);
  REQUIRE(asked);
  const auto shared = kvfit::share_positions(layer, both->layers[0], *asked, options.head);
  REQUIRE(shared);
  CHECK(shared->heads[0].rows == shared->heads[1].rows);
  const auto bare = kvfit::refit_without_bias(layer, both->layers[0], *asked, options.head);
  REQUIRE(bare);
  CHECK(bare->bias.isZero());

  // The judge: as with one entry of all blocks.
  const cache_queries one = {{.layer = 3, .heads = *asked}, given.queries[1]};
  const auto joined = kvfit::held_out_judge::make(given.own.view, one);
  const auto apart = kvfit::held_out_judge::make(given.own.view, given.queries);
  const auto first = kvfit::held_out_judge::make(given.own.view, given.own.queries);
  REQUIRE(joined);
  REQUIRE(apart);
  REQUIRE(first);
  CHECK(*(*apart)(*both) == *(*joined)(*both));
  CHECK(*(*apart)(*both) != *(*first)(*both));

  // A round of a rolling cache: as with one entry.
  kvfit::rolling_options rounds{.trigger = 40, .target = 16, .sinks = 2, .recent = 4};
  rounds.cache.head = options.head;
  kvfit::cache_view view{{layer}};
  const cache_queries entries = {given.queries[0], given.queries[2]};
  std::vector<std::shared_ptr<const kvfit::compacted_cache>> made;
  for (const cache_queries& way : {entries, cache_queries{one[0]}}) {
    auto roll = kvfit::rolling_cache::make(rounds);
    REQUIRE(roll);
    REQUIRE(roll->append(64));
    const auto round = roll->begin(view);
    REQUIRE(round);
    REQUIRE(roll->apply(round->run(way, kvfit::serial{})));
    made.push_back(roll->block());
  }
  CHECK(same_cache(*made[0], *made[1]));
}

TEST_CASE("B: a compacted layer that stands twice is refused where layers are looked up",
          "[cache][shared_layers]") {
  const shared_layer_case given;
  auto twice = compact_cache(given.own.view, given.queries, few_queries(36));
  REQUIRE(twice);
  const auto judge = kvfit::held_out_judge::make(given.own.view, given.queries);
  REQUIRE(judge);
  REQUIRE((*judge)(*twice));
  twice->layers.insert(twice->layers.begin(), twice->layers.front());
  CHECK((*judge)(*twice).error().code == errc::invalid_option);
  CHECK((*judge)(*twice).error().actual == 3);
  kvfit::cache_view view = given.own.view;
  view.layers.push_back(view.layers.back());
  CHECK(kvfit::prefix_of(view, 8, 80).error().code == errc::invalid_option);
}

}  // namespace kvfit_test
