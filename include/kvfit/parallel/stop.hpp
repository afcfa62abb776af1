// SPDX-License-Identifier: MIT
/// When work ends early: the wish to stop, and a deadline.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// The wish to stop. Any thread may express it, and a signal handler too.
class cancellation {
 public:
  void request() noexcept { is_requested_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool is_requested() const noexcept {
    return is_requested_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<bool> is_requested_{false};
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may use no lock");
};

/// When a call ends before its work is done: never, by default.
///
///     auto fitted = compact(cache, queries, options, {.cancel = &wish, .deadline = soon});
///
/// It is no option: it says nothing about the result, and belongs to one call.
struct stop_when {
  const cancellation* cancel = nullptr;
  std::optional<std::chrono::steady_clock::time_point> deadline = {};

  /// Costs one relaxed load where there is a wish to check, one reading of the clock where there is
  /// a deadline.
  [[nodiscard]] bool is_due() const noexcept {
    if (cancel != nullptr && cancel->is_requested()) return true;
    return deadline && std::chrono::steady_clock::now() >= *deadline;
  }
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `cancelled`, naming `where`, once `stop` is due; the detail says which of the two it was.
inline result<void> check_stop(const stop_when& stop, const char* where) {
  if (!stop.is_due()) return {};
  const bool is_wish = stop.cancel != nullptr && stop.cancel->is_requested();
  return error{errc::cancelled, where, error::none, error::none,
               is_wish ? "asked to stop" : "the deadline has passed"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
