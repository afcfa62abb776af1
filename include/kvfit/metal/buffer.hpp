// SPDX-License-Identifier: MIT
/// Memory that the GPU reads and writes: its own, or the caller's where it lies.
#pragma once

#include <Metal/Metal.hpp>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/device.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// Whole pages of Apple silicon, as Metal wants memory of the caller.
inline constexpr index_t page_bytes = 16384;

/// A buffer and the byte where its content begins. Memory that is shared is the caller's, and must
/// outlive what is run on it.
struct buffer {
  NS::SharedPtr<MTL::Buffer> memory;
  index_t first_byte = 0;
  bool is_shared = false;

  explicit operator bool() const noexcept { return static_cast<bool>(memory); }
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(memory->contents()) + first_byte);
  }
};

/// `bytes` ≥ 1 of the device's own. `out_of_memory` with the bytes wanted, and the largest buffer
/// where that is less.
inline result<buffer> allocate(device& on, index_t bytes) {
  const auto most = static_cast<index_t>(on.gpu().maxBufferLength());
  if (bytes > most) return error{errc::out_of_memory, "metal buffer", bytes, most};
  auto made = NS::TransferPtr(
      on.gpu().newBuffer(static_cast<NS::UInteger>(bytes), MTL::ResourceStorageModeShared));
  if (!made) return error{errc::out_of_memory, "metal buffer", bytes};
  return buffer{std::move(made)};
}

/// The same for `count` ≥ 0 elements; at least one is there.
template <class T>
result<buffer> allocate_elements(device& on, index_t count) {
  return allocate(on, std::max<index_t>(count, 1) * static_cast<index_t>(sizeof(T)));
}

/// A copy of `of` in the device's own memory.
template <class T>
result<buffer> copy_of(device& on, std::span<const T> of) {
  static_assert(std::is_trivially_copyable_v<T>);
  auto made = allocate_elements<T>(on, static_cast<index_t>(of.size()));
  if (made && !of.empty()) std::memcpy(made->template as<T>(), of.data(), of.size_bytes());
  return made;
}

/// The caller's memory itself, by the whole pages around it; no buffer where it is less than
/// `device_options::share_from`, a wait may be given up (`longest_wait`), or Metal refuses its
/// pages (they must be of one mapping). The GPU is then to touch nothing but these bytes.
inline buffer share(device& on, const void* begin, index_t bytes) {
  if (bytes <= 0 || bytes < on.options().share_from || on.options().longest_wait) return {};
  const auto first = reinterpret_cast<std::uintptr_t>(begin);
  const auto page = static_cast<std::uintptr_t>(page_bytes);
  const std::uintptr_t low = first / page * page;
  const std::uintptr_t high = (first + static_cast<std::uintptr_t>(bytes) + page - 1) / page * page;
  if (high - low > on.gpu().maxBufferLength()) return {};
  auto made = NS::TransferPtr(on.gpu().newBuffer(reinterpret_cast<void*>(low), high - low,
                                                 MTL::ResourceStorageModeShared, nullptr));
  return {std::move(made), static_cast<index_t>(first - low), true};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
