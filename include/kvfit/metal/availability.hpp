// SPDX-License-Identifier: MIT
/// Whether stages can run on a GPU through Metal. Compiles everywhere and says no elsewhere.
#pragma once

#include <cstdint>

#ifdef KVFIT_METAL
#include <Metal/Metal.hpp>
#endif

namespace kvfit::metal {

/// Whether stages can run on a GPU here.
enum class availability : std::uint8_t {
  available,
  not_built,  ///< this program does not link kvfit::metal, which exists on Apple when asked for
  no_device,  ///< the system offers this process no GPU
};

// Two namespaces, for one program may have units with kvfit::metal and units without.
#ifdef KVFIT_METAL
inline namespace with_metal {
#else
inline namespace without_metal {
#endif

/// Asks the system for its default device. Without kvfit::metal the answer is a constant. Cost: a
/// first call may load Metal's driver; nothing of kvfit's is kept or allocated.
[[nodiscard]] inline availability find_availability() {
#ifdef KVFIT_METAL
  MTL::Device* device = MTL::CreateSystemDefaultDevice();
  if (device == nullptr) return availability::no_device;
  device->release();
  return availability::available;
#else
  return availability::not_built;
#endif
}
}

}  // namespace kvfit::metal
