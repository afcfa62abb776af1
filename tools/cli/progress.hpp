// SPDX-License-Identifier: MIT
/// A line on the terminal that says how far the work is and how long it will still take.
///
/// Our own, for Debian 12 packages no C++ progress-bar library (`indicators`, the well-kept one, is
/// not in it), and a line with a bar is little code. It is drawn on stderr and only if that is a
/// terminal: files, pipes and CI logs get nothing.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "kvfit/core/matrix.hpp"

namespace kvfit_tool {

class progress_bar {
 public:
  /// For `count` items; `what` names them in the plural.
  progress_bar(kvfit::index_t count, std::string_view what)
      : is_shown_(is_terminal()), count_(count), what_(what) {}
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;
  ~progress_bar() {
    if (drawn_ > 0) std::fprintf(stderr, "\r%*s\r", static_cast<int>(drawn_), "");
  }

  /// `done` items are done. Draws ten times a second at most. Not for two threads at once.
  void show(kvfit::index_t done) {
    if (!is_shown_ || count_ <= 0) return;
    const auto now = clock::now();
    if (drawn_ > 0 && done < count_ && now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    const std::chrono::duration<double> taken = now - start_;
    draw(done, taken.count());
  }

 private:
  using clock = std::chrono::steady_clock;

  /// A dumb terminal (an editor's, say) can't go back to the start of its line.
  static bool is_terminal() {
    const char* const kind = std::getenv("TERM");
    return isatty(STDERR_FILENO) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
  }

  void draw(kvfit::index_t done, double taken) {
    constexpr kvfit::index_t width = 30;
    const auto filled = static_cast<std::size_t>(width * std::min(done, count_) / count_);
    std::string line = "\r[" + std::string(filled, '#') +
                       std::string(static_cast<std::size_t>(width) - filled, '.') + "] " +
                       std::to_string(done) + "/" + std::to_string(count_) + " " + what_;
    if (done > 0) {
      const double left = taken / static_cast<double>(done) * static_cast<double>(count_ - done);
      const auto seconds = static_cast<long>(left + 0.5);
      char eta[48];
      std::snprintf(eta, sizeof eta, ", %ld:%02ld left", seconds / 60, seconds % 60);
      line += eta;
    }
    const std::size_t length = line.size();
    if (length < drawn_) line.append(drawn_ - length, ' ');  // wipes the longer line before
    drawn_ = std::max(drawn_, length);
    std::fputs(line.c_str(), stderr);
    std::fflush(stderr);
  }

  bool is_shown_;
  kvfit::index_t count_;
  std::string what_;
  std::size_t drawn_ = 0;  ///< length of the longest line so far
  clock::time_point start_ = clock::now();
  clock::time_point last_ = start_;
};

}  // namespace kvfit_tool
