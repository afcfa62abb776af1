// SPDX-License-Identifier: MIT
/// A call of MPI that fails: faults.cpp stands between kvfit and MPI, by MPI's profiling interface.
#pragma once

#include <string>

#include "kvfit/parallel/mpi.hpp"
#include "mpi/world.hpp"

namespace kvfit_test {

/// Calls of MPI that succeed before one fails; negative: none fails.
inline int calls_before_failure = -1;

/// Whether the call at hand is to fail. The one after it succeeds again.
inline bool is_call_to_fail() {
  if (calls_before_failure < 0) return false;
  return calls_before_failure-- == 0;
}

/// How many calls of MPI `call()` makes, each of which failed once, on all ranks and with an error
/// of all ranks; −1 where one failed without that.
///
/// call: collective; returns the message of its error, or nothing. As all ranks make the same
/// calls, the same one fails on each, and none waits.
template <class Call>
int calls_that_fail_alone(kvfit::mpi_ranks& ranks, const Call& call) {
  for (int calls = 0;; ++calls) {
    calls_before_failure = calls;
    const std::string told = call();
    const bool has_failed = calls_before_failure < 0;
    calls_before_failure = -1;
    if (on_all(ranks, !has_failed)) return calls;
    if (!on_all(ranks, told.starts_with("communication_failed: MPI_"))) return -1;
  }
}

}  // namespace kvfit_test
