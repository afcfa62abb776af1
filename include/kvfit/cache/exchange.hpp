// SPDX-License-Identifier: MIT
/// What processes that compact one cache together tell one another between the steps of a plan.
#pragma once

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

/// Plan and fits are the same code for one process and for several: they ask this class which heads
/// are their own, and what the others found. The class itself is a process alone, which has all
/// heads and nobody to tell; `rank_exchange` (cache/mpi) is one of several.
class head_exchange {
 public:
  virtual ~head_exchange() = default;

  /// tasks: the heads of all processes in the order of the serial call; those of others may have
  /// sizes and no memory. In return the options with what the budget policy has for each of them.
  virtual result<const cache_options*> find_heads(const cache_view& cache,
                                                  const cache_queries& queries,
                                                  const cache_options& options,
                                                  std::vector<head_task>& tasks) {
    if (const auto ok = check_lanes(options); !ok) return ok.error();
    auto found = tasks_of(cache, queries, options.skip);
    if (!found) return found.error();
    tasks = std::move(*found);
    return &options;
  }

  /// The process's own part of the plan of all heads.
  virtual const cache_plan& own(const cache_plan& all) const noexcept { return all; }

  /// Whether fits may begin with the score passes of a ranking: where the same process makes both.
  [[nodiscard]] virtual bool keeps_scores() const noexcept { return true; }

  /// `work(failed_at)`, which returns `result<void>`. What fails in one process has failed in all,
  /// with the error of the first head. failed_at: its place in the own part, where `work` knows it.
  template <class Work>
  result<void> step(const Work& work) {
    return run([](const void* of, index_t& at) { return (*static_cast<const Work*>(of))(at); },
               &work);
  }

  /// importance: one list for each own head; in return one for each of all heads.
  virtual result<void> share_importance(std::vector<std::vector<float>>&) { return {}; }

  /// The rows of all heads are known: decides who compacts which head.
  virtual result<void> settle(const cache_plan&) { return {}; }

  /// heads: the own ones; in return all.
  virtual result<void> share_heads(const cache_plan&, std::vector<compacted_head>&) { return {}; }

 protected:
  static result<void> check_lanes(const cache_options& options) {
    if (options.heads_at_once >= 0) return {};
    return error{errc::invalid_option, "heads_at_once", options.heads_at_once, 0,
                 "must not be negative"};
  }

  using work_function = result<void> (*)(const void* of, index_t& failed_at);
  virtual result<void> run(work_function work, const void* of) {
    index_t failed_at = 0;
    return work(of, failed_at);
  }
};

}  // namespace KVFIT_ISA
}  // namespace detail
}  // namespace kvfit
