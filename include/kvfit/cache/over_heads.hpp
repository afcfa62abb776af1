// SPDX-License-Identifier: MIT
/// A loop over heads that ends with the first head's error, whoever met it when.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"

#if KVFIT_HAS_EXCEPTIONS
#include <exception>
#endif

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What went wrong in a loop, of which only the failure at the lowest place is kept.
class first_failure {
 public:
  /// Whether items at `place` still matter: nothing before it has failed.
  [[nodiscard]] bool matters(index_t place) const noexcept {
    return place < lowest_.load(std::memory_order_relaxed);
  }

  /// The lowest place that failed; `nowhere` where none did.
  static constexpr index_t nowhere = (std::numeric_limits<index_t>::max)();
  [[nodiscard]] index_t place() const noexcept { return lowest_; }

  void record(index_t place, error cause) noexcept {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (!matters(place)) return;
    lowest_.store(place, std::memory_order_relaxed);
    cause_ = std::move(cause);
#if KVFIT_HAS_EXCEPTIONS
    thrown_ = nullptr;
#endif
  }

#if KVFIT_HAS_EXCEPTIONS
  /// The exception under way: one of a caller's own policy.
  void record_thrown(index_t place) noexcept {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (!matters(place)) return;
    lowest_.store(place, std::memory_order_relaxed);
    cause_.reset();
    thrown_ = std::current_exception();
  }
#endif

  /// After the loop, on the caller's thread: the error, or the exception thrown on.
  [[nodiscard]] result<void> outcome() const {
#if KVFIT_HAS_EXCEPTIONS
    if (thrown_) std::rethrow_exception(thrown_);
#endif
    if (cause_) return *cause_;
    return {};
  }

 private:
  std::mutex mutex_;
  std::atomic<index_t> lowest_ = nowhere;
  std::optional<error> cause_;
#if KVFIT_HAS_EXCEPTIONS
  std::exception_ptr thrown_;
#endif
};

/// `body(i)`, which returns `result<void>`, for each i in [0, count), at most `at_once` at a time
/// (0: as many as `how` runs). The error is that of the lowest i that fails, at any number of
/// threads; items above one that failed are not begun. `cancelled` (items done, of how many) where
/// it was time to stop, and no other error. `failed_at`, if given, is told that i, before an
/// exception goes on, or `first_failure::nowhere`.
template <executor E, class Body>
result<void> over_heads(E&& how, index_t count, index_t at_once, const watch& by, const Body& body,
                        index_t* failed_at = nullptr) {
  first_failure failure;
  const auto run_one = [&](index_t i) noexcept -> bool {
    if (!failure.matters(i)) return true;
#if KVFIT_HAS_EXCEPTIONS
    try {
#endif
      if (const auto ok = catch_bad_alloc("heads", [&] { return body(i); }); !ok) {
        if (ok.error().code == errc::cancelled && by.stop().is_due()) return false;
        failure.record(i, ok.error());
      }
#if KVFIT_HAS_EXCEPTIONS
    } catch (...) {
      failure.record_thrown(i);
    }
#endif
    return true;
  };
  const result<void> ran = run_watched(how, count, run_one, by, at_once);
  if (failed_at != nullptr) *failed_at = failure.place();
  if (const auto failed = failure.outcome(); !failed) return failed;
  return ran;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
