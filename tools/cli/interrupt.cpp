// SPDX-License-Identifier: MIT
#include "cli/interrupt.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string_view>

#include "cli/exit_code.hpp"

namespace kvfit_tool {

namespace {

// A signal handler has no other way to what it may touch than globals; both are lock-free.
kvfit::cancellation asked_to_stop;
std::atomic<bool> is_writing{false};

extern "C" void on_interrupt(int) {
  if (is_writing.load()) return asked_to_stop.request();
  if (asked_to_stop.is_requested()) std::_Exit(exit_interrupted);
  asked_to_stop.request();
  constexpr std::string_view note =
      "\nkvfit: stopping after the heads at work; once more to stop at once\n";
  // A failed note changes nothing, and write() is one of the few calls allowed here.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, note.data(), note.size());
}

}  // namespace

kvfit::cancellation& interrupt() {
  return asked_to_stop;
}

void catch_interrupt() {
  std::signal(SIGINT, on_interrupt);
}

uninterrupted::uninterrupted() {
  is_writing.store(true);
}
uninterrupted::~uninterrupted() {
  is_writing.store(false);
}

}  // namespace kvfit_tool
