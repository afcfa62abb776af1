// SPDX-License-Identifier: MIT
/// Runs a step of io/ so that no exception leaves it.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// `step()`, whose result is a `result<T>`. An allocation that fails becomes `out_of_memory`; any
/// other exception of the standard library (a path that does not convert, say) becomes `otherwise`.
/// Without exceptions in the language this is a plain call.
template <class Step>
auto catch_exceptions(errc otherwise, Step&& step) noexcept
    -> decltype(std::forward<Step>(step)()) {
#if KVFIT_HAS_EXCEPTIONS
  try {
    return std::forward<Step>(step)();
  } catch (const std::bad_alloc&) {
    return error{errc::out_of_memory, {}, error::none, error::none, {}};
  } catch (const std::length_error&) {
    return error{errc::out_of_memory, {}, error::none, error::none, {}};
  } catch (...) {
    return error{otherwise, {}, error::none, error::none, {}};
  }
#else
  static_cast<void>(otherwise);
  return std::forward<Step>(step)();
#endif
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
