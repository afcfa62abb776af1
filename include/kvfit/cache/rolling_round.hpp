// SPDX-License-Identifier: MIT
/// One round of a rolling cache: what it compacts, the work itself, and what comes of it.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/chunks.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/rolling_options.hpp"
#include "kvfit/cache/stacked_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"

namespace kvfit {

/// Who watches a round. To stop it: `rolling_round::cancel`.
struct round_watch {
  /// As of `watch`: called after each head with 1, 2, …, count.
  std::function<void(index_t done, index_t count)> progress = {};
  /// Read before each head and within it, as often as `compact` reads it: the outcome is then
  /// `cancelled`, and heads that were done are dropped with it. The round may be run again under a
  /// later one, as long as it is neither applied nor abandoned.
  std::optional<std::chrono::steady_clock::time_point> deadline = {};
};

namespace detail {

/// One head's input: its compact rows, and the live ones to go with them.
struct head_stack {
  stacked_rows keys;
  stacked_rows values;
  std::vector<float> bias;         ///< of the compact rows as fitted, then the live rows' own or 0
  std::vector<index_t> positions;  ///< where the keys stand
};

/// What a round refers to: shared by the round, its outcome and the rolling cache.
struct round_state {
  std::shared_ptr<const compacted_cache> before;  ///< none in the first round
  cache_view view;                                ///< refers to `stacks`
  std::deque<head_stack> stacks;
  cache_options options;
  chunk taken;  ///< live rows that go into the round, numbered in the text
  cancellation stop;
};

}  // namespace detail

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// What a round came to: a cache or an error. `rolling_cache::apply` takes it.
class rolling_outcome {
 public:
  /// What the cache would be, with a report of every head; or why there is none.
  [[nodiscard]] const result<std::shared_ptr<const compacted_cache>>& cache() const noexcept {
    return cache_;
  }

 private:
  friend class rolling_round;
  friend class rolling_cache;
  rolling_outcome(std::shared_ptr<const detail::round_state> of,
                  result<std::shared_ptr<const compacted_cache>> cache)
      : of_(std::move(of)), cache_(std::move(cache)) {}

  std::shared_ptr<const detail::round_state> of_;
  result<std::shared_ptr<const compacted_cache>> cache_;
};

/// The rows that one round compacts, by reference: from `rolling_cache::begin`, to be run on any
/// thread. The live rows that it takes must stay where and as they are until `run` has returned;
/// rows may be added behind them, and the rolling cache used and asked as ever.
class rolling_round {
 public:
  /// The live rows that go into the round, by their numbers in the text.
  [[nodiscard]] const chunk& taken() const noexcept { return state_->taken; }

  /// Compacts, on the threads of `how` and the calling one. Nothing of the rolling cache changes.
  ///
  /// queries: of every layer that is compacted, as `compact_cache` wants them; they see old compact
  /// rows and live rows alike, all at their positions in the text.
  /// The outcome's error: those of `compact_cache`; `cancelled`, whose detail says whether by wish
  /// or deadline. Once `cancel` was called every run ends so. Cost: that of `compact_cache`; live
  /// rows are read where they lie.
  template <executor E>
  [[nodiscard]] rolling_outcome run(const cache_queries& queries, E&& how,
                                    const round_watch& by = {}) const {
    return {state_,
            detail::catch_bad_alloc("rolling_round", [&] { return compact(queries, how, by); })};
  }

  /// Ends `run` with `cancelled`, within the heads under way, and whatever `run` comes after. Any
  /// thread may ask, and a signal handler.
  void cancel() const noexcept { state_->stop.request(); }

 private:
  friend class rolling_cache;
  explicit rolling_round(std::shared_ptr<detail::round_state> state) : state_(std::move(state)) {}

  template <executor E>
  result<std::shared_ptr<const compacted_cache>> compact(const cache_queries& queries, E&& how,
                                                         const round_watch& by) const {
    const watch watching{.cancel = &state_->stop, .progress = by.progress, .deadline = by.deadline};
    if (const auto ok = check_stop(watching.stop(), "round"); !ok) return ok.error();
    auto fitted = compact_cache(state_->view, queries, state_->options, how, watching);
    if (!fitted) {
      error cause = fitted.error();
      const auto why = check_stop(watching.stop(), "round");
      if (cause.code == errc::cancelled && !why) cause.detail = why.error().detail;
      return cause;
    }
    number_rows(*fitted);
    return std::make_shared<const compacted_cache>(std::move(*fitted));
  }

  /// Rows of the round's input become rows of the text: those of the block before have their
  /// numbers there, live rows follow in order. Where keys stand says nothing about that.
  void number_rows(compacted_cache& fitted) const {
    for (std::size_t l = 0; l < fitted.layers.size(); ++l) {
      compacted_layer& layer = fitted.layers[l];
      const compacted_layer* before = state_->before ? &state_->before->layers[l] : nullptr;
      for (std::size_t h = 0; h < layer.heads.size(); ++h) {
        const index_t above = before != nullptr ? before->rows(h) : 0;
        for (index_t j = layer.offsets[h]; j < layer.offsets[h + 1]; ++j) {
          index_t& row = layer.positions[static_cast<std::size_t>(j)];
          row = row < above ? before->positions[static_cast<std::size_t>(before->offsets[h] + row)]
                            : state_->taken.first + row - above;
        }
      }
    }
  }

  std::shared_ptr<detail::round_state> state_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
