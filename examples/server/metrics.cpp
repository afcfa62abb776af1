// SPDX-License-Identifier: MIT
#include "server/metrics.hpp"

#include <algorithm>
#include <cstdio>

namespace server {

namespace {

constexpr std::array<const char*, metrics::counts> names = {
    "requests",  "tokens_read",     "tokens_said", "overloaded",          "cancelled",
    "timed_out", "engine_failures", "compactions", "compactions_refused", "compactions_failed",
    "saves",     "restores"};

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.9g", value);
  return text.data();
}

void line(std::string& to, const std::string& name, const std::string& value) {
  to += "kvfit_" + name + " " + value + "\n";
}

void gauge(std::string& to, const std::string& name, const std::string& value) {
  to += "# TYPE kvfit_" + name + " gauge\n";
  line(to, name, value);
}

}  // namespace

void metrics::add(count what, std::uint64_t by) {
  const std::lock_guard lock(mutex_);
  counted_[static_cast<std::size_t>(what)] += by;
}

std::uint64_t metrics::of(count what) const {
  const std::lock_guard lock(mutex_);
  return counted_[static_cast<std::size_t>(what)];
}

void metrics::token_seconds(double seconds, meanwhile what) {
  const std::lock_guard lock(mutex_);
  histogram& to = tokens_[static_cast<std::size_t>(what)];
  const auto at = std::lower_bound(bounds.begin(), bounds.end(), seconds) - bounds.begin();
  ++to.buckets[static_cast<std::size_t>(at)];
  to.sum += seconds;
  ++to.all;
  if (what == meanwhile::another_was_compacted) longest_stall_ = std::max(longest_stall_, seconds);
  if (what == meanwhile::was_compacted) longest_wait_ = std::max(longest_wait_, seconds);
}

void metrics::fit_seconds(double seconds) {
  const std::lock_guard lock(mutex_);
  fits_ += seconds;
}

double metrics::longest_stall() const {
  const std::lock_guard lock(mutex_);
  return longest_stall_;
}

std::string metrics::text(const gauges& now) const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (std::size_t i = 0; i < counts; ++i) {
    const std::string name = std::string(names[i]) + "_total";
    text += "# TYPE kvfit_" + name + " counter\n";
    line(text, name, std::to_string(counted_[i]));
  }
  gauge(text, "slots", std::to_string(now.slots));
  gauge(text, "busy_slots", std::to_string(now.busy_slots));
  gauge(text, "queued_requests", std::to_string(now.queued));
  gauge(text, "cache_rows", std::to_string(now.rows));
  gauge(text, "cache_bytes", std::to_string(now.cache_bytes));
  gauge(text, "longest_stall_seconds", number(longest_stall_));
  gauge(text, "longest_wait_seconds", number(longest_wait_));
  text += "# TYPE kvfit_fit_seconds_total counter\n";
  line(text, "fit_seconds_total", number(fits_));
  text += "# TYPE kvfit_token_seconds histogram\n";
  for (std::size_t which = 0; which < tokens_.size(); ++which) {
    constexpr std::array of = {"none", "another", "own"};
    const std::string label = std::string("compacting=\"") + of[which] + "\"";
    std::uint64_t below = 0;
    for (std::size_t b = 0; b <= bounds.size(); ++b) {
      below += tokens_[which].buckets[b];
      const std::string bound = b < bounds.size() ? number(bounds[b]) : "+Inf";
      line(text, "token_seconds_bucket{" + label + ",le=\"" + bound + "\"}", std::to_string(below));
    }
    line(text, "token_seconds_sum{" + label + "}", number(tokens_[which].sum));
    line(text, "token_seconds_count{" + label + "}", std::to_string(tokens_[which].all));
  }
  return text;
}

}  // namespace server
