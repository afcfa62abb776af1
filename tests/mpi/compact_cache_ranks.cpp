// SPDX-License-Identifier: MIT
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/cache_case.hpp"
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
          kvfit::budgets::rows{{7, 0, 200, 1, 12, 5, 40}}};
}

enum class cut { layers, heads };

/// What one rank of several has of a cache.
struct shard {
  kvfit::cache_view view;
  kvfit::cache_queries queries;
  std::vector<std::size_t> heads;  ///< its own among all that are compacted
};

/// By layers (every size-th) or by heads (those of each layer split, so that some ranks get none).
shard shard_of(const cache_case& given, cut by, int rank, int size) {
  shard own;
  std::size_t number = 0;
  for (std::size_t l = 0; l < given.view.layers.size(); ++l) {
    const auto& layer = given.view.layers[l];
    const auto asked = std::find_if(given.queries.begin(), given.queries.end(),
                                    [&](const auto& of) { return of.layer == layer.number; });
    const bool is_asked = asked != given.queries.end();
    kvfit::cache_layer part = layer;
    part.heads.clear();
    kvfit::layer_queries questions{.layer = layer.number, .heads = {}};
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const std::size_t owner = by == cut::layers
                                    ? l % static_cast<std::size_t>(size)
                                    : h * static_cast<std::size_t>(size) / layer.heads.size();
      if (static_cast<int>(owner) == rank) {
        part.heads.push_back(layer.heads[h]);
        if (is_asked) {
          own.heads.push_back(number);
          questions.heads.push_back(asked->heads[2 * h]);
          questions.heads.push_back(asked->heads[2 * h + 1]);
        }
      }
      number += is_asked ? 1 : 0;
    }
    if (part.heads.empty()) continue;
    own.view.layers.push_back(part);
    if (is_asked) own.queries.push_back(questions);
  }
  return own;
}

/// The entries of the rank's own heads, where a policy has one for each.
any_budget own_part(const any_budget& shares, const shard& own) {
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

/// A policy of a caller's own that throws for one head.
struct throws_in_layer_three {
  friend kvfit::score_options wanted_scores(const throws_in_layer_three&) { return {}; }
  friend kvfit::result<kvfit::selected_rows> select(const throws_in_layer_three&,
                                                    const kvfit::selection_problem& problem) {
    if (problem.cache.keys.cols() == 10) throw std::runtime_error("mine");
    return kvfit::selected_rows{.positions = {1}};
  }
};

/// The error of both ways to hold the cache, in the words that every rank has.
struct both_errors {
  std::string whole;
  std::string by_layers;
  std::string by_heads;
};

both_errors errors_of(mpi_ranks& ranks, const cache_case& given, const cache_options& options) {
  both_errors out;
  out.whole = error_of_all(ranks, compact_cache(ranks, given.view, given.queries, options));
  for (const cut by : {cut::layers, cut::heads}) {
    const shard own = shard_of(given, by, ranks.rank(), ranks.size());
    cache_options part = options;
    part.shares = own_part(options.shares, own);
    const auto found =
        compact_cache(ranks, own.view, own.queries, part, {.holds = rank_holds::shard});
    (by == cut::layers ? out.by_layers : out.by_heads) = error_of_all(ranks, found);
  }
  return out;
}

}  // namespace

TEST_CASE("ranks that all hold the cache give the serial bytes, by every budget", "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  kvfit::thread_pool pool(2);
  for (const any_budget& shares : every_budget()) {
    const cache_options options = options_with(shares);
    const auto serial = compact_cache(given.view, given.queries, options);
    REQUIRE(serial);
    const auto all = compact_cache(ranks, given.view, given.queries, options, {}, pool);
    REQUIRE(all);
    CHECK(kvfit_test::same_cache(*serial, all->cache));
    check_sums(ranks, *all, *serial);
    const auto part =
        compact_cache(ranks, given.view, given.queries, options, {.gathers_rows = false});
    REQUIRE(part);
    CHECK(is_part_of(part->cache, *serial));
    check_sums(ranks, *part, *serial);
    const auto own = static_cast<std::ptrdiff_t>(reports_of(part->cache).size());
    CHECK(own == std::count(part->ranks.begin(), part->ranks.end(), ranks.rank()));
    CHECK(own > 0);  // seven heads of like size, four ranks
  }
}

TEST_CASE("ranks that hold shards give the serial bytes, by every budget", "[mpi][cache]") {
  mpi_ranks ranks = world(std::numeric_limits<int>::max());
  const cache_case given = four_layers();
  for (const cut by : {cut::layers, cut::heads}) {
    const shard own = shard_of(given, by, ranks.rank(), ranks.size());
    for (const any_budget& shares : every_budget()) {
      cache_options options = options_with(shares);
      const auto serial = compact_cache(given.view, given.queries, options);
      REQUIRE(serial);
      options.shares = own_part(shares, own);
      const auto all =
          compact_cache(ranks, own.view, own.queries, options, {.holds = rank_holds::shard});
      REQUIRE(all);
      CHECK(kvfit_test::same_cache(*serial, all->cache));
      check_sums(ranks, *all, *serial);
      const auto part = compact_cache(ranks, own.view, own.queries, options,
                                      {.holds = rank_holds::shard, .gathers_rows = false});
      REQUIRE(part);
      CHECK(is_part_of(part->cache, *serial));
      check_sums(ranks, *part, *serial);
      CHECK(reports_of(part->cache).size() == own.heads.size());
      for (const std::size_t head : own.heads) CHECK(part->ranks[head] == ranks.rank());
    }
  }
}

TEST_CASE("B: queries of two layers that share one cache are both used on ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  // A layer that reads the cache of layer 3: one query head a KV head.
  std::vector<kvfit::matrix> memory;
  kvfit::layer_queries other{.layer = 3, .heads = {}};
  for (std::uint64_t h = 0; h < 3; ++h) {
    memory.push_back(3 * kvfit_test::random_matrix(40, 10, 50 + h));
    other.heads.emplace_back(kvfit::row_view(memory.back()));
  }
  kvfit::cache_queries queries = given.queries;
  queries.push_back(other);
  for (const any_budget& shares : every_budget()) {
    cache_options options = options_with(shares);
    const auto serial = compact_cache(given.view, queries, options);
    const auto first_alone = compact_cache(given.view, given.queries, options);
    REQUIRE(serial);
    REQUIRE(first_alone);
    CHECK_FALSE(kvfit_test::same_cache(*serial, *first_alone));
    const auto whole = compact_cache(ranks, given.view, queries, options);
    REQUIRE(whole);
    CHECK(kvfit_test::same_cache(*serial, whole->cache));
    for (const cut by : {cut::layers, cut::heads}) {
      shard own = shard_of(given, by, ranks.rank(), ranks.size());
      kvfit::layer_queries part{.layer = 3, .heads = {}};
      for (const std::size_t head : own.heads) {  // heads 2, 3 and 4 of all are those of layer 3
        if (head >= 2 && head < 5) part.heads.push_back(other.heads[head - 2]);
      }
      if (!part.heads.empty()) own.queries.push_back(part);
      options.shares = own_part(shares, own);
      const auto parts =
          compact_cache(ranks, own.view, own.queries, options, {.holds = rank_holds::shard});
      REQUIRE(parts);
      CHECK(kvfit_test::same_cache(*serial, parts->cache));
    }
  }
}

TEST_CASE("the default composition gives the serial bytes on ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  cache_options options{.budget = 62};
  options.skip = {4};
  options.head.storage.rows = kvfit::dtype::fp16;
  options.head.protect.first = 2;
  const auto serial = compact_cache(given.view, given.queries, options);
  REQUIRE(serial);
  const shard own = shard_of(given, cut::layers, ranks.rank(), ranks.size());
  const auto all =
      compact_cache(ranks, own.view, own.queries, options, {.holds = rank_holds::shard});
  REQUIRE(all);
  CHECK(kvfit_test::same_cache(*serial, all->cache));
  check_sums(ranks, *all, *serial);
  options.budget = 1'000;  // all rows stay
  const auto identity = compact_cache(ranks, given.view, given.queries, options);
  REQUIRE(identity);
  CHECK(identity->rows == 416);
}

TEST_CASE("rows hidden by their bias count on no rank", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  std::vector<float> bias(96, 0.0F);
  for (std::size_t row = 0; row < 60; ++row) bias[row] = -std::numeric_limits<float>::infinity();
  given.view.layers[2].heads[2].bias = bias;
  for (const any_budget& shares : every_budget()) {
    cache_options options = options_with(shares);
    const auto serial = compact_cache(given.view, given.queries, options);
    REQUIRE(serial);
    const auto whole = compact_cache(ranks, given.view, given.queries, options);
    REQUIRE(whole);
    CHECK(kvfit_test::same_cache(*serial, whole->cache));
    const shard own = shard_of(given, cut::heads, ranks.rank(), ranks.size());
    options.shares = own_part(shares, own);
    const auto parts =
        compact_cache(ranks, own.view, own.queries, options, {.holds = rank_holds::shard});
    REQUIRE(parts);
    CHECK(kvfit_test::same_cache(*serial, parts->cache));
    check_sums(ranks, *parts, *serial);
  }
}

TEST_CASE("a head that fails on one rank fails all with the serial error", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  cache_options options = options_with(kvfit::budgets::global_ranking{});
  const auto check = [&] {
    const auto serial = compact_cache(given.view, given.queries, options);
    REQUIRE_FALSE(serial);
    const std::string wanted = serial.error().message();
    const both_errors found = errors_of(ranks, given, options);
    CHECK(found.whole == wanted);
    CHECK(found.by_layers == wanted);
    CHECK(found.by_heads == wanted);
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
    // `shard_of` takes a layer without queries for a sliding one.
    const auto serial = compact_cache(given.view, given.queries, options);
    REQUIRE_FALSE(serial);
    const both_errors found = errors_of(ranks, given, options);
    CHECK(found.whole == serial.error().message());
    CHECK(found.by_layers == serial.error().message());
    CHECK(found.by_heads == serial.error().message());
  }
}

TEST_CASE("fallbacks and their causes reach every rank", "[mpi][cache]") {
  mpi_ranks ranks = world();
  cache_case given = four_layers();
  given.view.layers[2].rule = kvfit::logit_rule{.causal = true};
  given.view.layers[2].heads[1].first_position = 1'000;  // after every query
  cache_options options = options_with(kvfit::budgets::uniform{});
  options.fallback = kvfit::head_fallback::copies;
  const auto serial = compact_cache(given.view, given.queries, options);
  REQUIRE(serial);
  REQUIRE(serial->fallbacks == 1);
  const shard own = shard_of(given, cut::heads, ranks.rank(), ranks.size());
  const auto all = compact_cache(ranks, own.view, own.queries, options,
                                 {.holds = rank_holds::shard, .gathers_rows = false});
  REQUIRE(all);
  check_sums(ranks, *all, *serial);
  REQUIRE(all->heads[3].cause);
  CHECK(all->heads[3].cause->code == errc::all_masked);
  CHECK(is_part_of(all->cache, *serial));
}

TEST_CASE("an exception of a caller's own policy is an error on all ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  const cache_case given = four_layers();
  kvfit::cache_options options{.budget = 21};
  options.head.selection = throws_in_layer_three{};
  options.head.bias = kvfit::bias::zero{};
  options.head.values = kvfit::values::copy{};
  const std::string wanted = "policy_threw: L3H0 (mine)";
  CHECK(error_of_all(ranks, compact_cache(ranks, given.view, given.queries, options, {},
                                          kvfit::serial{})) == wanted);
  const shard own = shard_of(given, cut::layers, ranks.rank(), ranks.size());
  CHECK(error_of_all(ranks, compact_cache(ranks, own.view, own.queries, options,
                                          {.holds = rank_holds::shard}, kvfit::serial{})) ==
        wanted);
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
  cache_options options = options_with(kvfit::budgets::uniform{});
  const bool is_last = ranks.rank() == ranks.size() - 1;
  kvfit::rank_options spread;
  const auto refusal = [&] {
    return error_of_all(ranks, compact_cache(ranks, given.view, given.queries, options, spread));
  };
  const std::string different = "invalid_option: options (must be the same on all ranks)";
  SECTION("budget") {
    if (is_last) options.budget = 61;
    CHECK(refusal() == different);
  }
  SECTION("policy") {
    if (is_last) options.shares = kvfit::budgets::global_ranking{};
    CHECK(refusal() == different);
  }
  SECTION("a setting of the policy") {
    options.shares = kvfit::budgets::pyramid{is_last ? 0.5 : 0.4};
    CHECK(refusal() == different);
  }
  SECTION("rows of one head") {
    options.shares = kvfit::budgets::rows{{7, 0, 20, 1, 12, 5, is_last ? 4 : 5}};
    CHECK(refusal() == different);
  }
  SECTION("what is gathered") {
    spread.gathers_rows = is_last;
    CHECK(refusal() == different);
  }
  SECTION("what is held") {
    if (is_last) spread.holds = rank_holds::shard;
    CHECK(refusal() == different);
  }
  SECTION("an option that is wrong on one rank") {
    if (is_last) options.heads_at_once = -1;
    CHECK(refusal() == "invalid_option: heads_at_once: -1, limit 0 (must not be negative)");
  }
  SECTION("heads at once may differ") {
    options.heads_at_once = is_last ? 1 : 0;
    CHECK(on_all(ranks, compact_cache(ranks, given.view, given.queries, options).has_value()));
  }
  SECTION("views of other sizes") {
    if (is_last) given.view.layers.erase(given.view.layers.begin() + 1);  // the sliding one
    CHECK(refusal() == "invalid_option: cache (must be the same on all ranks)");
  }
}

TEST_CASE("shards that make no cache are refused on all ranks", "[mpi][cache]") {
  mpi_ranks ranks = world();
  if (ranks.size() == 1) return;
  const cache_case given = four_layers();
  const cache_case other({{.number = 0, .heads = 1, .group = 4, .rows = 64},
                          {.number = 3, .heads = 1, .rows = 96, .key_size = 12}});
  cache_options options = options_with(kvfit::budgets::uniform{});
  const bool is_last = ranks.rank() == ranks.size() - 1;
  // Every rank has layer 0, two heads of two query heads each.
  shard own;
  own.view.layers = {given.view.layers[0]};
  own.queries = {given.queries[0]};
  const auto refusal = [&] {
    return error_of_all(
        ranks, compact_cache(ranks, own.view, own.queries, options, {.holds = rank_holds::shard}));
  };
  const std::string last_head = "L0H" + std::to_string(2 * (ranks.size() - 1));
  SECTION("as they are they make one") {
    CHECK(refusal() == "none");
  }
  SECTION("another kind of layer") {
    if (is_last) own.view.layers[0].kind = kvfit::layer_kind::sliding;
    CHECK(refusal() == "invalid_option: layer: 0 (must be of one kind on all ranks)");
  }
  SECTION("keys of another size") {
    if (is_last) {
      own.view.layers[0].heads = {other.view.layers[1].heads[0], other.view.layers[1].heads[0]};
    }
    CHECK(refusal() ==
          "shape_mismatch: " + last_head +
              ": keys: 12, expected 8 (columns must equal those of the layer's first head)");
  }
  SECTION("queries that are missing on one rank") {
    if (is_last) own.queries.clear();
    CHECK(refusal() == "missing_entry: queries of layer 0");
  }
  SECTION("query heads that the rank's KV heads do not divide") {
    if (is_last) own.queries[0].heads.pop_back();
    CHECK(
        refusal() ==
        "shape_mismatch: layer 0: query heads: 3, expected 2 (must be a multiple of the KV heads)");
  }
  SECTION("other groups, whose sum would do") {
    if (is_last) {
      auto& heads = own.queries[0].heads;
      heads.insert(heads.end(), 2 * heads.size(), heads[0]);  // six for each, so for two ranks four
    }
    CHECK(refusal() ==
          "shape_mismatch: layer 0: query heads: 6, expected 2 (must be as many for each KV head "
          "on all ranks; entry 0)");
  }
  SECTION("queries of a layer that a rank does not have") {
    if (is_last) own.queries.push_back(given.queries[1]);
    CHECK(refusal() == "invalid_option: queries of layer 3 (the cache has no such layer)");
  }
  SECTION("entries of queries that only some ranks have") {
    if (is_last) own.queries.push_back(own.queries[0]);
    CHECK(refusal() ==
          "shape_mismatch: layer 0: query heads: 2, expected 0 (must be as many for each KV head "
          "on all ranks; entry 1)");
  }
  SECTION("entries of other groups, whose sum would do") {
    auto more = own.queries[0];
    more.heads.insert(more.heads.end(), more.heads.begin(), more.heads.end());
    own.queries.push_back(more);  // two and four for each KV head
    if (is_last) std::swap(own.queries[0], own.queries[1]);
    CHECK(refusal() ==
          "shape_mismatch: layer 0: query heads: 4, expected 2 (must be as many for each KV head "
          "on all ranks; entry 0)");
  }
  SECTION("layers out of order") {
    if (is_last) own.view.layers = {given.view.layers[3], given.view.layers[0]};
    CHECK(refusal() == "invalid_option: layer: 0 (layers must ascend from 0)");
  }
  SECTION("rows and curves of too few heads") {
    options.shares = is_last ? kvfit::budgets::rows{{3}} : kvfit::budgets::rows{{3, 3}};
    CHECK(refusal() ==
          "shape_mismatch: shares.each: 1, expected 2 (one for each head of the rank's shard)");
    options.shares = kvfit::budgets::influence{};
    CHECK(refusal() ==
          "shape_mismatch: shares.curves: 0, expected 2 (one for each head of the rank's shard)");
  }
}
