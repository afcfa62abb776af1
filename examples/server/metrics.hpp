// SPDX-License-Identifier: MIT
/// Counts and times, in Prometheus' text form. For several threads.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

namespace server {

struct gauges {
  std::int64_t slots = 0;
  std::int64_t busy_slots = 0;
  std::int64_t queued = 0;
  std::int64_t rows = 0;
  std::int64_t cache_bytes = 0;
};

class metrics {
 public:
  enum class count : std::uint8_t {
    requests,
    tokens_read,
    tokens_said,
    overloaded,
    cancelled,
    timed_out,
    engine_failures,
    compactions,
    compactions_refused,
    compactions_failed,
    saves,
    restores,
  };
  static constexpr std::size_t counts = 12;

  void add(count what, std::uint64_t by = 1);
  [[nodiscard]] std::uint64_t of(count what) const;
  /// What was going on between two tokens of a generation.
  enum class meanwhile : std::uint8_t { nothing, another_was_compacted, was_compacted };
  /// The time from one token to the next.
  void token_seconds(double seconds, meanwhile what);
  void fit_seconds(double seconds);
  /// Longest time between two tokens while the cache of another slot was compacted.
  [[nodiscard]] double longest_stall() const;

  [[nodiscard]] std::string text(const gauges& now) const;

 private:
  static constexpr std::array<double, 12> bounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                    0.1,   0.25,   0.5,   1,    2.5,   10};
  struct histogram {
    std::array<std::uint64_t, bounds.size() + 1> buckets = {};
    double sum = 0;
    std::uint64_t all = 0;
  };

  mutable std::mutex mutex_;
  std::array<std::uint64_t, counts> counted_ = {};
  std::array<histogram, 3> tokens_;  ///< by `meanwhile`
  double fits_ = 0;
  double longest_stall_ = 0;
  double longest_wait_ = 0;  ///< the same of a slot that was compacted itself
};

}  // namespace server
