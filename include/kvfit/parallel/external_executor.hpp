// SPDX-License-Identifier: MIT
/// Runs items on the caller's own threads.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// An executor over a parallel loop that the host program already has.
///
/// `parallel_for(count, body)` must call `body(i)` once for each i in [0, count) and return after
/// the last has ended. It may copy `body`. If bodies are to run loops of their own, it must allow
/// nesting.
///
///     kvfit::external_executor mine{[&](kvfit::index_t count, const auto& body) {
///       tbb::parallel_for(kvfit::index_t{0}, count, body);
///     }};
template <class ParallelFor>
struct external_executor {
  ParallelFor parallel_for;

  template <item_body Body>
  void run(index_t count, Body&& body) {
    if (count > 0) parallel_for(count, body);
  }
};

/// The loop is taken by value.
template <class ParallelFor>
external_executor(ParallelFor) -> external_executor<ParallelFor>;

}  // namespace KVFIT_ISA
}  // namespace kvfit
