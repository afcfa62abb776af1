// SPDX-License-Identifier: MIT
#include "cli/say.hpp"

#include <cstdio>

#include "cli/exit_code.hpp"

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

int report_requirements(const std::vector<requirement>& asked,
                        const std::vector<judged_row>& rows) {
  if (asked.empty()) return exit_done;
  const std::vector<std::string> failures = failures_of(asked, rows);
  std::fputs("\n", stdout);
  for (const std::string& line : failures) std::printf("%s\n", line.c_str());
  if (!failures.empty()) return exit_failed;
  std::size_t conditions = 0;
  for (const requirement& each : asked) conditions += each.conditions.size();
  if (conditions == 1) {
    std::printf("the required condition holds\n");
  } else {
    std::printf("all %zu required conditions hold\n", conditions);
  }
  return exit_done;
}

void check_threads(const kvfit::thread_pool& pool, int wanted) {
  const int expected = wanted > 0 ? wanted : kvfit::thread_pool::hardware_threads();
  if (pool.threads() < expected) {
    warn("the system gave " + std::to_string(pool.threads()) + " threads of " +
         std::to_string(expected));
  }
}

}  // namespace kvfit_tool
