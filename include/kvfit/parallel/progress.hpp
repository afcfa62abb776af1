// SPDX-License-Identifier: MIT
/// Watching a parallel loop: how far it is, and the wish to stop it. Over any executor.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <type_traits>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit {

/// Who watches a loop. Nobody, by default.
struct watch {
  const cancellation* cancel = nullptr;
  /// Called after each item with 1, 2, …, count: never by two threads at once, though not always by
  /// the same. It must not throw.
  std::function<void(index_t done, index_t count)> progress = {};
  std::optional<std::chrono::steady_clock::time_point> deadline = {};

  /// For calls within an item.
  [[nodiscard]] stop_when stop() const noexcept { return {cancel, deadline}; }
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `how.run(count, body)`, watched. `cancelled` (items done, of how many) where any item was left
/// out because it was time to stop: items begun are ended, the others are not begun. A body that
/// returns bool says by false that it has stopped by itself, and is not done.
///
/// at_once: items that may be under way at the same time, ≥ 0; 0: as many as `how` runs.
template <executor E, item_body Body>
result<void> run_watched(E&& how, index_t count, Body&& body, const watch& by,
                         index_t at_once = 0) {
  const stop_when stop = by.stop();
  std::mutex mutex;
  index_t done = 0;
  std::atomic<bool> is_cut{false};
  const auto run_item = [&](index_t i) noexcept {
    if (stop.is_due()) {
      is_cut.store(true, std::memory_order_relaxed);
      return;
    }
    if constexpr (std::is_same_v<std::invoke_result_t<Body&, index_t>, bool>) {
      if (!body(i)) {
        is_cut.store(true, std::memory_order_relaxed);
        return;
      }
    } else {
      body(i);
    }
    const std::lock_guard<std::mutex> guard(mutex);
    ++done;
    if (by.progress) by.progress(done, count);
  };
  if (at_once == 0 || at_once >= count) {
    how.run(count, run_item);
  } else {
    // As many lanes as may be under way, each taking the next item there is.
    std::atomic<index_t> next{0};
    how.run(at_once, [&](index_t) noexcept {
      for (index_t i = next++; i < count; i = next++) run_item(i);
    });
  }
  if (is_cut.load(std::memory_order_relaxed)) return error{errc::cancelled, "items", done, count};
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
