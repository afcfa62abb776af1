// SPDX-License-Identifier: MIT
/// One request for text: what was asked, and the pieces that one thread says and another takes.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/engine.hpp"

namespace server {

using clock = std::chrono::steady_clock;

struct generation_request {
  std::vector<token> prompt;
  /// The prompt is what comes next in the conversation that `slot` has, not all of it.
  bool goes_on = false;
  index_t most = 128;      ///< tokens to be said
  double temperature = 0;  ///< 0: the likeliest token
  std::uint64_t seed = 0;
  std::optional<index_t> slot;  ///< none: any
  clock::time_point deadline = clock::time_point::max();
};

enum class ending : std::uint8_t { none, stop, length, failed };

/// The pieces held are bounded by `most` tokens of the request.
class generation {
 public:
  explicit generation(generation_request asked) : asked_(std::move(asked)) {}
  [[nodiscard]] const generation_request& asked() const noexcept { return asked_; }

  // ---- Whoever says it ----
  void say(const std::string& text) {
    {
      const std::lock_guard lock(mutex_);
      unread_ += text;
      ++said_;
    }
    changed_.notify_all();
  }
  void end(ending how) {
    {
      const std::lock_guard lock(mutex_);
      if (how_ == ending::none) how_ = how;
    }
    changed_.notify_all();
  }
  void fail(failure why) {
    {
      const std::lock_guard lock(mutex_);
      if (how_ == ending::none) {
        how_ = ending::failed;
        why_ = std::move(why);
      }
    }
    changed_.notify_all();
  }
  void took_slot(index_t slot) { slot_ = slot; }
  [[nodiscard]] bool is_cancelled() const noexcept { return is_cancelled_; }

  // ---- Whoever takes it ----
  void cancel() noexcept { is_cancelled_ = true; }
  struct piece {
    std::string text;
    ending how = ending::none;
    failure why = {};
    index_t said = 0;  ///< tokens so far
  };
  /// What was said since it was last asked for, at the latest after `patience`.
  piece next(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return !unread_.empty() || how_ != ending::none; });
    piece made{.text = {}, .how = how_, .why = why_, .said = said_};
    made.text.swap(unread_);
    return made;
  }
  [[nodiscard]] index_t slot() const noexcept { return slot_; }  ///< −1: none yet

 private:
  const generation_request asked_;
  std::atomic<bool> is_cancelled_ = false;
  std::atomic<index_t> slot_ = -1;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string unread_;
  index_t said_ = 0;
  ending how_ = ending::none;
  failure why_;
};

}  // namespace server
