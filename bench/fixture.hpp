// SPDX-License-Identifier: MIT
/// How a row of a table is registered.
#pragma once

#include <benchmark/benchmark.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "workload.hpp"

namespace kvfit::bench {

/// One row of a table.
struct row {
  std::string stage;   ///< what is done
  std::string method;  ///< by whom: "eigen" is the baseline
  index_t keys = 0;
  index_t depth = 0;
  double flops = 0;       ///< nominal, of the published method where it has any
  double items = 0;       ///< what else may be counted per second
  std::string item = {};  ///< its name
  bool is_slow = false;   ///< run once, not repeated
};

/// Registers a row. `prepare(work)`, untimed, returns the call that is timed; `assess(work,
/// result)` says how good its result is (once a row).
template <class Prepare, class Assess>
void add(const row& what, Prepare prepare, Assess assess) {
  auto judged = std::make_shared<std::optional<quality>>();
  const auto body = [=](benchmark::State& state) {
    const workload& work = load(what.keys, what.depth);
    auto call = prepare(work);
    std::optional<decltype(call())> last;
    for (auto _ : state) {
      last.emplace(call());
      benchmark::DoNotOptimize(last);
    }
    if (!*judged) *judged = assess(work, *last);
    state.counters["t"] = static_cast<double>(work.budget);
    state.counters["output_error"] = (*judged)->output_error;
    state.counters["mass_error"] = (*judged)->mass_error;
    if constexpr (requires { last->report.seconds; }) {  // of compact(): its own clock, last call
      const auto& seconds = last->report.seconds;
      state.counters["check_ms"] = 1e3 * seconds.check;
      state.counters["score_ms"] = 1e3 * seconds.score;
      state.counters["select_ms"] = 1e3 * seconds.select;
      state.counters["bias_ms"] = 1e3 * seconds.bias;
      state.counters["values_ms"] = 1e3 * seconds.values;
      state.counters["judge_ms"] = 1e3 * seconds.judge;
    }
    const auto runs = static_cast<double>(state.iterations());
    using benchmark::Counter;
    if (what.flops > 0)
      state.counters["GFLOP/s"] = Counter(what.flops * runs / 1e9, Counter::kIsRate);
    if (what.items > 0) state.counters[what.item] = Counter(what.items * runs, Counter::kIsRate);
  };
  const std::string name = what.stage + "/" + what.method;
  auto* registered = benchmark::RegisterBenchmark(name.c_str(), body)
                         ->ArgNames({"T", "d"})
                         ->Args({what.keys, what.depth})
                         ->Unit(benchmark::kMillisecond);
  if (what.is_slow) registered->Iterations(1)->Repetitions(1);
}

/// Calls `each(keys, depth)` for every size of the tables.
template <class Each>
void for_sizes(Each each) {
  for (const index_t keys : {2048, 8192, 32768}) {
    for (const index_t depth : {64, 128}) each(keys, depth);
  }
}

/// Defined by each benchmark: registers its rows, those of many minutes only if `is_full`.
void add_rows(bool is_full);

}  // namespace kvfit::bench
