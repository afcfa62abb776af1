// SPDX-License-Identifier: MIT
/// One of several ranks that compact a cache together: which heads are its own, and what it tells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_plan.hpp"
#include "kvfit/cache/exchange.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/mpi/digest.hpp"
#include "kvfit/cache/mpi/join_shards.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/parallel/balance.hpp"
#include "kvfit/parallel/mpi.hpp"
#include "kvfit/parallel/wire_error.hpp"

#if KVFIT_HAS_EXCEPTIONS
#include <exception>
#endif

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

/// A `head_report` as it is sent; the head is known by its place.
struct sent_report {
  index_t rows_before = 0;
  index_t rows = 0;
  head_outcome outcome = head_outcome::fitted;
  std::optional<wire_error> cause;
  compact_report report;

  sent_report() = default;
  explicit sent_report(const head_report& of)
      : rows_before(of.rows_before), rows(of.rows), outcome(of.outcome), report(of.report) {
    if (of.cause) cause.emplace(*of.cause);
  }

  [[nodiscard]] head_report received(const head_id& id) const {
    head_report out{id, rows_before, rows, outcome, {}, report};
    if (cause) out.cause = cause->received();
    return out;
  }
};

static_assert(std::is_trivially_copyable_v<sent_report>);

/// One rank. All ranks call what tells or asks anything, in the same order.
class rank_exchange final : public head_exchange {
 public:
  rank_exchange(mpi_ranks& ranks, const rank_options& spread)
      : ranks_(ranks), spread_(spread), is_shard_(spread.holds == rank_holds::shard) {}

  /// Finds out first that ranks were called alike, before any can wait for a message that never
  /// comes.
  result<const cache_options*> find_heads(const cache_view& cache, const cache_queries& queries,
                                          const cache_options& options,
                                          std::vector<head_task>& tasks) override {
    auto ok = ranks_.agree(check_lanes(options));
    digest call;
    call.add(KVFIT_VERSION_MAJOR, KVFIT_VERSION_MINOR, KVFIT_VERSION_PATCH, sizeof(compact_report),
             spread_.holds, spread_.gathers_rows);
    call.add_options(options, !is_shard_);
    if (ok) ok = ranks_.check_same(call.value(), "options");
    std::vector<std::vector<index_t>> outlines;
    digest shape;
    const auto read_shard = [&](index_t&) -> result<void> {
      outlines.resize(static_cast<std::size_t>(ranks_.size()));
      auto& outline = outlines[static_cast<std::size_t>(ranks_.rank())];
      outline = outline_of(cache, queries);
      shape.add(outline);
      if (is_shard_) return check_query_layers(cache, queries);
      const auto found = head_exchange::find_heads(cache, queries, options, tasks);
      if (!found) return found.error();
      cache_ = cache;
      deal(tasks, {});
      return {};
    };
    if (ok) ok = step(read_shard);
    if (ok) {
      ok =
          is_shard_ ? ranks_.share(std::span(outlines)) : ranks_.check_same(shape.value(), "cache");
    }
    if (!ok) return ok.error();
    if (!is_shard_) return &options;
    ok = step([&](index_t&) -> result<void> {
      auto all = join_shards(outlines, options.skip);
      if (!all) return all.error();
      cache_ = std::move(all->cache);
      tasks = std::move(all->tasks);
      take(std::move(all->ranks));
      const auto added = add_layers(cache, queries, options.skip, own_.tasks);
      for (std::size_t i = 0; added && i < places_.size(); ++i) {
        own_.tasks[i].id = tasks[places_[i]].id;
      }
      return added;
    });
    if (!ok) return ok.error();
    return join_shares(options);
  }

  const cache_plan& own(const cache_plan&) const noexcept override { return own_; }

  /// Another process may fit a head than the one that ranked its keys.
  [[nodiscard]] bool keeps_scores() const noexcept override { return false; }

  result<void> share_importance(std::vector<std::vector<float>>& importance) override {
    return share_lists(importance);
  }

  result<void> settle(const cache_plan& all) override {
    digest given;
    given.add(all.rows);
    if (const auto ok = ranks_.check_same(given.value(), "rows"); !ok) return ok;
    return step([&](index_t&) -> result<void> {
      if (!is_shard_) deal(all.tasks, all.rows);
      for (const std::size_t place : places_) own_.rows.push_back(all.rows[place]);
      return {};
    });
  }

  /// Reports of all heads; their rows where they are gathered.
  result<void> share_heads(const cache_plan& all, std::vector<compacted_head>& heads) override {
    std::vector<sent_report> sent;
    auto ok = step([&](index_t&) -> result<void> {
      heads = in_places(heads);
      for (const compacted_head& head : heads) sent.emplace_back(head.report);
      return {};
    });
    for (std::size_t h = 0; ok && h < heads.size(); ++h) {
      ok = ranks_.broadcast(std::span(&sent[h], 1), owners_[h]);
    }
    const auto receive = [&](index_t&) -> result<void> {
      for (std::size_t h = 0; h < heads.size(); ++h) {
        heads[h].report = sent[h].received(all.tasks[h].id);
        if (!spread_.gathers_rows || owners_[h] == ranks_.rank()) continue;
        compacted& into = heads[h].rows;
        into.positions.resize(static_cast<std::size_t>(sent[h].rows));
        into.key_positions.resize(static_cast<std::size_t>(sent[h].rows));
        into.keys.resize(sent[h].rows, all.tasks[h].block.keys.cols());
        into.bias.resize(sent[h].rows);
        into.values.resize(sent[h].rows, all.tasks[h].block.values.cols());
      }
      return {};
    };
    if (ok) ok = step(receive);
    // Straight into the place where it stays: nothing is packed, and nothing held twice.
    for (std::size_t h = 0; spread_.gathers_rows && h < heads.size(); ++h) {
      const auto send = [&](auto& of) {
        if (!ok) return;
        ok =
            ranks_.broadcast(std::span(of.data(), static_cast<std::size_t>(of.size())), owners_[h]);
      };
      compacted& rows = heads[h].rows;
      send(rows.positions);
      send(rows.key_positions);
      send(rows.keys);
      send(rows.bias);
      send(rows.values);
    }
    return ok;
  }

  /// All layers of the cache; of shards, blocks have sizes and no memory.
  [[nodiscard]] const cache_view& cache() const noexcept { return cache_; }
  /// Who works on each head.
  [[nodiscard]] const std::vector<int>& owners() const noexcept { return owners_; }
  /// The places of this rank's heads among all.
  [[nodiscard]] const std::vector<std::size_t>& places() const noexcept { return places_; }

 protected:
  /// An exception can't go to another process, and so becomes an error.
  result<void> run(work_function work, const void* of) override {
    index_t failed_at = first_failure::nowhere;
    const auto own = [&]() -> result<void> {
#if KVFIT_HAS_EXCEPTIONS
      try {
#endif
        return catch_bad_alloc("compact_cache", [&] { return work(of, failed_at); });
#if KVFIT_HAS_EXCEPTIONS
      } catch (const std::exception& thrown) {
        return policy_threw(failed_at, thrown.what());
      } catch (...) {
        return policy_threw(failed_at, "");
      }
#endif
    }();
    // What is no head's comes after what is one's.
    const auto i = static_cast<std::size_t>(failed_at);
    return ranks_.agree(
        own, i < places_.size() ? static_cast<index_t>(places_[i]) : first_failure::nowhere);
  }

 private:
  [[nodiscard]] result<void> policy_threw(index_t failed_at, const char* what) const noexcept {
    return catch_bad_alloc("compact_cache", [&]() -> result<void> {
      const auto i = static_cast<std::size_t>(failed_at);
      return error{errc::policy_threw, i < own_.tasks.size() ? name(own_.tasks[i].id) : "",
                   error::none, error::none, what};
    });
  }

  /// `options` where each rank's curves or rows are those of its own heads, with those of all.
  result<const cache_options*> join_shares(const cache_options& options) {
    const auto* curves = std::get_if<budgets::influence>(&options.shares);
    const auto* rows = std::get_if<budgets::rows>(&options.shares);
    if (curves == nullptr && rows == nullptr) return &options;
    std::vector<std::vector<influence_point>> lists;  // a number of rows goes as a point
    auto ok = step([&](index_t&) -> result<void> {
      if (rows == nullptr) {
        for (const influence_curve& curve : curves->curves) lists.push_back(curve.points);
      } else {
        for (const index_t count : rows->each) lists.push_back({{count, 0}});
      }
      if (lists.size() == places_.size()) return {};
      return error{errc::shape_mismatch, rows == nullptr ? "shares.curves" : "shares.each",
                   static_cast<index_t>(lists.size()), static_cast<index_t>(places_.size()),
                   "one for each head of the rank's shard"};
    });
    if (ok) ok = share_lists(lists);
    const auto put = [&](index_t&) -> result<void> {
      joined_ = options;
      if (rows == nullptr) {
        auto& all = std::get<budgets::influence>(joined_->shares).curves;
        all.resize(lists.size());
        for (std::size_t h = 0; h < all.size(); ++h) all[h].points = std::move(lists[h]);
      } else {
        auto& all = std::get<budgets::rows>(joined_->shares).each;
        all.resize(lists.size());
        for (std::size_t h = 0; h < all.size(); ++h) all[h] = lists[h].front().rows;
      }
      return {};
    };
    if (ok) ok = step(put);
    if (!ok) return ok.error();
    return &*joined_;
  }

  void take(std::vector<int>&& owners) {
    owners_ = std::move(owners);
    places_.clear();
    for (std::size_t h = 0; h < owners_.size(); ++h) {
      if (owners_[h] == ranks_.rank()) places_.push_back(h);
    }
  }

  /// Where every rank has every head: each goes to the rank with the least work so far. That is
  /// about T_h · t_h, and one read where all or nothing stays or rows are not known.
  void deal(const std::vector<head_task>& tasks, std::span<const index_t> rows) {
    std::vector<double> work;
    for (const head_task& task : tasks) {
      const index_t length = task.block.keys.rows();
      const index_t kept = rows.empty() ? 0 : rows[work.size()];
      work.push_back(static_cast<double>(length) *
                     (kept > 0 && kept < length ? static_cast<double>(kept) : 1));
    }
    take(balance(work, ranks_.size()));
    own_.tasks.clear();
    for (const std::size_t place : places_) own_.tasks.push_back(tasks[place]);
  }

  /// own: one for each own head. One for each of all heads, the own ones in their places.
  template <class T>
  [[nodiscard]] std::vector<T> in_places(std::vector<T>& own) const {
    std::vector<T> all(owners_.size());
    for (std::size_t i = 0; i < places_.size(); ++i) all[places_[i]] = std::move(own[i]);
    return all;
  }

  /// lists: one for each own head; in return one for each of all heads.
  template <class T>
  result<void> share_lists(std::vector<std::vector<T>>& lists) {
    const auto ok = step([&](index_t&) -> result<void> {
      lists = in_places(lists);
      return {};
    });
    return ok ? ranks_.share(std::span(lists), owners_) : ok;
  }

  mpi_ranks& ranks_;
  rank_options spread_;
  bool is_shard_;
  cache_view cache_;
  std::vector<int> owners_;
  std::vector<std::size_t> places_;
  cache_plan own_;  // its tasks refer to this rank's view
  std::optional<cache_options> joined_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
