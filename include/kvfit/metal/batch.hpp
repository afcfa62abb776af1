// SPDX-License-Identifier: MIT
/// Dispatches of kernels, collected in one command buffer and waited for once.
#pragma once

#include <Metal/Metal.hpp>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/buffer.hpp"
#include "kvfit/metal/device.hpp"
#include "kvfit/metal/kernels/shared/tile_sizes.h"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// A buffer and the place where a kernel reads it.
struct binding {
  int index;
  const buffer* memory;
};

/// Threadgroups of a dispatch, each of `group_threads`.
struct group_grid {
  index_t x = 1;
  index_t y = 1;
  index_t z = 1;
};

/// One command buffer. Dispatches between two calls of `next()` may run at the same time; those
/// after it see what those before have written. Nothing runs before `run()`.
class batch {
 public:
  explicit batch(device& on) : on_(on) {}
  batch(const batch&) = delete;
  batch& operator=(const batch&) = delete;
  ~batch() {
    if (encoder_ != nullptr) encoder_->endEncoding();  // Metal wants it of encoders left alone
  }

  /// Adds a dispatch; `arguments` is what the kernel reads at `arguments_index`. Buffers are bound
  /// from their first byte on, whatever their own `first_byte`: kernels take offsets of elements,
  /// and Metal wants more of its offsets than an element's alignment. Buffers that are not named
  /// are `device::nothing`: the kernel must not read them.
  template <class Arguments>
  result<void> add(const kernel_name& kernel, const Arguments& arguments, int arguments_index,
                   std::initializer_list<binding> buffers, const group_grid& groups) {
    return add(kernel, arguments, arguments_index,
               std::span<const binding>(buffers.begin(), buffers.size()), groups);
  }
  template <class Arguments>
  result<void> add(const kernel_name& kernel, const Arguments& arguments, int arguments_index,
                   std::span<const binding> buffers, const group_grid& groups) {
    static_assert(sizeof(Arguments) <= 4096, "more must lie in a buffer");
    if (groups.x <= 0 || groups.y <= 0 || groups.z <= 0) return {};
    const auto pipeline = on_.pipeline(kernel);
    if (!pipeline) return pipeline.error();
    if (const auto ok = begin(); !ok) return ok;
    encoder_->setComputePipelineState(*pipeline);
    std::array<bool, largest_index> is_named = {};
    const auto name_index = [&](int index) { is_named[static_cast<std::size_t>(index)] = true; };
    name_index(arguments_index);
    if (number_index_ >= 0) name_index(number_index_);
    encoder_->setBytes(&arguments, sizeof(Arguments), static_cast<NS::UInteger>(arguments_index));
    for (const binding& one : buffers) {
      encoder_->setBuffer(one.memory->memory.get(), 0, static_cast<NS::UInteger>(one.index));
      held_.push_back(one.memory->memory);
      name_index(one.index);
    }
    // Nothing of an earlier dispatch stays bound.
    for (std::size_t i = 0; i < largest_index; ++i) {
      if (!is_named[i] && is_bound_[i])
        encoder_->setBuffer(on_.nothing(), 0, static_cast<NS::UInteger>(i));
    }
    is_bound_ = is_named;
    const auto size = [](index_t count) { return static_cast<NS::UInteger>(count); };
    encoder_->dispatchThreadgroups(MTL::Size::Make(size(groups.x), size(groups.y), size(groups.z)),
                                   MTL::Size::Make(size(kernels::group_threads), 1, 1));
    return {};
  }

  /// A number of its own that a kernel reads at `index`, for the dispatches that follow.
  result<void> set_number(std::int32_t number, int index) {
    if (const auto ok = begin(); !ok) return ok;
    encoder_->setBytes(&number, sizeof(number), static_cast<NS::UInteger>(index));
    number_index_ = index;
    return {};
  }

  /// What follows sees what was written before.
  void next() {
    if (encoder_ != nullptr) encoder_->memoryBarrier(MTL::BarrierScopeBuffers);
  }

  /// Runs all dispatches and waits for them. `device_timeout` where the system ended them for
  /// taking too long, or they were not done within `device_options::longest_wait`; `out_of_memory`,
  /// `device_fault` with the system's code for other faults: then what the buffers hold means
  /// nothing.
  result<void> run() {
    if (encoder_ == nullptr) return {};
    encoder_->endEncoding();
    encoder_ = nullptr;
    if (!commit_and_wait()) {
      on_.set_late(commands_);
      return timed_out("not done within the longest wait");
    }
    held_.clear();
    if (commands_->status() == MTL::CommandBufferStatusCompleted) return {};
    const NS::Error* cause = commands_->error();
    const auto code = cause == nullptr ? error::none : static_cast<std::int64_t>(cause->code());
    const errc what = code == MTL::CommandBufferErrorTimeout       ? errc::device_timeout
                      : code == MTL::CommandBufferErrorOutOfMemory ? errc::out_of_memory
                                                                   : errc::device_fault;
    return error{what, "metal command buffer", code, error::none, text_of(cause)};
  }

 private:
  static constexpr std::size_t largest_index = 16;  // of the buffers of any kernel

  struct signal {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_done = false;
  };

  static error timed_out(const char* why) {
    return error{errc::device_timeout, "metal command buffer", error::none, error::none, why};
  }

  /// False where the wait was given up.
  bool commit_and_wait() {
    const std::optional<double>& longest = on_.options().longest_wait;
    if (!longest) {
      commands_->commit();
      commands_->waitUntilCompleted();
      return true;
    }
    const auto done = std::make_shared<signal>();  // the handler may come after this call
    commands_->addCompletedHandler([done](MTL::CommandBuffer*) {
      const std::lock_guard<std::mutex> guard(done->mutex);
      done->is_done = true;
      done->changed.notify_all();
    });
    commands_->commit();
    std::unique_lock<std::mutex> guard(done->mutex);
    return done->changed.wait_for(guard, std::chrono::duration<double>(*longest),
                                  [&] { return done->is_done; });
  }

  result<void> begin() {
    if (encoder_ != nullptr) return {};
    if (on_.is_late()) return timed_out("earlier work has not ended");
    is_bound_.fill(true);
    number_index_ = -1;
    commands_ = NS::RetainPtr(on_.queue().commandBuffer());
    if (commands_) {
      encoder_ = commands_->computeCommandEncoder(MTL::DispatchTypeConcurrent);
    }
    if (encoder_ == nullptr) return error{errc::out_of_memory, "metal command buffer"};
    return {};
  }

  device& on_;
  autorelease_scope scope_;
  NS::SharedPtr<MTL::CommandBuffer> commands_;
  MTL::ComputeCommandEncoder* encoder_ = nullptr;  // the scope's
  std::vector<NS::SharedPtr<MTL::Buffer>> held_;
  std::array<bool, largest_index> is_bound_ = {};  // as far as is known
  int number_index_ = -1;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
