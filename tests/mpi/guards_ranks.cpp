// SPDX-License-Identifier: MIT
// One test for each guard of what ranks do together that no other test needs.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/bias/zero.hpp"
#include "kvfit/cache/compact_cache_mpi.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/values/copy.hpp"
#include "mpi/faults.hpp"
#include "mpi/world.hpp"
#include "support/catch.hpp"

namespace kvfit_test::mpi_guards {

using kvfit::cache_options;
using kvfit::errc;
using kvfit::index_t;
using kvfit::mpi_ranks;
using kvfit::rank_holds;
using kvfit::result;

namespace {

/// Copies of the rows that queries look at most.
cache_options quick_options(index_t budget) {
  cache_options options{.budget = budget};
  options.head.selection = kvfit::selection::highest_attention{};
  options.head.bias = kvfit::bias::zero{};
  options.head.values = kvfit::values::copy{};
  options.head.refine = {.steps = 0};
  return options;
}

/// Two layers of two heads. As a shard of each rank they are parts of one cache.
cache_case two_layers() {
  return cache_case({{.number = 0, .rows = 24}, {.number = 3, .rows = 32}}, 12);
}

/// Ranks that know their heads: two of layer 0 on each.
struct two_heads_each {
  mpi_ranks ranks = world();
  kvfit::detail::rank_exchange with{ranks, {.holds = rank_holds::shard}};
  bool is_last = ranks.rank() == ranks.size() - 1;

  two_heads_each() {
    const cache_case given({{.number = 0, .rows = 24}}, 12);
    std::vector<kvfit::head_task> tasks;
    REQUIRE(with.find_heads(given.view, given.queries, quick_options(24), tasks));
  }

  /// What all ranks are told of a step.
  std::string told(const std::function<result<void>(index_t&)>& work) {
    return error_of_all(ranks, with.step(work));
  }
};

using outlines = std::vector<std::vector<index_t>>;

}  // namespace

TEST_CASE("O: ranks that take the place of others work as those did", "[mpi][guards]") {
  mpi_ranks all = world(64);
  auto alone = mpi_ranks::over(MPI_COMM_SELF, 16);
  REQUIRE(alone);
  const int rank = all.rank();
  const int size = all.size();
  // On the last rank alone: messages must be as long there as on the others.
  const bool is_last = rank == size - 1;
  if (is_last) std::swap(*alone, all);
  mpi_ranks& ranks = is_last ? *alone : all;
  CHECK(ranks.rank() == rank);
  CHECK(ranks.size() == size);
  const auto lists = lists_of_all(ranks, std::vector<double>(20, rank));
  REQUIRE(static_cast<int>(lists.size()) == size);
  for (int r = 0; r < size; ++r) {
    CHECK(lists[static_cast<std::size_t>(r)] == std::vector<double>(20, r));
  }
}

TEST_CASE("O: texts of errors are cut at their limits, and not before their beginning",
          "[mpi][guards]") {
  const auto received = [](std::size_t argument, std::size_t detail) {
    return kvfit::detail::wire_error(kvfit::error{errc::missing_entry, std::string(argument, 'a'),
                                                  1, 2, std::string(detail, 'b')})
        .received();
  };
  const kvfit::error whole = received(251, 508);
  CHECK(whole.argument == std::string(251, 'a'));
  CHECK(whole.detail == std::string(508, 'b'));
  const kvfit::error longer = received(252, 509);
  CHECK(longer.argument == whole.argument);
  CHECK(longer.detail == whole.detail);
  // Bytes that begin no character.
  const std::string no_text(300, '\x80');
  const kvfit::detail::wire_error broken(kvfit::error{errc::missing_entry, no_text});
  CHECK(broken.received().argument.empty());
}

TEST_CASE("O: a step that throws on one rank fails on all", "[mpi][guards]") {
  two_heads_each ranks;
  const auto error_of = [&](const std::function<void(index_t&)>& thrown) {
    return ranks.told([&](index_t& failed_at) -> result<void> {
      if (ranks.is_last) thrown(failed_at);
      return {};
    });
  };
  CHECK(error_of([](index_t&) {}) == "none");
  CHECK(error_of([](index_t&) { throw std::bad_alloc(); }) == "out_of_memory: compact_cache");
  CHECK(error_of([](index_t&) { throw std::length_error(""); }) == "out_of_memory: compact_cache");
  CHECK(error_of([](index_t&) { throw std::runtime_error("mine"); }) == "policy_threw (mine)");
  CHECK(error_of([](index_t&) { throw 7; }) == "policy_threw");
  const std::string last_head = "L0H" + std::to_string(2 * ranks.ranks.size() - 1);
  CHECK(error_of([](index_t& failed_at) {
          failed_at = 1;
          throw 7;
        }) == "policy_threw: " + last_head);
}

TEST_CASE("O: a head's error goes before one that is no head's", "[mpi][guards]") {
  two_heads_each ranks;
  CHECK(ranks.told([&](index_t& failed_at) -> result<void> {
    if (!ranks.is_last) return kvfit::error{errc::empty_input, "no head"};
    failed_at = 1;
    return kvfit::error{errc::all_masked, "a head"};
  }) == "all_masked: a head");
}

TEST_CASE("O: ranks differ by every option that they must share", "[mpi][cache][guards]") {
  const auto digest_of = [](const cache_options& options, bool with_lists) {
    kvfit::detail::digest of;
    of.add_options(options, with_lists);
    return of.value();
  };
  using kvfit::budgets::given;
  using kvfit::budgets::influence;
  using kvfit::budgets::rows;
  using ranking = kvfit::budgets::global_ranking;
  const influence one_curve{{{{{1, 2.0}, {3, 1.0}}}}, {}};
  const influence two_curves{{{{{1, 2.0}}}, {{{3, 1.0}}}}, {}};  // the same points
  influence exact = one_curve;
  exact.exact = kvfit::dynamic_programming{};
  influence coarse = exact;
  coarse.exact->step = 2;
  influence small = exact;
  small.exact->memory = 5;
  using set_option = std::function<void(cache_options&)>;
  const auto budget = [](const kvfit::any_budget& shares) -> set_option {
    return [shares](cache_options& o) { o.shares = shares; };
  };
  const std::vector<set_option> changes = {
      [](auto&) {},
      [](auto& o) { o.budget = 1; },
      budget(kvfit::budgets::pyramid{}),
      budget(kvfit::budgets::pyramid{0.0}),
      budget(rows{}),  // of as many zeros
      budget(rows{{4, 5}}),
      budget(rows{{5, 4}}),
      budget(given{{{{1, 2}, 0.5}}}),
      budget(given{{{{2, 2}, 0.5}}}),
      budget(given{{{{1, 1}, 0.5}}}),
      budget(given{{{{1, 2}, 0.25}}}),
      budget(given{{{{1, 2}, 0.5}}, kvfit::budgets::missing_share::mean}),
      budget(one_curve),
      budget(two_curves),
      budget(influence{{{{{1, 2.0}, {4, 1.0}}}}, {}}),
      budget(influence{{{{{1, 2.0}, {3, 0.5}}}}, {}}),
      budget(exact),
      budget(coarse),
      budget(small),
      budget(ranking{}),
      budget(ranking{{.importance = kvfit::importance_kind::mean}}),
      budget(ranking{{.pooling = kvfit::pooling_kind::max}}),
      budget(ranking{{.pooling_width = 9}}),
      budget(ranking{{.window = 3}}),
      [](auto& o) { o.limits.at_least = 2; },
      [](auto& o) { o.limits.max_ratio = 0.5; },
      [](auto& o) { o.skip = {3}; },
      [](auto& o) { o.fallback = kvfit::head_fallback::copies; },
      [](auto& o) { o.head.rule.scale = 0.0F; },
      [](auto& o) { o.head.rule.scale = 0.5F; },
      [](auto& o) { o.head.rule.soft_cap = 30; },
      [](auto& o) { o.head.rule.causal = true; },
      [](auto& o) { o.head.rule.window = 4; },
      [](auto& o) { o.head.protect.first = 1; },
      [](auto& o) { o.head.protect.last = 1; },
      [](auto& o) { o.head.protect.rows = {3}; },
      [](auto& o) { o.head.replace_dead_keys = false; },
      [](auto& o) { o.head.queries.held_out = 0.25; },
      [](auto& o) { o.head.queries.per_row = 3; },
      [](auto& o) { o.head.queries.at_least = 7; },
      [](auto& o) { o.head.tied_values_from = 0; },
      [](auto& o) { o.head.keep_better_values = false; },
      [](auto& o) { o.head.storage.rows = kvfit::dtype::fp16; },
      [](auto& o) { o.head.storage.bias = kvfit::dtype::fp16; },
      [](auto& o) { o.head.precision = kvfit::precision_kind::bf16; },
      [](auto& o) { o.head.memory.selection = 5; },
      [](auto& o) { o.head.memory.cap = 5; },
      [](auto& o) { o.memory = 5; },
  };
  std::set<std::uint64_t> seen;
  for (const auto& change : changes) {
    cache_options changed;
    change(changed);
    CHECK(seen.insert(digest_of(changed, true)).second);
  }
  cache_options own;  // what may be a rank's own
  own.heads_at_once = 3;
  CHECK(digest_of(own, true) == digest_of({}, true));
  cache_options first;
  cache_options second;
  first.shares = one_curve;
  second.shares = two_curves;
  CHECK(digest_of(first, false) == digest_of(second, false));
  first.shares = kvfit::budgets::rows{{4, 5}};
  second.shares = kvfit::budgets::rows{{6}};
  CHECK(digest_of(first, false) == digest_of(second, false));
}

TEST_CASE("O: a rank tells the others every size of its view", "[mpi][cache][guards]") {
  cache_case given({{.number = 2, .rows = 5, .key_size = 4, .value_size = 3},
                    {.number = 7, .heads = 1, .group = 3, .rows = 6}},
                   4);
  given.view.layers[1].kind = kvfit::layer_kind::sliding;
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  const std::vector<float> bias = {0, hidden, 0, hidden, 0};
  given.view.layers[0].heads[1].bias = bias;
  kvfit::layer_queries more{.layer = 2, .heads = {}};
  more.heads = {given.queries[0].heads[0], given.queries[0].heads[1]};
  given.queries.push_back(more);
  const auto global = static_cast<index_t>(kvfit::layer_kind::global);
  const auto sliding = static_cast<index_t>(kvfit::layer_kind::sliding);
  CHECK(kvfit::detail::outline_of(given.view, given.queries) ==
        std::vector<index_t>{2, global,  2, 2, 4, 2, 5, 4, 3, 5, 5, 4, 3, 3,  //
                             7, sliding, 1, 1, 3, 6, 8, 6, 6});
}

TEST_CASE("O: layers of all ranks are joined in their order, and the first fault is told",
          "[mpi][cache][guards]") {
  const auto fault_of = [](const outlines& views, const std::vector<index_t>& skip = {}) {
    const auto found = kvfit::detail::join_shards(views, skip);
    return found ? std::string() : found.error().message();
  };
  const std::vector<index_t> one_head = {0, 0, 1, 1, 2, 5, 4, 3, 5};
  const std::vector<index_t> no_heads = {0, 0, 0, 1, 2};
  const std::vector<index_t> two_entries = {0, 0, 1, 2, 2, 2, 5, 4, 3, 5};
  CHECK(fault_of({one_head, {}, one_head}).empty());
  for (const index_t number : {index_t{-1}, index_t{0}}) {  // below 0; twice in one view
    CHECK(fault_of({one_head, {0, 2, 0, 0, number, 0, 0, 0}}, {0}) ==
          "invalid_option: layer: " + std::to_string(number) + " (layers must ascend from 0)");
  }
  CHECK(fault_of({{-1, 0, 0, 0}}) == "invalid_option: layer: -1 (layers must ascend from 0)");
  const std::string heads = "empty_input: layer 0: heads: 0";
  CHECK(fault_of({one_head, no_heads}) == heads);
  CHECK(fault_of({no_heads, one_head}) == heads);
  // The first rank that differs is the one that is named.
  const std::string entries =
      "shape_mismatch: layer 0: query heads: 2, expected 0 (must be as many for each KV head on "
      "all "
      "ranks; entry 1)";
  CHECK(fault_of({one_head, two_entries, no_heads}) == entries);
  CHECK(fault_of({one_head, no_heads, two_entries}) == heads);
  CHECK(fault_of({two_entries, one_head}) ==
        "shape_mismatch: layer 0: query heads: 0, expected 2 (must be as many for each KV head on "
        "all ranks; entry 1)");
  CHECK(fault_of({{0, 0, 1, 0, 5, 4, 3, 5}, one_head}) == "missing_entry: queries of layer 0");
  // A layer that is not compacted may differ.
  const std::vector<index_t> next = {1, 0, 1, 1, 2, 5, 4, 3, 5};
  CHECK(fault_of({one_head, two_entries, no_heads, next}, {0}).empty());
  // Three query heads on one rank and five on the other: eight for four KV heads.
  const outlines odd = {{3, 0, 2, 1, 3, 5, 4, 3, 5, 5, 4, 3, 5},
                        {3, 0, 2, 1, 5, 5, 4, 3, 5, 5, 4, 3, 5}};
  CHECK(fault_of(odd) ==
        "shape_mismatch: layer 3: query heads: 3, expected 2 (must be a multiple of the KV heads)");
}

TEST_CASE("O: rows that ranks share out differently are refused", "[mpi][cache][guards]") {
  mpi_ranks ranks = world();
  const cache_case given = two_layers();
  kvfit::detail::rank_exchange with(ranks, {});
  kvfit::cache_plan plan;
  REQUIRE(with.find_heads(given.view, given.queries, quick_options(24), plan.tasks));
  // As if the last rank's machine had come to other numbers by the same options.
  plan.rows = {6, 6, 6, ranks.rank() == ranks.size() - 1 ? 5 : 6};
  CHECK(error_of_all(ranks, with.settle(plan)) ==
        (ranks.size() == 1 ? "none" : "invalid_option: rows (must be the same on all ranks)"));
}

TEST_CASE("O: each call of MPI that fails ends what it was made for, on all ranks",
          "[mpi][cache][guards]") {
  mpi_ranks ranks = world(index_t{1} << 20);
  const auto message_of = [](const auto& found) {
    return found ? std::string() : found.error().message();
  };
  CHECK(calls_that_fail_alone(
            ranks, [&] { return message_of(mpi_ranks::over(MPI_COMM_WORLD, 64)); }) == 9);
  const cache_case given = two_layers();
  const auto calls = [&](const cache_options& options, const kvfit::rank_options& spread) {
    return calls_that_fail_alone(ranks, [&] {
      return message_of(kvfit::compact_cache(ranks, given.view, given.queries, options, spread));
    });
  };
  // Rows and curves of four heads on each rank.
  cache_options options = quick_options(24 * ranks.size());
  const kvfit::rank_options shard_alone{.holds = rank_holds::shard, .gathers_rows = false};
  options.shares = kvfit::budgets::global_ranking{};
  CHECK(calls(options, {.holds = rank_holds::shard}) > 20);
  options.shares = kvfit::budgets::rows{{3, 4, 5, 6}};
  CHECK(calls(options, shard_alone) > 10);
  const kvfit::influence_curve curve{{{2, 4.0}, {20, 1.0}}};
  options.shares = kvfit::budgets::influence{{curve, curve, curve, curve}};
  CHECK(calls(options, shard_alone) > 10);
  CHECK(calls(quick_options(24), {}) > 20);
  // Of errors the same: ranks tell each other of those, too.
  CHECK(calls(quick_options(0), {}) > 5);
}

}  // namespace kvfit_test::mpi_guards
