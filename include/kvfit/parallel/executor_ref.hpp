// SPDX-License-Identifier: MIT
/// An executor whose type is forgotten, for work within one head.
#pragma once

#include <algorithm>
#include <concepts>
#include <thread>
#include <type_traits>

#include "kvfit/parallel/executor.hpp"

namespace kvfit {

/// Refers to an executor that outlives it, or to none: then items run one after the other, on the
/// calling thread. Two pointers and a number, so that it crosses entry points that are no
/// templates.
///
///     kvfit::thread_pool pool(4);
///     auto fitted = kvfit::compact(cache, queries, options, {}, pool);
class executor_ref {
 public:
  executor_ref() = default;

  /// `threads`: how many items run at once, which decides how much memory they may take together;
  /// 0: as many as `how.threads()` says, or as the machine has.
  template <executor E>
  requires(!std::same_as<std::remove_cv_t<E>, executor_ref>)
      executor_ref(E& how,
                   int threads = 0)  // NOLINT(google-explicit-constructor): it is meant to convert
      : how_(const_cast<std::remove_const_t<E>*>(&how)), run_on_(&run_on<E>), threads_(threads) {
    if (threads_ > 0) return;
    if constexpr (requires {
                    { how.threads() } -> std::convertible_to<int>;
                  }) {
      threads_ = (std::max)(1, static_cast<int>(how.threads()));
    } else {
      threads_ = (std::max)(1, static_cast<int>(std::thread::hardware_concurrency()));
    }
  }

  [[nodiscard]] int threads() const noexcept { return threads_; }

  // Always inlined: files compiled for other instruction sets must not share a copy.

  /// The same executor, its items taking memory for no more than `count` ≥ 1 at once.
  [[nodiscard, gnu::always_inline]] executor_ref at_most(index_t count) const noexcept {
    executor_ref out = *this;
    out.threads_ = static_cast<int>((std::min)(count, static_cast<index_t>(threads_)));
    return out;
  }

  /// The same executor where there is work for several threads, else nobody: to wake one takes as
  /// long as some million operations.
  [[nodiscard, gnu::always_inline]] executor_ref for_work(double operations) const noexcept {
    constexpr double least = 2e6;
    return operations < least ? executor_ref() : *this;
  }

  template <item_body Body>
  void run(index_t count, Body&& body) const {
    if (how_ == nullptr || count <= 1) {
      for (index_t i = 0; i < count; ++i) body(i);
      return;
    }
    using plain_body = std::remove_reference_t<Body>;
    run_on_(
        how_, count,
        [](const void* context, index_t i) noexcept {
          (*static_cast<plain_body*>(const_cast<void*>(context)))(i);  // it was handed in as one
        },
        &body);
  }

 private:
  using item = void (*)(const void* context, index_t i) noexcept;

  template <class E>
  static void run_on(void* how, index_t count, item call, const void* context) {
    static_cast<E*>(how)->run(count, [call, context](index_t i) noexcept { call(context, i); });
  }

  void* how_ = nullptr;
  void (*run_on_)(void* how, index_t count, item call, const void* context) = nullptr;
  int threads_ = 1;
};

static_assert(executor<executor_ref> && executor<const executor_ref>);

/// `body(first, many)` over [0, count) in pieces of `most` ≥ 1, the last one shorter. Pieces do not
/// depend on who runs them, so neither do the sums made in one.
template <class Body>
requires std::is_nothrow_invocable_v<Body&, index_t, index_t>
void over_pieces(const executor_ref& how, index_t count, index_t most, Body&& body) {
  how.run((count + most - 1) / most, [&](index_t piece) noexcept {
    const index_t first = piece * most;
    body(first, (std::min)(most, count - first));
  });
}

}  // namespace kvfit
