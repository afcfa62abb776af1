// SPDX-License-Identifier: MIT
/// What a policy says it holds.
#pragma once

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Bytes of the `declare(workspace&, const P&, const head_sizes&)` beside P; null where there is
/// none.
template <class P, class Isa>
constexpr auto declared_bytes() noexcept -> double (*)(const void*, const head_sizes&) {
  if constexpr (requires(workspace & space, const P& policy, const head_sizes& sizes) {
                  declare(space, policy, sizes);
                }) {
    return [](const void* policy, const head_sizes& sizes) -> double {
      workspace space;
      declare(space, *static_cast<const P*>(policy), sizes);
      return space.most();
    };
  } else {
    return nullptr;
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
