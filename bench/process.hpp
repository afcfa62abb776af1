// SPDX-License-Identifier: MIT
/// What a benchmark asks of the process and the machine it runs on.
#pragma once

#include <chrono>
#include <fstream>
#include <string>

namespace kvfit::bench {

/// Seconds since some moment.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A size in /proc/self/status, in MB; 0 where there is none.
inline double status_megabytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) / 1024;
  }
  return 0;
}

/// From here on VmHWM is the most that is resident at once.
inline void forget_peak() {
  std::ofstream("/proc/self/clear_refs") << 5;
}

inline std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace kvfit::bench
