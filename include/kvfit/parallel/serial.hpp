// SPDX-License-Identifier: MIT
/// The specification of an executor: a loop.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// One item after the other, in order, on the calling thread. Every other executor must give the
/// same bytes.
struct serial {
  static constexpr int threads() noexcept { return 1; }

  template <item_body Body>
  void run(index_t count, Body&& body) const noexcept {
    for (index_t i = 0; i < count; ++i) body(i);
  }
};

static_assert(executor<serial> && executor<const serial>);

}  // namespace KVFIT_ISA
}  // namespace kvfit
