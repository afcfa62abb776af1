// SPDX-License-Identifier: MIT
/// One head through the stages of compact/stages.hpp.
#pragma once

#include <optional>
#include <utility>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/stages.hpp"
#include "kvfit/compact/stopwatch.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Fits values to kept rows and judges them; adds the seconds of both.
inline result<compacted> complete(const stages::problem& of, const stages::targets& full,
                                  stages::refined rows, stopwatch& clock, stage_seconds& seconds) {
  auto fitted = stages::fit_values(of, full, std::move(rows));
  seconds.values += clock.lap();
  if (!fitted) return fitted.error();
  auto judged = stages::judge(of, full, std::move(*fitted));
  seconds.judge += clock.lap();
  return judged;
}

/// Whether a refined result is worse than what refinement started from, on the queries that judge.
inline bool is_worse(const compact_report& report) noexcept {
  const fidelity& start = report.refinement.start;
  const fidelity& now = report.held_out ? *report.held_out : report.train;
  return !(now.output_error <= start.output_error && now.mass_error <= start.mass_error);
}

/// All stages. Keys stay moved only where the finished result judges better: the last fit of values
/// may lose what refinement gained, or not fit the storage.
inline result<compacted> run_stages(const stages::problem& of) {
  stopwatch clock;
  stage_seconds seconds;
  auto full = stages::score(of);
  if (!full) return full.error();
  seconds.score = clock.lap();
  auto chosen = stages::select(of, *full);
  if (!chosen) return chosen.error();
  seconds.select = clock.lap();
  auto rows = stages::weigh(of, *full, std::move(*chosen));
  if (!rows) return rows.error();
  seconds.bias = clock.lap();
  const auto wanted = stages::score_held_out(of, std::move(*full));
  if (!wanted) return wanted.error();
  seconds.judge = clock.lap();
  auto moved = stages::refine(of, *wanted, std::move(*rows));
  if (!moved) return moved.error();
  seconds.refine = clock.lap();
  auto start = std::exchange(moved->start, std::nullopt);
  auto done = complete(of, *wanted, std::move(*moved), clock, seconds);
  const bool gives_way = start && (done ? is_worse(done->report)  //
                                        : done.error().code != errc::cancelled);
  if (gives_way) {
    done = compacted{};  // before the next one is made
    done = complete(of, *wanted, {std::move(*start)}, clock, seconds);
  }
  if (done) done->report.seconds = seconds;
  return done;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
