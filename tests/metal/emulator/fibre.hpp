// SPDX-License-Identifier: MIT
/// Fibres: functions with stacks of their own, which hand control to each other by name. They run
/// on one thread of the operating system, so what they share needs no lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace metal_emulator {

/// A set of fibres that all run one function, resumed one by one from outside.
class fibres {
 public:
  fibres();
  ~fibres();
  fibres(const fibres&) = delete;
  fibres& operator=(const fibres&) = delete;

  /// Makes `count` fibres ready to start `body`. Those of an earlier call must have ended, or been
  /// abandoned.
  void begin(std::uint32_t count, void (*body)());
  /// Runs fibre `index` until it leaves. Returns whether it has ended.
  bool resume(std::uint32_t index);
  /// Called by a fibre: back to whoever resumed it.
  void leave();
  /// Forgets fibres that have not ended. Their stacks are reused; nothing on them is destroyed.
  void abandon();

  struct implementation;

 private:
  std::unique_ptr<implementation> self_;
};

}  // namespace metal_emulator
