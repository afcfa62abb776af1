// SPDX-License-Identifier: MIT
// How a call runs: threads, the wish to stop, a deadline, progress.
#pragma once

#include <kvfit/c/kvfit.h>

#include <chrono>
#include <functional>
#include <kvfit/core/result.hpp>
#include <kvfit/parallel/executor.hpp>
#include <kvfit/parallel/progress.hpp>
#include <kvfit/parallel/thread_pool.hpp>
#include <memory>
#include <optional>

namespace kvfit_c {

// The executor of one call: the caller's, a pool that lives as long as the call, or the calling
// thread alone.
class call_threads {
 public:
  call_threads() = default;
  explicit call_threads(int own) : pool_(std::make_unique<kvfit::thread_pool>(own)) {}
  explicit call_threads(const kvfit_call& call)
      : parallel_for_(call.parallel_for), context_(call.pool), count_(call.pool_threads) {}

  [[nodiscard]] int threads() const noexcept {
    if (pool_) return pool_->threads();
    if (parallel_for_ == nullptr) return 1;
    return count_ > 0 ? count_ : kvfit::thread_pool::hardware_threads();
  }

  template <kvfit::item_body Body>
  void run(int64_t count, Body&& body) {
    if (pool_) {
      pool_->run(count, body);
    } else if (parallel_for_ != nullptr) {
      using plain = std::remove_reference_t<Body>;
      if (count > 0) {
        parallel_for_(
            context_, count, [](void* context, int64_t i) { (*static_cast<plain*>(context))(i); },
            const_cast<void*>(static_cast<const void*>(&body)));
      }
    } else {
      for (int64_t i = 0; i < count; ++i) body(i);
    }
  }

 private:
  std::unique_ptr<kvfit::thread_pool> pool_;
  decltype(kvfit_call::parallel_for) parallel_for_ = nullptr;
  void* context_ = nullptr;
  int count_ = 0;
};

// A kvfit_call, checked.
struct call_setup {
  call_threads threads;
  kvfit::watch by;
};

// `may_cancel`, `may_report`: whether the call uses a wish to cancel and progress; others refuse
// them.
kvfit::result<call_setup> read_call(const kvfit_call* given, bool may_cancel, bool may_report);

}  // namespace kvfit_c
