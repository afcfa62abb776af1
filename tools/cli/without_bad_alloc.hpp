// SPDX-License-Identifier: MIT
/// The one exception that the library's arithmetic can meet, as an error.
#pragma once

#include <new>
#include <string>
#include <string_view>

#include "kvfit/core/error.hpp"

namespace kvfit_tool {

/// `step()`, a failed allocation turned into `out_of_memory` of `what`: items run where nobody
/// catches.
template <class Step>
auto without_bad_alloc(std::string_view what, Step&& step) -> decltype(step()) {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return kvfit::error{kvfit::errc::out_of_memory, std::string(what)};
  }
}

}  // namespace kvfit_tool
