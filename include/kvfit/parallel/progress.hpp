// SPDX-License-Identifier: MIT
/// Watching a parallel loop: how far it is, and the wish to stop it. Over any executor.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>

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
  std::function<void(index done, index count)> progress = {};
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// `how.run(count, body)`, watched. `cancelled` (items done, of how many) where any item was left
/// out because of the wish to stop: items begun are ended, the others are not begun.
template <executor E, item_body Body>
result<void> run_watched(E&& how, index count, Body&& body, const watch& by) {
  std::mutex mutex;
  index done = 0;
  std::atomic<bool> is_cut{false};
  how.run(count, [&](index i) noexcept {
    if (by.cancel != nullptr && by.cancel->is_requested()) {
      is_cut.store(true, std::memory_order_relaxed);
      return;
    }
    body(i);
    const std::lock_guard<std::mutex> guard(mutex);
    ++done;
    if (by.progress) by.progress(done, count);
  });
  if (is_cut.load(std::memory_order_relaxed)) return error{errc::cancelled, "items", done, count};
  return {};
}

}  // namespace kvfit::inline KVFIT_ISA
