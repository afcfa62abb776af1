// SPDX-License-Identifier: MIT
/// The GPU as calls use it. Include kvfit/metal/executor.hpp.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/guarded_device.hpp"
#include "kvfit/metal/placement.hpp"

namespace kvfit::metal {

struct executor_options {
  placement from = {};
  device_options device = {};
};

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// The GPU, made once and used by any number of calls, from any number of threads (one of them at a
/// time works on it). It must outlive the calls, and neither copies nor globals of it are kept.
///
///     auto gpu = kvfit::metal::executor::make();
///     if (!gpu) return gpu.error();
///     auto fitted = kvfit::metal::compact(*gpu, cache, queries, {.budget = 256});
class executor {
 public:
  /// `no_device` where the system offers none; see `device::open`. `invalid_option` for a placement
  /// that is NaN or negative, or a wait that is not a positive number of seconds, at most a day's.
  /// No shader is compiled yet: that is done at its first use.
  static result<executor> make(const executor_options& options = {}) {
    return detail::catch_bad_alloc("metal", [&]() -> result<executor> {
      for (const double from : {options.from.score_from, options.from.attend_from,
                                options.from.select_from, options.from.fit_from}) {
        if (!(from >= 0)) {
          return error{errc::invalid_option, "placement", error::none, error::none,
                       "sizes must not be negative"};
        }
      }
      if (options.device.share_from < 0) {
        return error{errc::invalid_option, "share_from", options.device.share_from, 0,
                     "must not be negative"};
      }
      constexpr double day = 86400;
      if (const auto& wait = options.device.longest_wait; wait && !(*wait > 0 && *wait <= day)) {
        return error{errc::invalid_option, "longest_wait", error::none, error::none,
                     "must be above 0 and at most a day"};
      }
      auto gpu = device::open(options.device);
      if (!gpu) return gpu.error();
      executor out;
      out.state_ = std::make_unique<guarded_device>();
      out.state_->gpu = std::move(*gpu);
      out.state_->from = options.from;
      return out;
    });
  }

  /// What has run where, since it was made.
  [[nodiscard]] stage_counts counts() const {
    const std::lock_guard<std::mutex> guard(state_->mutex);
    return state_->counts;
  }
  [[nodiscard]] const placement& from() const noexcept { return state_->from; }
  /// For the stages beneath it.
  [[nodiscard]] guarded_device& state() const noexcept { return *state_; }

 private:
  executor() = default;

  std::unique_ptr<guarded_device> state_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
