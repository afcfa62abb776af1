// SPDX-License-Identifier: MIT
/// Keeps a failed allocation from leaving the library as an exception.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

#if KVFIT_HAS_EXCEPTIONS
#include <new>
#include <stdexcept>
#endif

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `step()`, whose result is a `result<T>`; an allocation that fails becomes `out_of_memory`. Other
/// exceptions can only be those of a caller's own policy, and pass. Without exceptions a plain
/// call.
template <class Step>
auto catch_bad_alloc([[maybe_unused]] const char* argument, Step&& step) -> decltype(step()) {
#if KVFIT_HAS_EXCEPTIONS
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return error{errc::out_of_memory, argument};
  } catch (const std::length_error&) {  // a size beyond what a container can ever hold
    return error{errc::out_of_memory, argument};
  }
#else
  return step();
#endif
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
