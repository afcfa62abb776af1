// SPDX-License-Identifier: MIT
/// Heads and rows of a cache that several ranks compact: `plan_cache` step by step, agreed on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/mpi/digest.hpp"
#include "kvfit/cache/mpi/ranked_heads.hpp"
#include "kvfit/cache/mpi/step.hpp"
#include "kvfit/cache/plan_tasks.hpp"
#include "kvfit/compact/report.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/parallel/mpi.hpp"

namespace kvfit {

/// What the view of each rank holds.
enum class rank_holds : std::uint8_t {
  whole,  ///< all of the cache, the same on every rank: heads are dealt out by their work
  /// A part that no other rank has, with the queries of that part: other layers (pipeline
  /// parallel), other heads of the same layers (tensor parallel: the heads of lower ranks come
  /// first), or both. It may be empty.
  shard,
};

/// How ranks work together.
struct rank_options {
  rank_holds holds = rank_holds::whole;
  bool gathers_rows = true;  ///< every rank gets every head; else its own alone
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Finds out that ranks were called alike, before any of them can wait for a message that never
/// comes. `own`: a fault found on this rank.
inline result<void> check_alike(mpi_ranks& ranks, const result<void>& own, const digest& call,
                                const char* what) {
  if (const auto ok = ranks.agree(own); !ok) return ok;
  const auto same = ranks.is_same(call.value());
  if (!same) return same.error();
  if (*same) return {};
  return error{errc::invalid_option, what, error::none, error::none,
               "must be the same on all ranks"};
}

/// All heads, each with its rank.
inline result<ranked_heads> heads_of_ranks(mpi_ranks& ranks, const cache_view& cache,
                                           const cache_queries& queries,
                                           const cache_options& options,
                                           const rank_options& spread) {
  const bool is_shard = spread.holds == rank_holds::shard;
  result<void> own;
  if (options.heads_at_once < 0) {
    own = error{errc::invalid_option, "heads_at_once", options.heads_at_once, 0,
                "must not be negative"};
  }
  digest call;
  for (const int part : {KVFIT_VERSION_MAJOR, KVFIT_VERSION_MINOR, KVFIT_VERSION_PATCH}) {
    call.add(part);
  }
  call.add(sizeof(compact_report));
  call.add(spread.holds);
  call.add(spread.gathers_rows);
  add_options(call, options, !is_shard);
  if (const auto ok = check_alike(ranks, own, call, "options"); !ok) return ok.error();

  ranked_heads heads;
  std::vector<index_t> outline;
  auto ok = in_step(ranks, heads, [&](index_t&) -> result<void> {
    outline = outline_of(cache, queries);
    if (is_shard) return check_query_layers(cache, queries);
    auto tasks = tasks_of(cache, queries, options.skip);
    if (!tasks) return tasks.error();
    heads.cache = cache;
    heads.tasks = std::move(*tasks);
    std::vector<double> rows;
    for (const head_task& task : heads.tasks) {
      rows.push_back(static_cast<double>(task.block.keys.rows()));
    }
    heads.deal(rows, ranks.rank(), ranks.size());
    return {};
  });
  if (!ok) return ok.error();
  if (!is_shard) {
    digest shape;
    shape.add_list(std::span<const index_t>(outline));
    ok = check_alike(ranks, {}, shape, "cache");
    if (!ok) return ok.error();
    return heads;
  }
  const auto outlines = ranks.gather(outline);
  if (!outlines) return outlines.error();
  index_t place = 0;
  const auto joined = catch_bad_alloc("compact_cache", [&]() -> result<void> {
    auto all = join_shards(*outlines, cache, queries, options.skip, ranks.rank(), place);
    if (!all) return all.error();
    heads = std::move(*all);
    return {};
  });
  ok = ranks.agree(joined, place);
  if (!ok) return ok.error();
  return heads;
}

/// The lists of all ranks, one entry for each head, in the order of all heads.
template <class T>
std::vector<T> in_order(const ranked_heads& heads, std::vector<std::vector<T>>& lists) {
  std::vector<T> all;
  std::vector<std::size_t> next(lists.size());
  for (const int rank : heads.ranks) {
    const auto r = static_cast<std::size_t>(rank);
    all.push_back(std::move(lists[r][next[r]++]));
  }
  return all;
}

/// One point of one head's curve, as it is sent.
struct sent_point {
  index_t head = 0;  ///< place among the rank's own
  influence_point point;
};

/// `shares` with the entries of all heads, where those of a shard have the rank's own.
inline result<any_budget> join_shares(mpi_ranks& ranks, const ranked_heads& heads,
                                      const any_budget& shares, rank_holds holds) {
  const bool is_shard = holds == rank_holds::shard;
  const auto* curves = is_shard ? std::get_if<budgets::influence>(&shares) : nullptr;
  const auto* rows = is_shard ? std::get_if<budgets::rows>(&shares) : nullptr;
  any_budget all;
  std::vector<sent_point> points;
  auto ok = in_step(ranks, heads, [&](index_t&) -> result<void> {
    all = shares;
    if (curves == nullptr && rows == nullptr) return {};
    const std::size_t count = curves != nullptr ? curves->curves.size() : rows->each.size();
    if (count != heads.own.size()) {
      return error{errc::shape_mismatch, curves != nullptr ? "shares.curves" : "shares.each",
                   static_cast<index_t>(count), static_cast<index_t>(heads.own.size()),
                   "one for each head of the rank's shard"};
    }
    for (std::size_t h = 0; curves != nullptr && h < count; ++h) {
      for (const influence_point& point : curves->curves[h].points) {
        points.push_back({static_cast<index_t>(h), point});
      }
    }
    return {};
  });
  if (!ok) return ok.error();
  if (rows != nullptr) {
    auto lists = ranks.gather(rows->each);
    if (!lists) return lists.error();
    ok = in_step(ranks, heads, [&](index_t&) -> result<void> {
      all = budgets::rows{in_order(heads, *lists)};
      return {};
    });
  } else if (curves != nullptr) {
    const auto sent = ranks.gather(points);
    if (!sent) return sent.error();
    ok = in_step(ranks, heads, [&](index_t&) -> result<void> {
      std::vector<std::vector<influence_curve>> lists(sent->size());
      for (std::size_t place = 0; place < heads.ranks.size(); ++place) {
        lists[static_cast<std::size_t>(heads.ranks[place])].emplace_back();
      }
      for (std::size_t r = 0; r < sent->size(); ++r) {
        for (const sent_point& one : (*sent)[r]) {
          lists[r][static_cast<std::size_t>(one.head)].points.push_back(one.point);
        }
      }
      all = budgets::influence{in_order(heads, lists), curves->exact};
      return {};
    });
  }
  if (!ok) return ok.error();
  return all;
}

/// Importance of the keys of all heads, each measured by its rank.
template <executor E>
result<std::vector<std::vector<float>>> importance_of_ranks(mpi_ranks& ranks,
                                                            const cache_view& cache,
                                                            const ranked_heads& heads,
                                                            const cache_options& options, E&& how,
                                                            const watch& by) {
  std::vector<std::vector<float>> importance;
  auto ok = in_step(ranks, heads, [&](index_t& failed_at) -> result<void> {
    auto own = importance_of_tasks(cache, heads.own, options, how, by, &failed_at);
    if (!own) return own.error();
    importance.resize(heads.tasks.size());
    for (std::size_t i = 0; i < own->size(); ++i) {
      importance[heads.places[i]] = std::move((*own)[i]);
    }
    for (std::size_t h = 0; h < importance.size(); ++h) {
      importance[h].resize(static_cast<std::size_t>(heads.tasks[h].visible));
    }
    return {};
  });
  if (!ok) return ok.error();
  for (std::size_t h = 0; h < importance.size(); ++h) {
    ok = ranks.broadcast(std::span(importance[h]), heads.ranks[h]);
    if (!ok) return ok.error();
  }
  return importance;
}

/// Rows for all heads, the same on every rank: what `plan_cache` gives the whole cache.
template <executor E>
result<std::vector<index_t>> rows_of_ranks(mpi_ranks& ranks, const cache_view& cache,
                                           const ranked_heads& heads, const cache_options& options,
                                           const rank_options& spread, E&& how, const watch& by) {
  // A score pass must not read what is not there.
  auto ok = in_step(ranks, heads, [&](index_t& failed_at) {
    return check_tasks(cache, heads.own, options, how, by, &failed_at);
  });
  if (!ok) return ok.error();
  auto shares = join_shares(ranks, heads, options.shares, spread.holds);
  if (!shares) return shares.error();
  std::optional<cache_options> of_all;
  std::vector<head_rows> lengths;
  bool ranks_keys = false;
  ok = in_step(ranks, heads, [&](index_t&) -> result<void> {
    of_all = options;
    of_all->shares = std::move(*shares);
    lengths = lengths_of(heads.tasks);
    const auto asks = check_shares(lengths, *of_all);
    if (!asks) return asks.error();
    ranks_keys = *asks;
    return {};
  });
  if (!ok) return ok.error();
  std::vector<std::vector<float>> importance;
  if (ranks_keys) {
    auto measured = importance_of_ranks(ranks, cache, heads, *of_all, how, by);
    if (!measured) return measured.error();
    importance = std::move(*measured);
  }
  std::vector<index_t> rows;
  ok = in_step(ranks, heads, [&](index_t&) -> result<void> {
    auto shared = share_out(lengths, *of_all, importance);
    if (!shared) return shared.error();
    rows = std::move(*shared);
    return {};
  });
  if (!ok) return ok.error();
  digest given;
  given.add_list(std::span<const index_t>(rows));
  ok = check_alike(ranks, {}, given, "rows");
  if (!ok) return ok.error();
  return rows;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
