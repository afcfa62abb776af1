// SPDX-License-Identifier: MIT
/// Memory that is read next, brought near while something else is computed.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::simd {

/// `bytes` bytes from `data` on that the caller will read soon. Only a hint: no result depends on
/// it. With 0 bytes, none.
struct prefetch_range {
  const void* data = nullptr;
  index_t bytes = 0;
};

}  // namespace kvfit::simd

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

/// Fetches memory into the second level of the cache, a little at every step: all at once would
/// wait for itself.
class fetcher {
 public:
  /// In `steps` steps, or as much of it as a line a step is. `elsewhere`: any address that may be
  /// read, for a fetch from nowhere is a slow one.
  fetcher(const prefetch_range& next, index_t steps, const void* elsewhere) noexcept
      : at_(static_cast<const std::byte*>(next.bytes > 0 ? next.data : elsewhere)),
        left_(std::max<index_t>(next.bytes, 0)),
        step_((std::min)(line, left_ / std::max<index_t>(steps, 1) + 1)) {}

  void step() noexcept {
    __builtin_prefetch(at_, 0, 2);
    const index_t on = (std::min)(step_, left_);
    at_ += on;
    left_ -= on;
  }

 private:
  static constexpr index_t line = 64;

  const std::byte* at_;
  index_t left_;
  index_t step_;
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
