// SPDX-License-Identifier: MIT
/// What processes that compact one cache together tell one another between the steps of a plan.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

struct cache_plan;      // plan_cache.hpp
struct compacted_head;  // fit_head.hpp

namespace detail {
inline namespace KVFIT_ISA {

/// The plan and the fits are the same code for one process and for many: they ask this class which
/// heads are their own and what the others found. The class itself is a process alone, which has
/// all heads and nobody to tell. `rank_exchange` (cache/mpi) is one of several.
class head_exchange {
 public:
  head_exchange() = default;
  head_exchange(const head_exchange&) = delete;
  head_exchange& operator=(const head_exchange&) = delete;
  virtual ~head_exchange() = default;

  /// `work(failed_at)`, which returns `result<void>` and tells nobody anything. If it fails in one
  /// process it has failed in all, with the error of the first head. failed_at: the place of that
  /// head among the process's own, where `work` knows one.
  template <class Work>
  result<void> step(const Work& work) {
    return run(std::cref(work));  // which allocates nothing
  }

  /// The heads of all processes in the order of the serial call. Those of others may have sizes and
  /// no memory; their `layer` is a place in the view that all processes have together.
  virtual result<void> find_heads(const cache_view& cache, const cache_queries& queries,
                                  const cache_options& options, std::vector<head_task>& tasks) {
    auto found = tasks_of(cache, queries, options.skip);
    if (!found) return found.error();
    tasks = std::move(*found);
    return {};
  }

  /// What this process carries out of the plan of all heads; its tasks refer to its own view.
  virtual const cache_plan& own(const cache_plan& all) const noexcept { return all; }

  /// The place among all heads of the process's own head number `i`.
  [[nodiscard]] virtual std::size_t place(std::size_t i) const noexcept { return i; }

  /// The options with what the budget policy has for each head of all processes.
  virtual result<const cache_options*> join_shares(const cache_options& options) {
    return &options;
  }

  /// importance: one list for each own head; in return one for each of all heads.
  virtual result<void> share_importance(std::vector<std::vector<float>>&) { return {}; }

  /// The rows of all heads are known: decides who compacts which head.
  virtual result<void> settle(const cache_plan&) { return {}; }

  /// heads: all, of which the own ones are there; in return the others are there, too.
  virtual result<void> share_heads(const cache_plan&, std::vector<compacted_head>&) { return {}; }

 protected:
  virtual result<void> run(const std::function<result<void>(index_t& failed_at)>& work) {
    index_t failed_at = 0;
    return work(failed_at);
  }
};

}  // namespace KVFIT_ISA
}  // namespace detail
}  // namespace kvfit
