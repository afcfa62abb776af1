// SPDX-License-Identifier: MIT
/// Peak memory of compact(): T = 131,072 keys, n = 4,096 queries, d = 128, budget 1,024.
///
/// Two measures of the same call: bytes asked of the allocator (every malloc of the process passes
/// through the hooks below; operator new and Eigen use malloc too), and resident pages as the
/// kernel counts them. Required of both: inputs + 64 MB. Beside them the estimate that
/// `planned_memory` gives beforehand, which the first must not exceed.
#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "kvfit/compact.hpp"
#include "kvfit/presets.hpp"
#include "process.hpp"
#include "synthetic.hpp"

namespace {

using kvfit::bench::now;
using kvfit::bench::status_megabytes;

/// What the allocator was asked for. One thread.
struct allocation_record {
  static constexpr std::size_t big = std::size_t{1} << 20;  // blocks worth naming
  struct block {
    void* at = nullptr;
    std::size_t bytes = 0;
    double when = 0;
  };
  struct event {
    double when = 0;
    std::size_t live = 0;
  };

  void take(void* at) {
    if (at == nullptr) return;
    const std::size_t bytes = malloc_usable_size(at);
    live += bytes;
    peak = std::max(peak, live);
    if (!is_open || bytes < big) return;
    for (block& place : blocks) {
      if (place.at != nullptr) continue;
      place = {at, bytes, now()};
      break;
    }
    if (events_used < events.size()) events[events_used++] = {now(), live};
    if (live > peak_of_big) {
      peak_of_big = live;
      at_peak = blocks;
    }
  }

  void give(void* at) {
    if (at == nullptr) return;
    const std::size_t bytes = malloc_usable_size(at);
    live -= bytes;
    if (!is_open || bytes < big) return;
    for (block& place : blocks) {
      if (place.at == at) place = {};
    }
  }

  bool is_open = false;
  std::size_t live = 0;
  std::size_t peak = 0;
  std::size_t peak_of_big = 0;
  std::array<block, 256> blocks;
  std::array<block, 256> at_peak;
  std::array<event, 65536> events;
  std::size_t events_used = 0;
};

constinit allocation_record record;

}  // namespace

// ---- Hooks: glibc's own entry points, counted --------------------------------------------------
extern "C" {
// NOLINTBEGIN(*-reserved-identifier)
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);
// NOLINTEND(*-reserved-identifier)

void* malloc(std::size_t size) {
  void* at = __libc_malloc(size);
  record.take(at);
  return at;
}

void* calloc(std::size_t count, std::size_t size) {
  void* at = __libc_calloc(count, size);
  record.take(at);
  return at;
}

void* realloc(void* old, std::size_t size) {
  record.give(old);
  void* at = __libc_realloc(old, size);
  record.take(at == nullptr && size != 0 ? old : at);
  return at;
}

void* memalign(std::size_t alignment, std::size_t size) {
  void* at = __libc_memalign(alignment, size);
  record.take(at);
  return at;
}

void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return memalign(alignment, size);
}

int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  *out = memalign(alignment, size);
  return *out == nullptr ? 12 : 0;  // ENOMEM
}

void free(void* at) {
  record.give(at);
  __libc_free(at);
}
}

namespace {

constexpr double megabyte = 1024.0 * 1024.0;
constexpr double allowed = 64;  // MB over the inputs

struct stage {
  const char* name;
  double seconds;
};

std::array<stage, 6> stages_of(const kvfit::stage_seconds& s) {
  return {{{"check", s.check},
           {"score", s.score},
           {"select", s.select},
           {"bias", s.bias},
           {"values", s.values},
           {"judge", s.judge}}};
}

/// The stage that was at work `seconds` after the call began.
std::size_t stage_at(const std::array<stage, 6>& stages, double seconds) {
  for (std::size_t k = 0; k < stages.size(); ++k) {
    if (seconds <= stages[k].seconds) return k;
    seconds -= stages[k].seconds;
  }
  return stages.size() - 1;
}

/// One measured call; true where both figures are within bounds.
bool measure(const char* title, const kvfit::bench::head& head,
             const kvfit::compact_options& options) {
  malloc_trim(0);
  kvfit::bench::forget_peak();
  record.blocks = {};
  record.events_used = 0;
  const double resident = status_megabytes("VmRSS");
  record.peak_of_big = 0;
  const std::size_t live = record.live;
  record.peak = live;
  record.is_open = true;
  const double start = now();
  const auto fitted = kvfit::compact(head.keys, head.values, head.queries, options);
  record.is_open = false;
  const std::size_t peak = record.peak;
  const double peak_resident = status_megabytes("VmHWM");
  if (!fitted) {
    std::printf("%s: %s\n", title, fitted.error().message().c_str());
    return false;
  }

  const double asked = static_cast<double>(peak - live) / megabyte;
  const double touched = peak_resident - resident;
  const auto stages = stages_of(fitted->report.seconds);
  std::array<double, 6> peaks{};
  for (std::size_t k = 0; k < record.events_used; ++k) {
    double& highest = peaks[stage_at(stages, record.events[k].when - start)];
    highest =
        std::max(highest, (static_cast<double>(record.events[k].live) - static_cast<double>(live)) /
                              megabyte);
  }
  std::printf("%s: %.2f s, output error %.4f on the fitted queries\n", title,
              fitted->report.seconds.total, fitted->report.train.output_error);
  const kvfit::memory_report& plan = fitted->report.memory;
  const double estimate = static_cast<double>(plan.needed) / megabyte;
  std::printf("  over the inputs, as estimated before %7.1f MB", estimate);
  if (options.memory.cap) {
    std::printf(", cap %.1f MB, without it %.1f MB",
                static_cast<double>(*options.memory.cap) / megabyte,
                static_cast<double>(plan.wanted) / megabyte);
  }
  std::printf("\n");
  if (plan.lowers_selection) {
    std::printf("    less for the selection: %.1f MB\n",
                static_cast<double>(plan.selection_memory) / megabyte);
  }
  if (plan.lowers_refinement) {
    std::printf("    smaller refinement: batches of %td\n",
                static_cast<std::ptrdiff_t>(plan.refine_batch));
  }
  if (plan.lowers_queries) {
    std::printf("    fewer queries: fitted on %td\n",
                static_cast<std::ptrdiff_t>(plan.fitted_queries));
  }
  std::printf("  over the inputs, asked of malloc     %7.1f MB\n", asked);
  std::printf("  over the inputs, resident (VmHWM)    %7.1f MB\n", touched);
  std::printf("  peak while in");
  for (std::size_t k = 0; k < stages.size(); ++k)
    std::printf("  %s %.1f", stages[k].name, peaks[k]);
  std::printf("  MB\n  blocks of 1 MB and more at the peak:\n");
  for (const auto& block : record.at_peak) {
    if (block.at == nullptr) continue;
    const double when = block.when - start;
    std::printf("    %6.1f MB since %.2f s (%s)\n", static_cast<double>(block.bytes) / megabyte,
                when, stages[stage_at(stages, when)].name);
  }
  const bool is_within = asked <= allowed && touched <= allowed;
  std::printf("  %s the %.0f MB allowed, %s the estimate\n", is_within ? "within" : "EXCEEDS",
              allowed, asked <= estimate ? "within" : "EXCEEDS");
  return is_within && asked <= estimate;
}

}  // namespace

int main() {
  using kvfit::index_t;
  constexpr index_t budget = 1024;
  const kvfit::bench::head head =
      kvfit::bench::synthetic_head({.keys = 131072, .depth = 128, .queries = 4096, .held_out = 0});
  const auto inputs =
      static_cast<double>((head.keys.size() + head.values.size() + head.queries.size()) *
                          static_cast<index_t>(sizeof(float)));
  std::printf(
      "T = %td, n = %td, d = %td, budget %td; inputs %.1f MB, resident "
      "before %.1f MB\n",
      head.keys.rows(), head.queries.rows(), head.keys.cols(), static_cast<std::ptrdiff_t>(budget),
      inputs / megabyte, status_megabytes("VmRSS"));

  bool is_within =
      measure("preset highest_attention", head, kvfit::presets::highest_attention(budget));

  kvfit::compact_options ours = kvfit::presets::joint(budget);
  ours.selection = kvfit::selection::highest_attention{};
  is_within &= measure("highest attention, kvfit's bias and values", head, ours);

  ours.memory.cap = index_t{60} << 20;
  is_within &= measure("the same under a cap", head, ours);

  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "peak resident of the process (getrusage): %.1f MB, of which "
      "inputs %.1f MB\n",
      static_cast<double>(usage.ru_maxrss) / 1024, inputs / megabyte);
  return is_within ? 0 : 1;
}
