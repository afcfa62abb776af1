// SPDX-License-Identifier: MIT
#include "say.hpp"

#include <cstdio>

#include "exit_code.hpp"

namespace kvfit_tool {

void warn(const std::string& text) {
  std::fprintf(stderr, "kvfit: %s\n", text.c_str());
}

int fail(const std::string& file, const kvfit::error& cause) {
  if (cause.code == kvfit::errc::cancelled) {
    warn("interrupted; nothing was written");
    return exit_interrupted;
  }
  const std::string message = cause.message();
  const bool is_named = message.find(file) != std::string::npos;
  warn(is_named ? message : file + ": " + message);
  return exit_failed;
}

void check_threads(const kvfit::thread_pool& pool, int wanted) {
  const int expected = wanted > 0 ? wanted : kvfit::thread_pool::hardware_threads();
  if (pool.threads() < expected) {
    warn("the system gave " + std::to_string(pool.threads()) + " threads of " +
         std::to_string(expected));
  }
}

}  // namespace kvfit_tool
