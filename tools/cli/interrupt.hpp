// SPDX-License-Identifier: MIT
/// Ctrl-C: the first one stops after the heads at work, the second at once, neither inside a write.
#pragma once

#include "kvfit/parallel/progress.hpp"

namespace kvfit_tool {

/// Set by Ctrl-C.
kvfit::cancellation& interrupt();

/// From now on Ctrl-C sets `interrupt()`.
void catch_interrupt();

/// While one lives, Ctrl-C does not end the program: it guards the writing of a file.
class uninterrupted {
 public:
  uninterrupted();
  uninterrupted(const uninterrupted&) = delete;
  uninterrupted& operator=(const uninterrupted&) = delete;
  ~uninterrupted();
};

}  // namespace kvfit_tool
