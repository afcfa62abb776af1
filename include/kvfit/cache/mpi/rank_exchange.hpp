// SPDX-License-Identifier: MIT
/// One of several ranks that compact a cache together: which heads are its own, and what it tells.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/exchange.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/mpi/digest.hpp"
#include "kvfit/cache/mpi/join_shards.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/plan_cache.hpp"
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
  bool has_cause = false;
  wire_error cause;
  compact_report report;

  sent_report() = default;
  explicit sent_report(const head_report& of)
      : rows_before(of.rows_before),
        rows(of.rows),
        outcome(of.outcome),
        has_cause(of.cause.has_value()),
        cause(of.cause ? wire_error(*of.cause) : wire_error()),
        report(of.report) {}

  [[nodiscard]] head_report received(const head_id& id) const {
    head_report out{id, rows_before, rows, outcome, {}, report};
    if (has_cause) out.cause = cause.received();
    return out;
  }
};

static_assert(std::is_trivially_copyable_v<sent_report>);

class rank_exchange final : public head_exchange {
 public:
  rank_exchange(mpi_ranks& ranks, const rank_options& spread) : ranks_(ranks), spread_(spread) {}

  /// Finds out first that ranks were called alike, before any can wait for a message that never
  /// comes.
  result<void> find_heads(const cache_view& cache, const cache_queries& queries,
                          const cache_options& options, std::vector<head_task>& tasks) override {
    digest call;
    call.add(KVFIT_VERSION_MAJOR, KVFIT_VERSION_MINOR, KVFIT_VERSION_PATCH, sizeof(compact_report),
             spread_.holds, spread_.gathers_rows);
    call.add_options(options, !is_shard());
    auto ok = ranks_.check_same(call.value(), "options");
    if (!ok) return ok;
    std::vector<std::vector<index_t>> outlines;
    std::vector<int> each;
    digest shape;
    ok = step([&](index_t&) -> result<void> {
      outlines.resize(static_cast<std::size_t>(ranks_.size()));
      each.resize(outlines.size());
      std::iota(each.begin(), each.end(), 0);
      auto& outline = outlines[static_cast<std::size_t>(ranks_.rank())];
      outline = outline_of(cache, queries);
      shape.add(outline);
      if (is_shard()) return check_query_layers(cache, queries);
      if (const auto found = head_exchange::find_heads(cache, queries, options, tasks); !found) {
        return found;
      }
      cache_ = cache;
      std::vector<double> rows;
      for (const head_task& task : tasks) {
        rows.push_back(static_cast<double>(task.block.keys.rows()));
      }
      deal(tasks, rows);
      return {};
    });
    if (!ok) return ok;
    if (!is_shard()) return ranks_.check_same(shape.value(), "cache");
    ok = ranks_.share(std::span(outlines), each);
    if (!ok) return ok;
    return step([&](index_t&) -> result<void> {
      auto all = join_shards(outlines, options.skip);
      if (!all) return all.error();
      cache_ = std::move(all->cache);
      tasks = std::move(all->tasks);
      owners_ = std::move(all->ranks);
      find_places();
      const auto added = add_layers(cache, queries, options.skip, own_.tasks);
      for (std::size_t i = 0; added && i < places_.size(); ++i) {
        own_.tasks[i].id = tasks[places_[i]].id;
      }
      return added;
    });
  }

  const cache_plan& own(const cache_plan&) const noexcept override { return own_; }
  [[nodiscard]] std::size_t place(std::size_t i) const noexcept override { return places_[i]; }

  result<const cache_options*> join_shares(const cache_options& options) override {
    const auto* curves = is_shard() ? std::get_if<budgets::influence>(&options.shares) : nullptr;
    const auto* rows = is_shard() ? std::get_if<budgets::rows>(&options.shares) : nullptr;
    if (curves == nullptr && rows == nullptr) return &options;
    std::vector<std::vector<influence_point>> lists;  // a number of rows goes as a point
    auto ok = step([&](index_t&) -> result<void> {
      for (std::size_t i = 0; curves != nullptr && i < curves->curves.size(); ++i) {
        lists.push_back(curves->curves[i].points);
      }
      for (std::size_t i = 0; rows != nullptr && i < rows->each.size(); ++i) {
        lists.push_back({{rows->each[i], 0}});
      }
      if (lists.size() == places_.size()) return {};
      return error{errc::shape_mismatch, curves != nullptr ? "shares.curves" : "shares.each",
                   static_cast<index_t>(lists.size()), static_cast<index_t>(places_.size()),
                   "one for each head of the rank's shard"};
    });
    if (ok) ok = share_lists(lists);
    if (!ok) return ok.error();
    ok = step([&](index_t&) -> result<void> {
      joined_ = options;
      budgets::influence all_curves{{}, curves != nullptr ? curves->exact : std::nullopt};
      budgets::rows all_rows;
      for (auto& list : lists) {
        if (rows != nullptr) all_rows.each.push_back(list.front().rows);
        all_curves.curves.push_back({std::move(list)});
      }
      if (rows != nullptr) {
        joined_->shares = std::move(all_rows);
      } else {
        joined_->shares = std::move(all_curves);
      }
      return {};
    });
    if (!ok) return ok.error();
    return &*joined_;
  }

  result<void> share_importance(std::vector<std::vector<float>>& importance) override {
    return share_lists(importance);
  }

  /// Where every rank has every head, heads are dealt out anew by about what it takes to compact
  /// each: T_h · t_h, and one read where all or nothing stays.
  result<void> settle(const cache_plan& all) override {
    digest given;
    given.add(all.rows);
    if (const auto ok = ranks_.check_same(given.value(), "rows"); !ok) return ok;
    return step([&](index_t&) -> result<void> {
      std::vector<double> work;
      for (std::size_t h = 0; h < all.rows.size(); ++h) {
        const index_t length = all.tasks[h].block.keys.rows();
        const bool is_fitted = all.rows[h] > 0 && all.rows[h] < length;
        work.push_back(static_cast<double>(length) *
                       (is_fitted ? static_cast<double>(all.rows[h]) : 1));
      }
      if (!is_shard()) deal(all.tasks, work);
      own_.rows.clear();
      for (const std::size_t place : places_) own_.rows.push_back(all.rows[place]);
      return {};
    });
  }

  /// Reports of all heads; their rows where they are gathered.
  result<void> share_heads(const cache_plan& all, std::vector<compacted_head>& heads) override {
    std::vector<sent_report> sent;
    auto ok = step([&](index_t&) -> result<void> {
      for (const compacted_head& head : heads) sent.emplace_back(head.report);
      return {};
    });
    for (std::size_t h = 0; ok && h < heads.size(); ++h) {
      ok = ranks_.broadcast(std::span(&sent[h], 1), owners_[h]);
    }
    if (!ok) return ok;
    ok = step([&](index_t&) -> result<void> {
      for (std::size_t h = 0; h < heads.size(); ++h) {
        heads[h].report = sent[h].received(all.tasks[h].id);
        if (!spread_.gathers_rows || owners_[h] == ranks_.rank()) continue;
        const index_t rows = sent[h].rows;
        compacted& into = heads[h].rows;
        into.positions.resize(static_cast<std::size_t>(rows));
        into.key_positions.resize(static_cast<std::size_t>(rows));
        into.keys.resize(rows, all.tasks[h].block.keys.cols());
        into.bias.resize(rows);
        into.values.resize(rows, all.tasks[h].block.values.cols());
      }
      return {};
    });
    // Straight into the place where it stays: nothing is packed, and nothing held twice.
    for (std::size_t h = 0; ok && spread_.gathers_rows && h < heads.size(); ++h) {
      const auto send = [&](auto& numbers) {
        if (ok)
          ok = ranks_.broadcast(std::span(numbers.data(), static_cast<std::size_t>(numbers.size())),
                                owners_[h]);
      };
      send(heads[h].rows.positions);
      send(heads[h].rows.key_positions);
      send(heads[h].rows.keys);
      send(heads[h].rows.bias);
      send(heads[h].rows.values);
    }
    return ok;
  }

  /// All layers of the cache; of shards, blocks have sizes and no memory.
  [[nodiscard]] const cache_view& cache() const noexcept { return cache_; }
  /// Who works on each head.
  [[nodiscard]] const std::vector<int>& owners() const noexcept { return owners_; }
  [[nodiscard]] const std::vector<std::size_t>& places() const noexcept { return places_; }

 protected:
  /// An exception can't go to another process, and so becomes an error.
  result<void> run(const std::function<result<void>(index_t& failed_at)>& work) override {
    index_t failed_at = first_failure::nowhere;
    const auto own = [&]() -> result<void> {
#if KVFIT_HAS_EXCEPTIONS
      try {
#endif
        return catch_bad_alloc("compact_cache", [&] { return work(failed_at); });
#if KVFIT_HAS_EXCEPTIONS
      } catch (const std::exception& thrown) {
        return policy_threw(failed_at, thrown.what());
      } catch (...) {
        return policy_threw(failed_at, "");
      }
#endif
    }();
    // What is no head's comes after those of heads.
    return ranks_.agree(
        own, is_own(failed_at) ? static_cast<index_t>(places_[static_cast<std::size_t>(failed_at)])
                               : first_failure::nowhere);
  }

 private:
  [[nodiscard]] bool is_shard() const noexcept {
    return spread_.holds == rank_holds::shard;
  }
  [[nodiscard]] bool is_own(index_t i) const noexcept {
    return i < static_cast<index_t>(own_.tasks.size());
  }

  [[nodiscard]] result<void> policy_threw(index_t failed_at, const char* what) const noexcept {
    return catch_bad_alloc("compact_cache", [&]() -> result<void> {
      const auto at = static_cast<std::size_t>(failed_at);
      return error{errc::policy_threw, is_own(failed_at) ? name(own_.tasks[at].id) : "",
                   error::none, error::none, what};
    });
  }

  void find_places() {
    places_.clear();
    for (std::size_t h = 0; h < owners_.size(); ++h) {
      if (owners_[h] == ranks_.rank()) places_.push_back(h);
    }
  }

  /// Where every rank has every head: each goes to the rank with the least work so far.
  void deal(const std::vector<head_task>& tasks, std::span<const double> work) {
    owners_ = balance(work, ranks_.size());
    find_places();
    own_.tasks.clear();
    for (const std::size_t place : places_) own_.tasks.push_back(tasks[place]);
  }

  /// lists: one for each own head; in return one for each of all heads.
  template <class T>
  result<void> share_lists(std::vector<std::vector<T>>& lists) {
    const auto ok = step([&](index_t&) -> result<void> {
      std::vector<std::vector<T>> all(owners_.size());
      for (std::size_t i = 0; i < places_.size(); ++i) all[places_[i]] = std::move(lists[i]);
      lists = std::move(all);
      return {};
    });
    if (!ok) return ok;
    return ranks_.share(std::span(lists), owners_);
  }

  mpi_ranks& ranks_;
  rank_options spread_;
  cache_view cache_;
  std::vector<int> owners_;
  std::vector<std::size_t> places_;  // of this rank's heads among all
  cache_plan own_;
  std::optional<cache_options> joined_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
