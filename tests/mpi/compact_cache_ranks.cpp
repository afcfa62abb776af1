// SPDX-License-Identifier: MIT
#include <algorithm>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/compact_cache_mpi.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "mpi/world.hpp"
#include "support/catch.hpp"

using kvfit::any_budget;
using kvfit::cache_options;
using kvfit::compact_cache;
using kvfit::errc;
using kvfit::mpi_ranks;
using kvfit::rank_holds;
using kvfit_test::cache_case;
using kvfit_test::error_of_all;
using kvfit_test::on_all;
using kvfit_test::world;

namespace {

/// Three global layers of seven heads, 496 rows, and one that slides.
cache_case four_layers() {
  cache_case given({{.number = 0, .rows = 64},
                    {.number = 1, .rows = 16},
                    {.number = 3, .heads = 3, .rows = 96, .key_size = 10},
                    {.number = 4, .rows = 40, .value_size = 5}});
  given.view.layers[1].kind = kvfit::layer_kind::sliding;
  given.queries.erase(given.queries.begin() + 1);  // nobody asks a sliding layer
  return given;
}

constexpr std::size_t all_heads = 7;

cache_options options_with(const any_budget& shares) {
  cache_options options{.budget = 60, .shares = shares};
  options.head.selection = kvfit::selection::highest_attention{};
  return options;
}

/// Every budget policy, for those seven heads.
std::vector<any_budget> every_budget() {
  kvfit::budgets::influence curves;
  for (const double worth : {1.0, 3.0, 8.0, 1.0, 2.0, 1.5, 4.0}) {
    curves.curves.push_back({{{2, worth}, {20, 0.3 * worth}, {30, 0.0}}});
  }
  kvfit::budgets::influence exact = curves;
  exact.exact = kvfit::dynamic_programming{};
  return {kvfit::budgets::uniform{},
          kvfit::budgets::pyramid{.last_share = 0.5},
          kvfit::budgets::given{{{{3, 1}, 0.25},
                                 {{0, 0}, 0.25},
                                 {{0, 1}, 0.1},
                                 {{4, 1}, 0.1},
                                 {{3, 0}, 0.2},
                                 {{4, 0}, 0.05},
                                 {{3, 2}, 0.05}}},
          curves,
          exact,
          kvfit::budgets::global_ranking{},
          kvfit::budgets::layer_ranking{},
          kvfit::budgets::rows{{7, 0, 200, 1, 12, 5, 40}}};
}

/// What one rank has of a cache: all of it, every size-th layer, or heads of each layer (of three
/// heads some of four ranks have none).
enum class part { all, layers, heads };

struct shard {
  kvfit::cache_view view;
  kvfit::cache_queries queries;
  std::vector<std::size_t> heads;  ///< its own among all that are compacted
  kvfit::rank_options spread;
};

shard shard_of(const mpi_ranks& ranks, const cache_case& given, part by) {
  if (by == part::all) return {given.view, given.queries, {}, {}};
  shard own;
  own.spread.holds = rank_holds::shard;
  const auto size = static_cast<std::size_t>(ranks.size());
  std::size_t number = 0;
  for (std::size_t l = 0; l < given.view.layers.size(); ++l) {
    const auto& layer = given.view.layers[l];
    const auto is_own = [&](std::size_t h) {
      return (by == part::layers ? l % size : h * size / layer.heads.size()) ==
             static_cast<std::size_t>(ranks.rank());
    };
    kvfit::cache_layer kept = layer;
    kept.heads.clear();
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      if (!is_own(h)) continue;
      kept.heads.push_back(layer.heads[h]);
      if (layer.kind == kvfit::layer_kind::global) own.heads.push_back(number + h);
    }
    if (layer.kind == kvfit::layer_kind::global) number += layer.heads.size();
    if (kept.heads.empty()) continue;
    own.view.layers.push_back(kept);
    for (const auto& entry : given.queries) {
      if (entry.layer != layer.number) continue;
      kvfit::layer_queries asked{.layer = layer.number, .heads = {}};
      const std::size_t group = entry.heads.size() / layer.heads.size();
      for (std::size_t q = 0; q < entry.heads.size(); ++q) {
        if (is_own(q / group)) asked.heads.push_back(entry.heads[q]);
      }
      own.queries.push_back(asked);
    }
  }
  return own;
}

/// The entries of the rank's own heads, where a policy has one for each.
any_budget own_part(const any_budget& shares, const shard& own) {
  if (own.spread.holds == rank_holds::whole) return shares;
  if (const auto* rows = std::get_if<kvfit::budgets::rows>(&shares)) {
    kvfit::budgets::rows part;
    for (const std::size_t head : own.heads) part.each.push_back(rows->each[head]);
    return part;
  }
  if (const auto* curves = std::get_if<kvfit::budgets::influence>(&shares)) {
    kvfit::budgets::influence part{{}, curves->exact};
    for (const std::size_t head : own.heads) part.curves.push_back(curves->curves[head]);
    return part;
  }
  return shares;
}

/// All but seconds.
bool same_report(const kvfit::head_report& a, const kvfit::head_report& b) {
  const auto& x = a.report;
  const auto& y = b.report;
  const auto same_errors = [](const kvfit::fidelity& p, const kvfit::fidelity& q) {
    return p.queries == q.queries && p.output_error == q.output_error &&
           p.output_error_max == q.output_error_max && p.mass_error == q.mass_error &&
           p.cosine_min == q.cosine_min;
  };
  return a.id == b.id && a.rows_before == b.rows_before && a.rows == b.rows &&
         a.outcome == b.outcome && a.cause.has_value() == b.cause.has_value() &&
         (!a.cause || a.cause->message() == b.cause->message()) && x.is_identity == y.is_identity &&
         same_errors(x.train, y.train) && x.held_out.has_value() == y.held_out.has_value() &&
         (!x.held_out || same_errors(*x.held_out, *y.held_out)) &&
         x.mass_residual == y.mass_residual && x.bias.objective == y.bias.objective &&
         x.values.rank == y.values.rank && x.dead_keys == y.dead_keys &&
         x.refinement.steps == y.refinement.steps;
}

std::vector<const kvfit::head_report*> reports_of(const kvfit::compacted_cache& cache) {
  std::vector<const kvfit::head_report*> reports;
  for (const auto& layer : cache.layers) {
    for (const auto& head : layer.heads) reports.push_back(&head);
  }
  return reports;
}

/// Whether every head of `part` is that of `whole`, bit for bit and in order.
bool is_part_of(const kvfit::compacted_cache& part, const kvfit::compacted_cache& whole) {
  for (const auto& layer : part.layers) {
    const auto from = std::find_if(whole.layers.begin(), whole.layers.end(),
                                   [&](const auto& of) { return of.number == layer.number; });
    if (from == whole.layers.end()) return false;
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const auto global = static_cast<std::size_t>(layer.heads[h].id.head);
      kvfit::compacted head;
      const kvfit::index_t first = from->offsets[global];
      const kvfit::index_t rows = from->rows(global);
      head.keys = from->keys.middleRows(first, rows);
      head.values = from->values.middleRows(first, rows);
      head.bias = from->bias.segment(first, rows);
      head.positions.assign(from->positions.begin() + first,
                            from->positions.begin() + first + rows);
      if (!kvfit_test::is_head(layer, h, head)) return false;
    }
  }
  return true;
}

/// What every rank must have, whichever way the heads were spread.
void check_sums(mpi_ranks& ranks, const kvfit::ranked_cache& found,
                const kvfit::compacted_cache& serial) {
  CHECK(found.rows == serial.rows);
  CHECK(found.rows_before == serial.rows_before);
  CHECK(found.fallbacks == serial.fallbacks);
  CHECK(found.cache.skipped == serial.skipped);
  const auto wanted = reports_of(serial);
  REQUIRE(
      on_all(ranks, found.heads.size() == wanted.size() && found.ranks.size() == wanted.size()));
  for (std::size_t h = 0; h < wanted.size(); ++h) {
    CHECK(same_report(found.heads[h], *wanted[h]));
    CHECK(found.ranks[h] >= 0);
    CHECK(found.ranks[h] < ranks.size());
  }
}

/// The serial call's bytes, reports and sums, whatever ranks hold and gather. The serial result.
kvfit::compacted_cache check_every_way(mpi_ranks& ranks, const cache_case& given,
                                       const cache_options& options) {
  const auto serial = compact_cache(given.view, given.queries, options);
  REQUIRE(serial);
  kvfit::thread_pool pool(2);
  for (const part by : {part::all, part::layers, part::heads}) {
    shard own = shard_of(ranks, given, by);
    cache_options asked = options;
    asked.shares = own_part(options.shares, own);
    for (const bool gathers : {true, false}) {
      own.spread.gathers_rows = gathers;
      const auto found = compact_cache(ranks, own.view, own.queries, asked, own.spread, pool);
      REQUIRE(found);
      check_sums(ranks, *found, *serial);
      if (gathers) {
        CHECK(kvfit_test::same_cache(*serial, found->cache));
        continue;
      }
      CHECK(is_part_of(found->cache, *serial));
      const auto count = static_cast<std::ptrdiff_t>(reports_of(found->cache).size());
      CHECK(count == std::count(found->ranks.begin(), found->ranks.end(), ranks.rank()));
      // Of five heads or more, four ranks have one each at least.
      if (by == part::all) CHECK(count > 0);
    }
  }
  return *serial;
}

/// A policy of a caller's own that throws for one head.
struct throws_in_layer_three {
  friend kvfit::score_options wanted_scores(const throws_in_layer_three&) { return {}; }
  friend kvfit::result<kvfit::selected_rows> select(const throws_in_layer_three&,
                                                    const kvfit::selection_problem& problem) {
    if (problem.cache.keys.cols() == 10) throw std::runtime_error("mine");
    return kvfit::selected_rows{.positions = {1}};
  }
};

/// The error, in the words that every rank has, however they hold the cache.
std::vector<std::string> errors_of(mpi_ranks& ranks, const cache_case& given,
                                   const cache_options& options) {
  std::vector<std::string> errors;
  for (const part by : {part::all, part::layers, part::heads}) {
    const shard own = shard_of(ranks, given, by);
    cache_options asked = options;
    asked.shares = own_part(options.shares, own);
    errors.push_back(
        error_of_all(ranks, compact_cache(ranks, own.view, own.queries, asked, own.spread)));
  }
  return errors;
}

}  // namespace

TEST_CASE("ranks give the serial bytes by every budget, whatever they hold and gather",
          "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  for (const any_budget& shares : every_budget()) {
    check_every_way(ranks, given, options_with(shares));
  }
}

TEST_CASE("B: queries of two layers that share one cache are both used on ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  const auto first_alone = compact_cache(given.view, given.queries, options_with({}));
  REQUIRE(first_alone);
  // A layer that reads the cache of layer 3: one query head a KV head.
  std::vector<kvfit::matrix> memory;
  memory.reserve(3);
  kvfit::layer_queries other{.layer = 3, .heads = {}};
  for (std::uint64_t h = 0; h < 3; ++h) {
    memory.push_back(3 * kvfit_test::random_matrix(40, 10, 50 + h));
    other.heads.emplace_back(kvfit::row_view(memory.back()));
  }
  given.queries.push_back(other);
  const auto both = check_every_way(ranks, given, options_with({}));
  CHECK_FALSE(kvfit_test::same_cache(both, *first_alone));
  check_every_way(ranks, given, options_with(kvfit::budgets::global_ranking{}));
}

TEST_CASE("the default composition gives the serial bytes on ranks", "[mpi][cache]") {
  mpi_ranks ranks = world(std::numeric_limits<int>::max());
  const cache_case given = four_layers();
  cache_options options{.budget = 62};
  options.skip = {4};
  options.head.storage.rows = kvfit::dtype::fp16;
  options.head.protect.first = 2;
  check_every_way(ranks, given, options);
  options.budget = 1'000;  // all rows stay
  CHECK(check_every_way(ranks, given, options).rows == 416);
}

TEST_CASE("rows hidden by their bias count on no rank", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  std::vector<float> bias(96, 0.0F);
  std::fill_n(bias.begin(), 60, -std::numeric_limits<float>::infinity());
  given.view.layers[2].heads[2].bias = bias;
  for (const any_budget& shares : every_budget()) {
    check_every_way(ranks, given, options_with(shares));
  }
}

TEST_CASE("a layer's own rule holds on the rank that has it", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  const auto without = compact_cache(given.view, given.queries, options_with({}));
  REQUIRE(without);
  given.view.layers[2].rule = kvfit::logit_rule{.soft_cap = 2};
  const auto with = check_every_way(ranks, given, options_with({}));
  CHECK_FALSE(kvfit_test::same_cache(with, *without));
  check_every_way(ranks, given, options_with(kvfit::budgets::global_ranking{}));
}

TEST_CASE("a head that fails on one rank fails all with the serial error", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  cache_options options = options_with(kvfit::budgets::global_ranking{});
  const auto check = [&] {
    const auto serial = compact_cache(given.view, given.queries, options);
    REQUIRE_FALSE(serial);
    for (const std::string& found : errors_of(ranks, given, options)) {
      CHECK(found == serial.error().message());
    }
    return serial.error();
  };
  kvfit::matrix bad = kvfit::matrix::Constant(96, 10, 1.0F);
  bad(5, 7) = std::numeric_limits<float>::quiet_NaN();
  SECTION("bad input in several heads") {
    given.view.layers[2].heads[1].keys = bad;
    given.view.layers[2].heads[2].keys = bad;
    CHECK(check().argument == "L3H1: keys");
  }
  SECTION("a head that no query sees") {
    for (const std::size_t l : {std::size_t{2}, std::size_t{3}}) {
      given.view.layers[l].rule = kvfit::logit_rule{.causal = true};
      given.view.layers[l].heads[1].first_position = 1'000;
    }
    for (const any_budget& shares : every_budget()) {
      options.shares = shares;
      options.budget = 61;
      CHECK(check().code == errc::all_masked);
    }
  }
  SECTION("budgets that can't be met") {
    options.budget = 3;
    CHECK(check().code == errc::budget_out_of_range);
    options.budget = 0;
    CHECK(check().code == errc::budget_out_of_range);
    options.budget = 60;
    options.limits.max_ratio = 2;
    CHECK(check().code == errc::invalid_option);
    options.limits = {};
    options.shares = kvfit::budgets::rows{{4, 4, 4, 4, 4, -1, 4}};
    CHECK(check().argument == "L4H0");
    options.shares = kvfit::budgets::given{{{{0, 0}, 1.0}}};
    CHECK(check().code == errc::missing_entry);
    options.shares = kvfit::budgets::global_ranking{{.importance = kvfit::importance_kind::none}};
    CHECK(check().argument == "importance");
  }
  SECTION("memory that no head keeps to, first told of the first head") {
    options.memory = 1;
    CHECK(check().code == errc::memory_cap_exceeded);  // by the ranking
    options.shares = kvfit::budgets::uniform{};
    CHECK(check().code == errc::memory_cap_exceeded);  // by the heads themselves
  }
  SECTION("layers") {
    options.skip = {7};
    CHECK(check().actual == 7);
    options.skip = {0, 3, 4};
    CHECK(check().code == errc::empty_input);
    options.skip = {};
    given.view.layers[1].kind = kvfit::layer_kind::recurrent;
    CHECK(check().actual == 1);
  }
  SECTION("queries that are not there") {
    given.queries.pop_back();
    CHECK(check().code == errc::missing_entry);
  }
}

TEST_CASE("fallbacks and their causes reach every rank", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  given.view.layers[2].rule = kvfit::logit_rule{.causal = true};
  given.view.layers[2].heads[1].first_position = 1'000;  // after every query
  cache_options options = options_with(kvfit::budgets::uniform{});
  options.fallback = kvfit::head_fallback::copies;
  CHECK(check_every_way(ranks, given, options).fallbacks == 1);
  const auto found = compact_cache(ranks, given.view, given.queries, options);
  REQUIRE(found);
  REQUIRE(found->heads[3].cause);
  CHECK(found->heads[3].cause->code == errc::all_masked);
}

TEST_CASE("an exception of a caller's own policy is an error on all ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  kvfit::cache_options options{.budget = 21};
  options.head.selection = throws_in_layer_three{};
  options.head.bias = kvfit::bias::zero{};
  options.head.values = kvfit::values::copy{};
  for (const std::string& found : errors_of(ranks, given, options)) {
    CHECK(found == "policy_threw: L3H0 (mine)");
  }
}

TEST_CASE("one rank's wish to stop ends the call on all", "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  const cache_options options = options_with(kvfit::budgets::global_ranking{});
  const int last = ranks.size() - 1;
  SECTION("before it has begun") {
    kvfit::cancellation stop;
    if (ranks.rank() == last) stop.request();
    const auto cut = compact_cache(ranks, given.view, given.queries, options, {}, kvfit::serial{},
                                   {.cancel = &stop});
    CHECK(error_of_all(ranks, cut) != "different");
    REQUIRE_FALSE(cut);
    CHECK(cut.error().code == errc::cancelled);
  }
  SECTION("between heads, which each rank counts for itself") {
    kvfit::cancellation stop;
    kvfit::index_t seen = 0;
    const auto cut =
        compact_cache(ranks, given.view, given.queries, options, {}, kvfit::serial{},
                      {.cancel = &stop, .progress = [&](kvfit::index_t done, kvfit::index_t count) {
                         seen = count;
                         if (ranks.rank() == last && done == 1) stop.request();
                       }});
    const auto counts = kvfit_test::lists_of_all(ranks, std::vector<kvfit::index_t>{seen});
    kvfit::index_t sum = 0;
    for (const auto& one : counts) sum += one[0];
    CHECK(sum == static_cast<kvfit::index_t>(all_heads));
    // A rank whose only head was done had nothing left to stop.
    if (counts.back()[0] > 1) {
      CHECK(error_of_all(ranks, cut).starts_with("cancelled: items: 1"));
    } else {
      CHECK(on_all(ranks, cut.has_value()));
    }
  }
}

TEST_CASE("ranks called differently are told so, and none waits", "[mpi][cache]") {
  mpi_ranks ranks = world();
  if (ranks.size() == 1) return;
  cache_case given = four_layers();
  cache_options options;
  kvfit::rank_options spread;
  const bool is_last = ranks.rank() == ranks.size() - 1;
  const auto refusal = [&](const std::function<void()>& change) {
    options = options_with(kvfit::budgets::rows{{7, 0, 20, 1, 12, 5, 4}});
    spread = {};
    if (is_last) change();
    return error_of_all(ranks, compact_cache(ranks, given.view, given.queries, options, spread));
  };
  const std::string different = "invalid_option: options (must be the same on all ranks)";
  CHECK(refusal([&] { options.budget = 61; }) == different);
  CHECK(refusal([&] { options.shares = kvfit::budgets::global_ranking{}; }) == different);
  CHECK(refusal([&] { std::get<kvfit::budgets::rows>(options.shares).each[6] = 5; }) == different);
  CHECK(refusal([&] { spread.gathers_rows = false; }) == different);
  CHECK(refusal([&] { spread.holds = rank_holds::shard; }) == different);
  CHECK(refusal([&] { options.heads_at_once = -1; }) ==
        "invalid_option: heads_at_once: -1, limit 0 (must not be negative)");
  CHECK(refusal([&] { options.heads_at_once = 1; }) == "none");  // which may differ
  // A view of other sizes, by the layer that slides.
  CHECK(refusal([&] { given.view.layers.erase(given.view.layers.begin() + 1); }) ==
        "invalid_option: cache (must be the same on all ranks)");
}

TEST_CASE("shards that make no cache are refused on all ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  if (ranks.size() == 1) return;
  const cache_case given = four_layers();
  const cache_case other({{.number = 0, .rows = 96, .key_size = 12}});
  const bool is_last = ranks.rank() == ranks.size() - 1;
  cache_options options;
  shard own;
  // Every rank has layer 0, two heads of two query heads each; `change` is the last rank's.
  const auto refusal = [&](const std::function<void()>& change, bool on_all_ranks = false) {
    options = options_with(kvfit::budgets::uniform{});
    own.view.layers = {given.view.layers[0]};
    own.queries = {given.queries[0]};
    if (is_last || on_all_ranks) change();
    return error_of_all(
        ranks, compact_cache(ranks, own.view, own.queries, options, {.holds = rank_holds::shard}));
  };
  CHECK(refusal([] {}) == "none");  // as they are they make one
  CHECK(refusal([&] { own.view.layers[0].kind = kvfit::layer_kind::sliding; }) ==
        "invalid_option: layer: 0 (must be of one kind on all ranks)");
  CHECK(refusal([&] { own.view.layers[0].heads = other.view.layers[0].heads; }) ==
        "shape_mismatch: L0H" + std::to_string(2 * ranks.size() - 2) +
            ": keys: 12, expected 8 (columns must equal those of the layer's first head)");
  CHECK(refusal([&] { own.queries.clear(); }) == "missing_entry: queries of layer 0");
  CHECK(refusal([&] { own.queries[0].heads.pop_back(); }) ==
        "shape_mismatch: layer 0: query heads: 3, expected 2 (must be a multiple of the KV heads)");
  // Six query heads for each KV head: for two ranks the sum would be four for each.
  CHECK(refusal([&] { own.queries[0].heads.resize(12, own.queries[0].heads[0]); }) ==
        "shape_mismatch: layer 0: query heads: 6, expected 2 (must be as many for each KV head on "
        "all ranks; entry 0)");
  CHECK(refusal([&] { own.queries.push_back(given.queries[1]); }) ==
        "invalid_option: queries of layer 3 (the cache has no such layer)");
  CHECK(refusal([&] { own.queries.push_back(own.queries[0]); }) ==
        "shape_mismatch: layer 0: query heads: 2, expected 0 (must be as many for each KV head on "
        "all ranks; entry 1)");
  // Entries of two and of four query heads for each KV head: the sums are the same.
  CHECK(refusal(
            [&] {
              auto more = own.queries[0];
              more.heads.insert(more.heads.end(), more.heads.begin(), more.heads.end());
              own.queries.insert(own.queries.begin() + (is_last ? 0 : 1), more);
            },
            true) ==
        "shape_mismatch: layer 0: query heads: 4, expected 2 (must be as many for each KV head on "
        "all ranks; entry 0)");
  CHECK(refusal([&] { own.view.layers.insert(own.view.layers.begin(), given.view.layers[3]); }) ==
        "invalid_option: layer: 0 (layers must ascend from 0)");
  CHECK(refusal(
            [&] {
              options.shares =
                  kvfit::budgets::rows{std::vector<kvfit::index_t>(is_last ? 1 : 2, 3)};
            },
            true) ==
        "shape_mismatch: shares.each: 1, expected 2 (one for each head of the rank's shard)");
  CHECK(refusal([&] { options.shares = kvfit::budgets::influence{}; }, true) ==
        "shape_mismatch: shares.curves: 0, expected 2 (one for each head of the rank's shard)");
}
